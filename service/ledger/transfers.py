"""Reading transfers: by id, by number, and as the entries of one account."""

from collections.abc import Collection
from datetime import datetime
from functools import partial
from typing import Any

from psycopg.rows import class_row, kwargs_row
from psycopg.sql import SQL

from service.contract import LIMITS
from service.ledger import clock, pages
from service.ledger.types import Entry, PastBalance, Transfer, build
from service.session import Connection, Statement

# Every column of a transfer except number and created_at, which a posting takes from the journal row.
COLUMNS = SQL(
    "id, status, reason, from_account, to_account, amount, currency, from_balance, to_balance, "
    "declined_account, declined_available, captures, reverses, takes_rest, reference, has_own_reference, "
    "reversed_total, metadata, created_by"
)
_ALL_COLUMNS = SQL("number, created_at, {columns}").format(columns=COLUMNS)
_SELECT = SQL("SELECT {columns} FROM transfer ").format(columns=_ALL_COLUMNS)
_BY_IDS = (_SELECT + SQL("WHERE id = ANY(%(ids)s)")).as_bytes()


def _select_page(condition: SQL) -> bytes:
    """The statement that selects a page of posted transfers, by number."""
    return pages.end_at_page_bytes(
        SQL("{select} WHERE {condition} AND number > %(after)s ORDER BY number LIMIT %(limit)s").format(
            select=_SELECT, condition=condition
        ),
        columns=_ALL_COLUMNS,
        order=SQL("number"),
        json=SQL("metadata::text"),
    ).as_bytes()


_AFTER = _select_page(SQL("true"))
_WITH_REFERENCE = _select_page(SQL("reference = %(reference)s"))


def get(connection: Connection, id: str) -> Transfer | None:
    """The transfer with this id, posted or declined, or None."""
    [found] = connection.fetch_together(select([id]))
    return next(iter(found), None)


def select(ids: Collection[str]) -> Statement:
    """The rows of these transfers, posted or declined."""
    return Statement(_BY_IDS, {"ids": list(ids)}, kwargs_row(partial(build, Transfer)))


def sum_reversals(ids: Collection[str]) -> Statement:
    """The id of each of these transfers, and the sum of its posted reversals.

    It is the reversed_total of the last reversal. A release before migration 0010 writes none: after its reversals, all
    are added. The sum over all reversals took 50 ms with 200,000 reversals of one transfer.
    """
    # Posted reversals are found by the order of the index transfer_reversals. With `reverses = reversed.id`, PostgreSQL
    # read all reversals, or all later transfers, if its statistics were those of the release before. Each id is used
    # once, and declined reversals are not read. Otherwise a batch of 1,000 reversals of one transfer took 3 s if the
    # transfer had 12,000 declined ones.
    return Statement(
        """
        SELECT reversed.id, coalesce(
            last_reversal.reversed_total,
            (
                SELECT sum(amount)::bigint
                FROM transfer
                WHERE reverses IS NOT NULL
                    AND (reverses, number) BETWEEN (reversed.id, 1) AND (reversed.id, %(highest_number)s)
            ),
            0
        )
        FROM unnest(%(ids)s::text[]) AS reversed (id)
        LEFT JOIN LATERAL (
            SELECT reverses, reversed_total
            FROM transfer
            WHERE reverses IS NOT NULL AND (reverses, number) <= (reversed.id, %(highest_number)s)
            ORDER BY reverses DESC, number DESC
            LIMIT 1
        ) AS last_reversal ON last_reversal.reverses = reversed.id
        """,
        {"ids": list(set(ids)), "highest_number": LIMITS.amount_max},
    )


def list_after(connection: Connection, *, after: int, limit: int, reference: str = "") -> list[Transfer]:
    """The posted transfers with number > `after`, by number. Fewer than `limit` if their page is full.

    With `reference`, only those that have it.
    """
    cursor = connection.cursor(row_factory=kwargs_row(partial(build, Transfer)))
    statement = _WITH_REFERENCE if reference else _AFTER
    return cursor.execute(statement, {"after": after, "limit": limit, "reference": reference}).fetchall()


def last_number(connection: Connection) -> int:
    """The number of the newest posted transfer; 0 if there is none."""
    row = connection.execute("SELECT last_number FROM journal").fetchone()
    if row is None:
        raise AssertionError("bug: the journal row is missing")
    return int(row[0])


