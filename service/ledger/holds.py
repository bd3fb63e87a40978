"""Holds as they stand: those by id, and those of an account whose time is over."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from psycopg import Cursor
from psycopg.rows import class_row

from service.database import Connection
from service.ledger import transfers
from service.ledger.records import Hold


def get(connection: Connection, id: str) -> Hold | None:
    """The hold under this id; one that is due is expired, whatever its row still says, and is never captured later.

    A capture on its way may have a time before: closing the hold's last moment waits for it, and bars all others.
    """
    with connection.pipeline():
        clock = connection.execute("SELECT clock_timestamp()")
        found = read(connection, [id])
    (now,) = clock.fetchone() or (None,)
    hold = found.fetchone()
    if hold is None or hold.expires_at is None or at(hold, now) == hold:
        return hold
    transfers.number_at(connection, hold.expires_at - timedelta(microseconds=1))
    (hold,) = read(connection, [id])
    return at(hold, now)


def at(hold: Hold, now: datetime) -> Hold:
    """The hold as it stands at a moment of the database's time."""
    if hold.status == "open" and hold.expires_at and hold.expires_at <= now:
        return replace(hold, status="expired", resolved_at=hold.expires_at)
    return hold


def read(connection: Connection, ids: Collection[str]) -> Cursor[Hold]:
    """The rows of these holds."""
    return connection.cursor(row_factory=class_row(Hold)).execute(
        """
        SELECT id, status, reason, from_account, to_account, amount, currency, expires_at, captured_by,
            declined_account, declined_available, metadata, created_at, created_by, resolved_at
        FROM hold
        WHERE id = ANY(%(ids)s)
        """,
        {"ids": list(ids)},
    )


def due(connection: Connection, accounts: Collection[str]) -> Cursor[Any]:
    """The database's time, and id, account and amount of each hold that is due then: one row at least, of NULLs."""
    return connection.execute(
        """
        SELECT now, id, from_account, amount
        FROM (SELECT clock_timestamp() AS now) AS clock
        LEFT JOIN hold ON from_account = ANY(%(accounts)s) AND status = 'open' AND expires_at <= now
        """,
        {"accounts": list(accounts)},
    )
