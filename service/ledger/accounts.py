"""Accounts: locking, reading and changing them. A posting opens them."""

import json
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row, kwargs_row
from psycopg.sql import SQL

from service.errors import Refusal
from service.ledger import clock, pages, replication
from service.ledger.types import Account, AccountChange, AccountState, build, copy_with
from service.session import BEGIN, ROLLBACK, Connection, Statement

# How long one transaction keeps an account locked until postings on it wait apart. A group keeps its accounts locked
# for a shorter time. Without this, an account that many groups use, one after the other, would count as locked.
LOCKED_SECONDS = 0.02
# Without held, which depends on the time.
_STATE_COLUMNS = SQL("id, currency, min_balance, max_balance, balance, status")
_COLUMNS = SQL("{state}, metadata, created_at, created_by").format(state=_STATE_COLUMNS)
# Every column of an account except created_at, which a posting takes from the journal row.
COLUMNS = SQL("{state}, held, metadata, created_by").format(state=_STATE_COLUMNS)

# `expired_until` is the latest `expires_at` of the account's open holds that have expired, unless the journal's time is
# past it: then no capture of these holds can be in progress.
_SELECT = SQL(
    """
    SELECT {columns}, held - coalesce(expired.amount, 0) AS held,
        CASE WHEN expired_until > last_at THEN expired_until END AS expired_until
    FROM ({journal}) AS clock
    CROSS JOIN account
    LEFT JOIN LATERAL (
        SELECT sum(amount)::bigint AS amount, max(expires_at) AS expired_until
        FROM hold
        WHERE from_account = account.id AND hold.status = 'open' AND expires_at <= now
    ) AS expired ON true
    """
).format(columns=_COLUMNS, journal=clock.JOURNAL_NOW)
# As bytes, because psycopg would put the parts together for each call: 6 of 215 microseconds for a GET of an account.
_GET = (_SELECT + SQL("WHERE id = %(id)s")).as_bytes()
_LIST = pages.end_at_page_bytes(
    _SELECT
    + SQL(  # no id contains chr(127)
        "WHERE id > %(after)s AND id >= %(prefix)s AND id < %(prefix)s || chr(127) ORDER BY id LIMIT %(limit)s"
    ),
    columns=SQL("{columns}, held, expired_until").format(columns=_COLUMNS),
    order=SQL("id"),
    json=SQL("metadata::text"),
).as_bytes()
_CHANGES = pages.end_at_page_bytes(
    SQL(
        """
        SELECT change, before, after, changed_at, changed_by
        FROM account_change
        WHERE account = %(id)s AND change > %(after)s
        ORDER BY change
        LIMIT %(limit)s
        """
    ),
    columns=SQL("change, before, after, changed_at, changed_by"),
    order=SQL("change"),
    json=SQL("concat(before, after)"),
).as_bytes()
_SELECT_WITH_FIRST_VALUES = SQL(
    """
    SELECT held, {columns}, (
        SELECT coalesce(jsonb_object_agg(member, value), '{{}}')
        FROM (
            SELECT DISTINCT ON (member) member, value
            FROM account_change
            CROSS JOIN jsonb_each(before) AS changed (member, value)
            WHERE account = account.id
            ORDER BY member, change
        ) AS first_change
    ) AS first_values
    FROM account
    WHERE id = ANY(%(ids)s)
    """
).format(columns=_COLUMNS)
_LOCK = SQL("SELECT held, {state} FROM account WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE").format(
    state=_STATE_COLUMNS
)


def lock(ids: Collection[str]) -> Statement:
    """Lock the accounts in the order of their ids, so that two transactions cannot wait for each other."""
    return Statement(_LOCK, {"ids": list(ids)}, kwargs_row(partial(build, AccountState)))


def limit_waits(milliseconds: int) -> Statement:
    """Limit each wait of this transaction for a lock."""
    return Statement("SELECT set_config('lock_timeout', %(timeout)s, true)", {"timeout": f"{milliseconds}ms"})


def find_locked(connection: Connection, ids: Collection[str]) -> frozenset[str]:
    """Those of the accounts that one other transaction keeps locked for LOCKED_SECONDS from now."""
    before = _find_lockers(connection, ids)
    if not before:
        return frozenset()
    time.sleep(LOCKED_SECONDS)
    after = _find_lockers(connection, before)
    return frozenset(id for id, locker in after.items() if locker == before[id])


def _find_lockers(connection: Connection, ids: Collection[str]) -> dict[str, str]:
    """Those of the accounts that another transaction has locked, with its id: `xmax` of the row."""
    find = Statement(
        """
        WITH free AS MATERIALIZED (
            SELECT id FROM account WHERE id = ANY(%(ids)s) FOR NO KEY UPDATE SKIP LOCKED
        )
        SELECT id, xmax::text FROM account WHERE id = ANY(%(ids)s) AND id NOT IN (SELECT id FROM free)
        """,
        {"ids": list(ids)},
    )
    _, found, _ = connection.fetch_together(BEGIN, find, ROLLBACK)
    return dict(found)


def select_with_first_values(ids: Collection[str]) -> Statement:
    """The rows of these accounts, each with the members that were changed and their values at its opening.

    For locked accounts without expired holds: `held` is the amount that is stored.
    """
    return Statement(_SELECT_WITH_FIRST_VALUES, {"ids": list(ids)}, kwargs_row(_build_with_first_values))


def _build_with_first_values(*, first_values: dict[str, Any], **columns: Any) -> tuple[Account, dict[str, Any]]:
    return build(Account, **columns), first_values


