"""Reading transfers back: by id, the feed, an account's statement, and its balance in the past."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Cursor
from psycopg.rows import TupleRow, class_row
from psycopg.sql import SQL

from service.database import Connection
from service.ledger.records import Transfer


@dataclass(frozen=True)
class Entry:
    """One account's view of one posted transfer: the signed amount and the balance after it."""

    number: int
    transfer: str
    amount: int
    balance: int
    counterparty: str
    created_at: datetime


def get(connection: Connection, id: str) -> Transfer | None:
    """The transfer under this id, posted or declined."""
    return read(connection, [id]).fetchone()


def read(connection: Connection, ids: Sequence[str]) -> Cursor[Transfer]:
    """The rows of these transfers, posted or declined."""
    return connection.cursor(row_factory=class_row(Transfer)).execute(
        """
        SELECT id, number, status, reason, from_account, to_account, amount, currency, from_balance, to_balance,
            declined_account, declined_available, captures, reverses, takes_rest, metadata, created_at, created_by
        FROM transfer
        WHERE id = ANY(%(ids)s)
        """,
        {"ids": ids},
    )


def given_back(connection: Connection, ids: Sequence[str]) -> Cursor[TupleRow]:
    """The id and the sum of the reversals of each of these transfers that has any."""
    return connection.execute(
        """
        SELECT reverses, sum(amount)::bigint
        FROM transfer
        WHERE reverses = ANY(%(ids)s) AND status = 'posted'
        GROUP BY reverses
        """,
        {"ids": ids},
    )


def read_on(connection: Connection, *, after: int, limit: int) -> list[Transfer]:
    """The posted transfers whose numbers follow `after`, in the order of their numbers."""
    cursor = connection.cursor(row_factory=class_row(Transfer))
    return cursor.execute(
        """
        SELECT id, number, status, reason, from_account, to_account, amount, currency, from_balance, to_balance,
            declined_account, declined_available, captures, reverses, takes_rest, metadata, created_at, created_by
        FROM transfer
        WHERE number > %(after)s
        ORDER BY number
        LIMIT %(limit)s
        """,
        {"after": after, "limit": limit},
    ).fetchall()


def entries(
    connection: Connection, account: str, *, after: int, before: int, newest_first: bool, limit: int
) -> list[Entry]:
    """The account's entries with after < number < before, oldest or newest first.

    Each half reads its index in order and stops at a limit of its own: with one limit around both, PostgreSQL 18 reads
    and sorts all entries of the account.
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
    cursor = connection.cursor(row_factory=class_row(Entry))
    return cursor.execute(statement, {"account": account, "after": after, "before": before, "limit": limit}).fetchall()


def last_number(connection: Connection) -> int:
    """The number of the newest posted transfer; 0 before the first."""
    (number,) = connection.execute("SELECT last_number FROM journal").fetchone() or (0,)
    return int(number)


def number_at(connection: Connection, at: datetime) -> int | None:
    """The last number up to a moment, for ever the same; None while the moment is still to come.

    A moment behind the newest transfer is closed by the question: no posting gets a time up to it any more, also none
    that is on its way. Postings that wait for the journal row see its new time.
    """
    closed = connection.execute(
        """
        UPDATE journal
        SET last_at = %(at)s + interval '1 microsecond'
        WHERE only_row AND last_at <= %(at)s AND %(at)s < clock_timestamp()
        RETURNING last_number
        """,
        {"at": at},
    ).fetchone()
    if closed:
        return int(closed[0])
    row = connection.execute(
        """
        SELECT coalesce(number, 0)
        FROM journal
        LEFT JOIN LATERAL (
            SELECT number
            FROM transfer
            WHERE created_at <= %(at)s AND number IS NOT NULL
            ORDER BY created_at DESC, number DESC
            LIMIT 1
        ) AS newest ON true
        WHERE last_at > %(at)s
        """,
        {"at": at},
    ).fetchone()
    return int(row[0]) if row else None
