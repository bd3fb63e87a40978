"""Accounts: opening them, looking at them, changing their limits."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from service.database import Connection
from service.ledger import holds
from service.ledger.errors import Refusal
from service.ledger.records import AccountState


@dataclass(frozen=True)
class Account(AccountState):
    """One row of the table account. Money is in the currency's smallest unit."""

    metadata: Mapping[str, str]
    created_at: datetime
    created_by: str


@dataclass(frozen=True)
class Change:
    """One row of the table account_change: the changed members as they were and as they became."""

    change: int
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    changed_at: datetime
    changed_by: str


def open(connection: Connection, id: str, members: Mapping[str, Any], caller: str) -> tuple[Account, bool]:
    """Open the account with currency, min_balance and metadata, or find it as it was opened before.

    Returns it and whether it is new. Safe to repeat. Raises Refusal `id-conflict` when the id stands for an account
    with other content.
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
        {"id": id, **members, "metadata": json.dumps(members["metadata"]), "caller": caller},
    )
    account = get(connection, id)
    if account is None:
        raise AssertionError(f"bug: {id} was opened and is not there")
    opened = vars(account) | _before_changes(connection, id)
    if differs := [member for member, value in members.items() if opened[member] != value]:
        raise Refusal("id-conflict", f"{id} was opened before with other content.", differs=differs)
    return account, row is not None


def _before_changes(connection: Connection, id: str) -> dict[str, Any]:
    """The members that were changed since the account was opened, as they were then."""
    return dict(
        connection.execute(
            """
            SELECT DISTINCT ON (member) member, value
            FROM account_change
            CROSS JOIN jsonb_each(before) AS changed (member, value)
            WHERE account = %(id)s
            ORDER BY member, change
            """,
            {"id": id},
        ).fetchall()
    )


def get(connection: Connection, id: str) -> Account | None:
    """The account under this id. What holds that are due set aside is free already."""
    found = page(connection, prefix=id, after="", limit=1)  # its own id is the first that begins with it
    return found[0] if found and found[0].id == id else None


def page(connection: Connection, *, prefix: str, after: str, limit: int) -> list[Account]:
    """The accounts whose ids begin with `prefix` and follow `after`, by id."""
    cursor = connection.cursor(row_factory=class_row(Account))
    return cursor.execute(
        """
        SELECT id, currency, min_balance, balance, status, metadata, created_at, created_by, held - coalesce((
            SELECT sum(amount)
            FROM hold
            WHERE from_account = account.id AND hold.status = 'open' AND expires_at <= now
        ), 0)::bigint AS held
        FROM account
        CROSS JOIN (SELECT greatest(clock_timestamp(), last_at) AS now FROM journal) AS clock
        WHERE id > %(after)s AND id >= %(prefix)s AND id < %(prefix)s || chr(127)  -- which no id holds
        ORDER BY id
        LIMIT %(limit)s
        """,
        {"prefix": prefix, "after": after, "limit": limit},
    ).fetchall()


def change(connection: Connection, id: str, members: Mapping[str, Any], caller: str) -> Account | None:
    """Change min_balance, status or metadata, and record who did it. None if there is no such account.

    Safe to repeat: what is as asked already is no change. Raises Refusal `insufficient-funds` for a floor that is
    above what is available, and `account-not-empty` for the closing of an account with a balance or a hold.
    """
    account = _lock(connection, id)
    if account is None:
        return None
    changed = replace(account, **members)
    before = {member: getattr(account, member) for member in members if members[member] != getattr(account, member)}
    if changed.min_balance is not None and changed.available < changed.min_balance:
        detail = f"{id} has {changed.available} available, which is below the min_balance that is asked."
        raise Refusal("insufficient-funds", detail, account=id, available=changed.available)
    if changed.status == "closed" and (changed.balance or changed.held):
        raise Refusal("account-not-empty", f"{id} has a balance or open holds.", account=id)
    if before:
        after = {member: members[member] for member in before}
        connection.execute_and_commit(
            """
            UPDATE account
            SET min_balance = %(min_balance)s, status = %(status)s, metadata = %(metadata)s
            WHERE id = %(id)s;
            INSERT INTO account_change (account, before, after, changed_by)
            VALUES (%(id)s, %(before)s, %(after)s, %(caller)s);
            COMMIT
            """,
            vars(changed)
            | {"metadata": json.dumps(changed.metadata), "caller": caller}
            | {"before": json.dumps(before), "after": json.dumps(after)},
        )
    return changed


def _lock(connection: Connection, id: str) -> Account | None:
    """The account, locked, after its holds that are due were written off."""
    are_due = True
    while are_due:
        with connection.pipeline():
            connection.execute("BEGIN")
            locked = connection.cursor(row_factory=class_row(Account)).execute(
                """
                SELECT id, currency, min_balance, balance, held, status, metadata, created_at, created_by
                FROM account
                WHERE id = %(id)s
                FOR NO KEY UPDATE
                """,
                {"id": id},
            )
            clock = holds.due(connection, [id])
        [(now, are_due)] = clock
        if are_due:
            holds.expire(connection, [id], now)
    return locked.fetchone()


def changes(connection: Connection, id: str, *, after: int, limit: int) -> list[Change]:
    """What was changed of the account after the change with this number, oldest first."""
    cursor = connection.cursor(row_factory=class_row(Change))
    return cursor.execute(
        """
        SELECT change, before, after, changed_at, changed_by
        FROM account_change
        WHERE account = %(id)s AND change > %(after)s
        ORDER BY change
        LIMIT %(limit)s
        """,
        {"id": id, "after": after, "limit": limit},
    ).fetchall()