def exists(connection: Connection, id: str) -> bool:
    """Whether an account with this id was opened."""
    return connection.execute("SELECT FROM account WHERE id = %(id)s", {"id": id}).fetchone() is not None


def get_and_advance_time(connection: Connection, id: str) -> Account | None:
    """The account with this id, or None. If one of its open holds has expired, advances the ledger's time."""
    found = _select_and_advance_time(connection, _GET, {"id": id})
    return found[0] if found else None


def list_and_advance_time(connection: Connection, *, prefix: str, after: str, limit: int) -> list[Account]:
    """As `list_by_id`. If an open hold of these accounts has expired, advances the ledger's time."""
    return _select_and_advance_time(connection, _LIST, {"prefix": prefix, "after": after, "limit": limit})


def list_by_id(connection: Connection, *, prefix: str, after: str, limit: int) -> list[Account]:
    """The accounts whose ids start with `prefix` and are greater than `after`, by id. Fewer than `limit` if their page
    is full. For a read-only snapshot.
    """
    accounts, _ = select(connection, _LIST, {"prefix": prefix, "after": after, "limit": limit}, as_of_last_at=False)
    return accounts


def _select_and_advance_time(connection: Connection, statement: bytes, parameters: dict[str, Any]) -> list[Account]:
    """The accounts without expired holds."""
    return clock.read_without_expired_holds(
        connection, lambda as_of_last_at: select(connection, statement, parameters, as_of_last_at)
    )


def select(
    connection: Connection, statement: bytes, parameters: dict[str, Any], as_of_last_at: bool
) -> tuple[list[Account], datetime | None]:
    """The accounts without expired holds, and the latest `expired_until`."""
    cursor = connection.cursor(row_factory=dict_row)
    rows = cursor.execute(statement, {**parameters, "as_of_last_at": as_of_last_at}).fetchall()
    expired_until = [until for row in rows if (until := row.pop("expired_until"))]
    return [Account(**row) for row in rows], max(expired_until, default=None)


def change(
    connection: Connection, id: str, members: Mapping[str, Any], *, caller: str, idempotency_key: UUID
) -> Account | None:
    """Change members of an account (see http/accounts.py), and record the change. None if there is no such account.

    A key takes effect once: the second call with it returns the account with the members that the first call set. A
    member that already has the value is not a change. Raises Refusal `insufficient-funds` if the new floor is above the
    available amount, `max-balance-exceeded` if the new ceiling is below the balance, and `account-not-empty` if the
    account to close has a balance or an open hold.
    """
    select_account = SQL("SELECT held, {columns} FROM account WHERE id = %(id)s").format(columns=_COLUMNS)
    _, _, [times], accounts, changes = connection.fetch_together(
        BEGIN,
        lock([id]),
        clock.read([id]),
        Statement(select_account, {"id": id}, kwargs_row(partial(build, Account))),
        Statement("SELECT after FROM account_change WHERE idempotency_key = %(key)s", {"key": idempotency_key}),
    )
    clock.expire_holds(connection, [id], times)
    account: Account | None = next(iter(accounts), None)
    earlier = next(iter(changes), None)
    if account and not earlier:
        changed = copy_with(account, **members)
        check_change(changed)
        before = {name: getattr(account, name) for name in members if members[name] != getattr(account, name)}
        if before:
            _write_change_and_commit(connection, changed, before, caller, idempotency_key)
            return changed
    replication.confirm(connection, is_replicated=times.is_replicated)
    return copy_with(account, **earlier[0]) if account and earlier else account


def check_change(changed: Account) -> None:
    if changed.min_balance is not None and changed.available < changed.min_balance:
        detail = f"{changed.id} has {changed.available} available, which is below the new min_balance."
        raise Refusal("insufficient-funds", detail, account=changed.id, available=changed.available)
    if changed.max_balance is not None and changed.balance > changed.max_balance:
        detail = f"{changed.id} has a balance of {changed.balance}, which is above the new max_balance."
        raise Refusal("max-balance-exceeded", detail, account=changed.id, available=0)
    if changed.status == "closed" and (changed.balance or changed.held):
        raise Refusal("account-not-empty", f"{changed.id} has a balance or open holds.", account=changed.id)


def _write_change_and_commit(
    connection: Connection, changed: Account, before: Mapping[str, Any], caller: str, idempotency_key: UUID
) -> None:
    connection.execute_and_commit(
        """
        UPDATE account
        SET min_balance = %(min_balance)s, max_balance = %(max_balance)s, status = %(status)s, metadata = %(metadata)s
        WHERE id = %(id)s;
        INSERT INTO account_change (account, before, after, changed_by, idempotency_key)
        VALUES (%(id)s, %(before)s, %(after)s, %(caller)s, %(key)s);
        COMMIT
        """,
        {
            "id": changed.id,
            "min_balance": changed.min_balance,
            "max_balance": changed.max_balance,
            "status": changed.status,
            "metadata": json.dumps(changed.metadata),
            "before": json.dumps(before),
            "after": json.dumps({member: getattr(changed, member) for member in before}),
            "caller": caller,
            "key": idempotency_key,
        },
    )


def list_changes(connection: Connection, id: str, *, after: int, limit: int) -> list[AccountChange]:
    """The changes of the account with number > `after`, oldest first. Fewer than `limit` if their page is full."""
    cursor = connection.cursor(row_factory=kwargs_row(partial(build, AccountChange)))
    return cursor.execute(_CHANGES, {"id": id, "after": after, "limit": limit}).fetchall()