# Each half reads its index in order and has a limit of its own: with one limit around both, PostgreSQL 18 reads and
# sorts all entries of the account. The times become numbers, because created_at never decreases from one number to the
# next. greatest() and least() ignore NULL: no such transfer, or no such parameter. If the ledger's time has not reached
# `until`, the result has no row. Without an entry, it has one row of NULL.
_ENTRIES = SQL(
    """
    SELECT entry.*
    FROM (
        SELECT
            greatest(%(after)s, (
                SELECT number
                FROM transfer
                WHERE created_at < %(earliest)s AND number IS NOT NULL
                ORDER BY created_at DESC, number DESC
                LIMIT 1
            )) AS after,
            least(%(before)s, (
                SELECT number
                FROM transfer
                WHERE created_at >= %(until)s AND number IS NOT NULL
                ORDER BY created_at, number
                LIMIT 1
            )) AS before
        WHERE %(until)s::timestamptz IS NULL OR EXISTS (SELECT FROM journal WHERE last_at >= %(until)s)
    ) AS bounds
    LEFT JOIN LATERAL (
        (
            SELECT number, id AS transfer, -amount AS amount, from_balance AS balance, to_account AS counterparty,
                created_at
            FROM transfer
            WHERE from_account = %(account)s AND number > bounds.after AND number < bounds.before
            ORDER BY number {direction}
            LIMIT %(limit)s
        )
        UNION ALL
        (
            SELECT number, id, amount, to_balance, from_account, created_at
            FROM transfer
            WHERE to_account = %(account)s AND number > bounds.after AND number < bounds.before
            ORDER BY number {direction}
            LIMIT %(limit)s
        )
        ORDER BY number {direction}
        LIMIT %(limit)s
    ) AS entry ON true
    ORDER BY number {direction}
    """
)
_OLDEST_ENTRIES = _ENTRIES.format(direction=SQL("ASC")).as_bytes()
_NEWEST_ENTRIES = _ENTRIES.format(direction=SQL("DESC")).as_bytes()


def list_entries(
    connection: Connection,
    account: str,
    *,
    after: int,
    before: int,
    earliest: datetime | None,
    until: datetime | None,
    newest_first: bool,
    limit: int,
) -> list[Entry] | None:
    """The account's entries with after < number < before and earliest <= time < until, oldest or newest first.

    None if the ledger's time has not reached `until`: a transfer may still get an earlier time.
    """
    cursor = connection.cursor(row_factory=kwargs_row(partial(build, Entry)))
    statement = _NEWEST_ENTRIES if newest_first else _OLDEST_ENTRIES
    parameters = {"account": account, "after": after, "before": before, "earliest": earliest, "until": until}
    rows = cursor.execute(statement, {**parameters, "limit": limit}).fetchall()
    return [entry for entry in rows if entry.number is not None] if rows else None


def balance_after(connection: Connection, account: str, number: int) -> PastBalance | None:
    """The account's balance after the transfer with this number; None if no transfer has the number yet."""
    posted = SQL("SELECT %(number)s::bigint AS number FROM journal WHERE last_number >= %(number)s")
    return _select_balance(connection, posted, {"account": account, "number": number})


def balance_at(connection: Connection, account: str, at: datetime) -> PastBalance | None:
    """The account's balance at this time; None unless the ledger's time is past it."""
    return _select_balance(connection, clock.final_number(), {"account": account, "at": at})


def _select_balance(connection: Connection, number: SQL, parameters: dict[str, Any]) -> PastBalance | None:
    """The account's balance after the transfer whose number the statement `number` selects; None if it has no row."""
    statement = SQL(
        """
        SELECT asked.number, entry.balance
        FROM ({number}) AS asked
        LEFT JOIN LATERAL (
            (
                SELECT number, from_balance AS balance
                FROM transfer
                WHERE from_account = %(account)s AND number <= asked.number
                ORDER BY number DESC
                LIMIT 1
            )
            UNION ALL
            (
                SELECT number, to_balance
                FROM transfer
                WHERE to_account = %(account)s AND number <= asked.number
                ORDER BY number DESC
                LIMIT 1
            )
            ORDER BY number DESC
            LIMIT 1
        ) AS entry ON true
        """
    ).format(number=number)
    return connection.cursor(row_factory=class_row(PastBalance)).execute(statement, parameters).fetchone()
