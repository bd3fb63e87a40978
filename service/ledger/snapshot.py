"""The books of one moment, read whole. Rows come in portions, so that memory does not grow with their number."""

from collections.abc import Iterator
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

from service.ledger.accounts import Account
from service.ledger.records import Transfer

PORTION_ROWS = 1000


def begin(connection: Connection[Any]) -> None:
    """Let the reads below see the books of this moment, and take their time, until the connection is closed."""
    connection.execute(
        """
        BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
        SET LOCAL statement_timeout = 0;
        SET LOCAL idle_in_transaction_session_timeout = 0
        """
    )


def accounts(connection: Connection[Any]) -> Iterator[Account]:
    """All accounts, by id."""
    with connection.cursor("accounts", row_factory=class_row(Account)) as cursor:
        cursor.itersize = PORTION_ROWS
        yield from cursor.execute(
            """
            SELECT id, currency, min_balance, balance, held, status, metadata, created_at, created_by
            FROM account
            ORDER BY id
            """
        )


def transfers(connection: Connection[Any]) -> Iterator[Transfer]:
    """The posted transfers, by number."""
    with connection.cursor("transfers", row_factory=class_row(Transfer)) as cursor:
        cursor.itersize = PORTION_ROWS
        yield from cursor.execute(
            """
            SELECT id, number, from_account, to_account, amount, currency, from_balance, to_balance, captures, reverses,
                metadata, created_at, created_by
            FROM transfer
            WHERE number IS NOT NULL
            ORDER BY number
            """
        )
