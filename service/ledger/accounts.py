"""Accounts: opening them and looking at them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from service.database import Connection
from service.ledger.errors import Refusal


@dataclass(frozen=True)
class Account:
    """One row of the table account. Money is in the currency's smallest unit."""

    id: str
    currency: str
    min_balance: int | None  # None: no floor
    balance: int
    held: int
    status: str
    metadata: Mapping[str, str]
    created_at: datetime
    created_by: str

    @property
    def available(self) -> int:
        return self.balance - self.held


def open(
    connection: Connection, id: str, *, currency: str, min_balance: int | None, metadata: Mapping[str, str], caller: str
) -> tuple[Account, bool]:
    """Open the account, or find it as it was opened before. Returns it and whether it is new.

    Safe to repeat. Raises Refusal `id-conflict` when the id stands for an account with other content.
    """
    row = connection.execute_and_commit(
        """
        BEGIN;
        INSERT INTO account (id, currency, min_balance, metadata, created_by)
        VALUES (%(id)s, %(currency)s, %(min_balance)s, %(metadata)s, %(caller)s)
        ON CONFLICT (id) DO NOTHING
        RETURNING id;
        COMMIT
        """,
        {
            "id": id,
            "currency": currency,
            "min_balance": min_balance,
            "metadata": json.dumps(metadata),
            "caller": caller,
        },
    )
    account = get(connection, id)
    if account is None:
        raise AssertionError(f"bug: {id} was opened and is not there")
    asked = {"currency": currency, "min_balance": min_balance, "metadata": metadata}
    if differs := [member for member, value in asked.items() if getattr(account, member) != value]:
        raise Refusal("id-conflict", f"{id} was opened before with other content.", differs=differs)
    return account, row is not None


def get(connection: Connection, id: str) -> Account | None:
    """The account under this id."""
    return (
        connection.cursor(row_factory=class_row(Account))
        .execute(
            """
            SELECT id, currency, min_balance, balance, held, status, metadata, created_at, created_by
            FROM account
            WHERE id = %(id)s
            """,
            {"id": id},
        )
        .fetchone()
    )
