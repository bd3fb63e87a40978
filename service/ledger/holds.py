"""Reading holds."""

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from psycopg.rows import dict_row, kwargs_row
from psycopg.sql import SQL

from service.ledger import clock, pages
from service.ledger.types import Hold, build, copy_with
from service.session import Connection, Statement

# Every column of a hold except created_at and resolved_at, which a posting sets to its own time.
COLUMNS = SQL(
    "id, status, reason, from_account, to_account, amount, currency, expires_at, captured_by, "
    "declined_account, declined_available, reference, metadata, created_by"
)
_ALL_COLUMNS = SQL("created_at, resolved_at, {columns}").format(columns=COLUMNS)
_SELECT = SQL("SELECT {columns} FROM hold WHERE id = ANY(%(ids)s)").format(columns=_ALL_COLUMNS)
# `expired_until` has the same meaning as for an account. A row without a hold shows it if the page is empty.
_OPEN = pages.end_at_page_bytes(
    SQL(
        """
        SELECT CASE WHEN expired_until > last_at THEN expired_until END AS expired_until, listed.*
        FROM ({journal}) AS clock
        CROSS JOIN LATERAL (
            SELECT max(expires_at) AS expired_until
            FROM hold
            WHERE from_account = %(account)s AND status = 'open' AND expires_at <= now
        ) AS expired
        LEFT JOIN LATERAL (
            SELECT {columns}
            FROM hold
            WHERE from_account = %(account)s AND status = 'open' AND id > %(after)s
                AND (expires_at IS NULL OR expires_at > now)
            ORDER BY id
            LIMIT %(limit)s
        ) AS listed ON true
        """
    ).format(journal=clock.JOURNAL_NOW, columns=_ALL_COLUMNS),
    columns=SQL("expired_until, {columns}").format(columns=_ALL_COLUMNS),
    order=SQL("id"),
    json=SQL("metadata::text"),
).as_bytes()


def get_and_advance_time(connection: Connection, id: str) -> Hold | None:
    """The hold with this id, or None.

    If it has expired and its row is still open, this advances the ledger's time to `expires_at`. That waits for a
    capture that got an earlier time, and no later capture can succeed. So a hold that was shown as expired stays so.
    """
    [times], found = connection.fetch_together(clock.read([]), select([id]))
    hold: Hold | None = next(iter(found), None)
    if hold is None or hold.status != "open" or hold.expires_at is None or hold.expires_at > times.now:
        return hold
    clock.advance_past_expiry(connection, hold.expires_at)
    [[hold]] = connection.fetch_together(select([id]))
    return copy_with(hold, status="expired", resolved_at=hold.expires_at) if hold.status == "open" else hold


def select(ids: Collection[str]) -> Statement:
    """The rows of these holds."""
    return Statement(_SELECT, {"ids": list(ids)}, kwargs_row(partial(build, Hold)))


def list_open_and_advance_time(connection: Connection, account: str, *, after: str, limit: int) -> list[Hold]:
    """The open holds from the account with ids greater than `after`, by id, without expired ones.

    Fewer than `limit` if their page is full. If an open hold of the account has expired, advances the ledger's time.
    """
    parameters = {"account": account, "after": after, "limit": limit}
    return clock.read_without_expired_holds(connection, partial(_select_open, connection, parameters))


def _select_open(
    connection: Connection, parameters: Mapping[str, Any], as_of_last_at: bool
) -> tuple[list[Hold], datetime | None]:
    """The holds of the page, and `expired_until`, which is equal in all rows."""
    cursor = connection.cursor(row_factory=dict_row)
    rows = cursor.execute(_OPEN, {**parameters, "as_of_last_at": as_of_last_at}).fetchall()
    expired_until = [row.pop("expired_until") for row in rows]
    return [build(Hold, **row) for row in rows if row["id"] is not None], expired_until[0]
