"""Reading holds."""

from collections.abc import Collection
from functools import partial

from psycopg.rows import kwargs_row
from psycopg.sql import SQL

from service.ledger import clock
from service.ledger.types import Hold, build, copy_with
from service.session import Connection, Statement

# Every column of a hold except created_at and resolved_at, which a posting sets to its own time.
COLUMNS = SQL(
    "id, status, reason, from_account, to_account, amount, currency, expires_at, captured_by, "
    "declined_account, declined_available, reference, metadata, created_by"
)
_SELECT = SQL("SELECT created_at, resolved_at, {columns} FROM hold WHERE id = ANY(%(ids)s)").format(columns=COLUMNS)


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
