"""Reading transfers: by id, by number, and as the entries of one account."""

from collections.abc import Collection
from functools import partial

from psycopg import Cursor
from psycopg.rows import TupleRow, kwargs_row
from psycopg.sql import SQL

from service.database import Connection
from service.ledger.types import Entry, Transfer, build

# Every column of a transfer except number and created_at, which a posting takes from the journal row.
COLUMNS = SQL(
    "id, status, reason, from_account, to_account, amount, currency, from_balance, to_balance, "
    "declined_account, declined_available, captures, reverses, takes_rest, metadata, created_by"
)
_SELECT = SQL("SELECT number, created_at, {columns} FROM transfer ").format(columns=COLUMNS)


def get(connection: Connection, id: str) -> Transfer | None:
    """The transfer with this id, posted or declined, or None."""
    return select(connection, [id]).fetchone()


def select(connection: Connection, ids: Collection[str]) -> Cursor[Transfer]:
    """The rows of these transfers, posted or declined."""
    return connection.cursor(row_factory=kwargs_row(partial(build, Transfer))).execute(
        _SELECT + SQL("WHERE id = ANY(%(ids)s)"), {"ids": list(ids)}
    )


def sum_reversals(connection: Connection, ids: Collection[str]) -> Cursor[TupleRow]:
    """The id of each of these transfers that has posted reversals, and their sum."""
    return connection.execute(
        """
        SELECT reverses, sum(amount)::bigint
        FROM transfer
        WHERE reverses = ANY(%(ids)s) AND status = 'posted'
        GROUP BY reverses
        """,
        {"ids": list(ids)},
    )


def list_after(connection: Connection, *, after: int, limit: int) -> list[Transfer]:
    """The posted transfers with number > `after`, by number."""
    cursor = connection.cursor(row_factory=kwargs_row(partial(build, Transfer)))
    statement = _SELECT + SQL("WHERE number > %(after)s ORDER BY number LIMIT %(limit)s")
    return cursor.execute(statement, {"after": after, "limit": limit}).fetchall()


def list_entries(
    connection: Connection, account: str, *, after: int, before: int, newest_first: bool, limit: int
) -> list[Entry]:
    """The account's entries with after < number < before, oldest or newest first.

    Each half reads its index in order and has a limit of its own: with one limit around both, PostgreSQL 18 reads and
    sorts all entries of the account.
    """
    statement = SQL(
        """
        (
            SELECT number, id AS transfer, -amount AS amount, from_balance AS balance, to_account AS counterparty,
                created_at
            FROM transfer
            WHERE from_account = %(account)s AND number > %(after)s AND number < %(before)s
            ORDER BY number {direction}
            LIMIT %(limit)s
        )
        UNION ALL
        (
            SELECT number, id, amount, to_balance, from_account, created_at
            FROM transfer
            WHERE to_account = %(account)s AND number > %(after)s AND number < %(before)s
            ORDER BY number {direction}
            LIMIT %(limit)s
        )
        ORDER BY number {direction}
        LIMIT %(limit)s
        """
    ).format(direction=SQL("DESC" if newest_first else "ASC"))
    cursor = connection.cursor(row_factory=kwargs_row(partial(build, Entry)))
    return cursor.execute(statement, {"account": account, "after": after, "before": before, "limit": limit}).fetchall()


def balance_after(connection: Connection, account: str, number: int) -> int:
    """The account's balance after the transfer with this number; 0 before its first transfer."""
    entries = list_entries(connection, account, after=0, before=number + 1, newest_first=True, limit=1)
    return entries[0].balance if entries else 0
