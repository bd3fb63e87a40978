"""Holds: looking at one, and writing off those whose time is over."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from psycopg import Cursor
from psycopg.rows import class_row

from service.database import Connection
from service.ledger import transfers
from service.ledger.records import Hold

# Any number of holds may be due at once on an account that was quiet. So many take about 50 ms (bench/due.py); each
# commit stays, so that no try is in vain. 500,000 in the commit of a posting ended at each deadline for ever.
EXPIRED_AT_ONCE = 5000


def get(connection: Connection, id: str) -> Hold | None:
    """The hold under this id; one that is due is expired, whatever its row still says, and is never captured later.

    A capture on its way may have a time before: closing the hold's last moment waits for it, and bars all others.
    """
    with connection.pipeline():
        clock = due(connection, [])
        found = read(connection, [id])
    [(now, _)] = clock
    hold = found.fetchone()
    if hold is None or hold.status != "open" or hold.expires_at is None or hold.expires_at > now:
        return hold
    transfers.number_at(connection, hold.expires_at - timedelta(microseconds=1))
    (hold,) = read(connection, [id])
    return replace(hold, status="expired", resolved_at=hold.expires_at) if hold.status == "open" else hold


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
    """The ledger's time, which is never behind the journal's, and whether a hold of these accounts is due then."""
    return connection.execute(
        """
        SELECT now, EXISTS (
            SELECT FROM hold WHERE from_account = ANY(%(accounts)s) AND status = 'open' AND expires_at <= now
        )
        FROM (SELECT greatest(clock_timestamp(), last_at) AS now FROM journal) AS clock
        """,
        {"accounts": list(accounts)},
    )


def expire(connection: Connection, accounts: Collection[str], now: datetime) -> None:
    """Write off holds of these accounts, which are locked, that are due now, and commit: at most EXPIRED_AT_ONCE."""
    try:
        connection.execute_and_commit(
            """
            WITH expired AS (
                UPDATE hold
                SET status = 'expired', resolved_at = expires_at
                WHERE id IN (
                    SELECT id
                    FROM hold
                    WHERE from_account = ANY(%(accounts)s) AND status = 'open' AND expires_at <= %(now)s
                    LIMIT %(most)s
                )
                RETURNING from_account, amount
            )
            UPDATE account
            SET held = held - freed.amount
            FROM (SELECT from_account, sum(amount) AS amount FROM expired GROUP BY from_account) AS freed
            WHERE id = from_account;
            COMMIT
            """,
            {"accounts": list(accounts), "now": now, "most": EXPIRED_AT_ONCE},
        )
    finally:
        connection.commit_sent = False  # whatever became of it, nothing of what the caller asked is on its way
