"""The journal: posting transfers and reading them back.

A posting takes two round trips, whatever the number of its transfers. Every posting takes its locks in one order,
accounts by id and then the journal row, and writes ids only under the journal row's lock: no two wait for each other.
The journal row is held from its statement to the COMMIT behind it in one message, and never across a round trip. That
makes its numbers appear in commit order, without gaps.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from itertools import count
from typing import Any, LiteralString

from psycopg import Cursor
from psycopg.rows import class_row

from service import metrics
from service.database import Connection
from service.ledger import posting
from service.ledger.posting import Decisions, LockedAccount, Outcome, Posted, Transfer, TransferRequest


@dataclass(frozen=True)
class Entry:
    """One account's view of one posted transfer: the signed amount and the balance after it."""

    number: int
    transfer: str
    amount: int
    balance: int
    counterparty: str
    created_at: datetime


def post(connection: Connection, requests: Sequence[TransferRequest], *, atomic: bool, caller: str) -> list[Outcome]:
    """Post the requests in one transaction and return their outcomes in order.

    Safe to repeat. Raises Refusal `batch-refused` when anything of an atomic batch is refused; nothing is kept then.
    """
    started_at = time.monotonic()
    accounts, known = _lock_and_read(connection, requests)
    decisions = posting.decide(accounts, known, requests, atomic=atomic, caller=caller)
    written = _write_and_commit(connection, decisions) if decisions.transfers else {}
    metrics.POSTING_SIZE.observe(len(requests))
    metrics.POSTING_SECONDS.observe(time.monotonic() - started_at)
    for transfer in written.values():
        metrics.TRANSFERS.labels(transfer.status, transfer.reason or "").inc()
    return [_as_written(outcome, written) for outcome in decisions.outcomes]


def _as_written(outcome: Outcome, written: dict[str, Transfer]) -> Outcome:
    """The outcome with its number and time, also for an id that stands twice in a batch."""
    if isinstance(outcome, Posted) and outcome.transfer.id in written:
        return replace(outcome, transfer=written[outcome.transfer.id])
    return outcome


def _lock_and_read(
    connection: Connection, requests: Sequence[TransferRequest]
) -> tuple[dict[str, LockedAccount], dict[str, Transfer]]:
    """Lock first, read after: under READ COMMITTED each statement sees what was committed before it began."""
    accounts = {request.from_account for request in requests} | {request.to_account for request in requests}
    with connection.pipeline():
        connection.execute("BEGIN")
        locked = connection.cursor(row_factory=class_row(LockedAccount)).execute(
            """
            SELECT id, currency, min_balance, balance, held, status
            FROM account
            WHERE id = ANY(%(accounts)s)
            ORDER BY id
            FOR NO KEY UPDATE
            """,
            {"accounts": sorted(accounts)},
        )
        known = _read(connection, [request.id for request in requests])
    return {account.id: account for account in locked}, {transfer.id: transfer for transfer in known}


def _read(connection: Connection, ids: Sequence[str]) -> Cursor[Transfer]:
    return connection.cursor(row_factory=class_row(Transfer)).execute(
        """
        SELECT id, number, status, reason, from_account, to_account, amount, currency, from_balance, to_balance,
            declined_account, declined_available, captures, reverses, metadata, created_at, created_by
        FROM transfer
        WHERE id = ANY(%(ids)s)
        """,
        {"ids": ids},
    )


def _write_and_commit(connection: Connection, decisions: Decisions) -> dict[str, Transfer]:
    """Write the decisions, take their numbers and commit, as one message. Returns the rows written by id."""
    posted = sum(transfer.status == "posted" for transfer in decisions.transfers)
    row = connection.execute_and_commit(
        """
        UPDATE account
        SET balance = changed.balance
        FROM unnest(%(accounts)s::text[], %(balances)s::bigint[]) AS changed (id, balance)
        WHERE account.id = changed.id;

        WITH journal_taken AS (
            UPDATE journal
            SET last_number = last_number + %(posted)s, last_at = greatest(last_at, clock_timestamp())
            RETURNING last_number - %(posted)s AS number_before, last_at
        ), transfer_written AS (
            INSERT INTO transfer (
                id, number, status, reason, from_account, to_account, amount, currency, from_balance, to_balance,
                declined_account, declined_available, captures, reverses, metadata, created_at, created_by
            )
            SELECT new.id, number_before + new.nth, new.status, new.reason, new.from_account, new.to_account,
                new.amount, new.currency, new.from_balance, new.to_balance, new.declined_account,
                new.declined_available, new.captures, new.reverses, new.metadata, last_at, new.created_by
            FROM journal_taken, unnest(
                %(id)s::text[], %(nth)s::bigint[], %(status)s::text[], %(reason)s::text[], %(from_account)s::text[],
                %(to_account)s::text[], %(amount)s::bigint[], %(currency)s::text[], %(from_balance)s::bigint[],
                %(to_balance)s::bigint[], %(declined_account)s::text[], %(declined_available)s::bigint[],
                %(captures)s::text[], %(reverses)s::text[], %(metadata)s::jsonb[], %(created_by)s::text[]
            ) AS new (
                id, nth, status, reason, from_account, to_account, amount, currency, from_balance, to_balance,
                declined_account, declined_available, captures, reverses, metadata, created_by
            )
        )
        SELECT number_before, last_at FROM journal_taken;

        COMMIT
        """,
        {
            "posted": posted,
            "accounts": [account.id for account in decisions.accounts],
            "balances": [account.balance for account in decisions.accounts],
            **_columns(decisions.transfers),
        },
    )
    if row is None:
        raise AssertionError("bug: the journal row is missing")
    number_before, last_at = row
    numbers = count(number_before + 1)
    return {
        transfer.id: replace(
            transfer, number=next(numbers) if transfer.status == "posted" else None, created_at=last_at
        )
        for transfer in decisions.transfers
    }


def _columns(transfers: Sequence[Transfer]) -> dict[str, list[Any]]:
    """The rows turned into one array for each column, without what only the journal row gives."""
    positions = count(1)
    columns = {
        field.name: [getattr(transfer, field.name) for transfer in transfers]
        for field in fields(Transfer)
        if field.name not in ("number", "created_at")
    }
    columns["nth"] = [next(positions) if transfer.status == "posted" else None for transfer in transfers]
    columns["metadata"] = [json.dumps(transfer.metadata) for transfer in transfers]
    return columns


def get(connection: Connection, id: str) -> Transfer | None:
    """The transfer under this id, posted or declined."""
    return _read(connection, [id]).fetchone()


def read_on(connection: Connection, *, after: int, limit: int) -> list[Transfer]:
    """The posted transfers whose numbers follow `after`, in the order of their numbers."""
    cursor = connection.cursor(row_factory=class_row(Transfer))
    return cursor.execute(
        """
        SELECT id, number, status, reason, from_account, to_account, amount, currency, from_balance, to_balance,
            declined_account, declined_available, captures, reverses, metadata, created_at, created_by
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
    """The account's entries with after < number < before, oldest or newest first."""
    cursor = connection.cursor(row_factory=class_row(Entry))
    return cursor.execute(
        _NEWEST_FIRST if newest_first else _OLDEST_FIRST,
        {"account": account, "after": after, "before": before, "limit": limit},
    ).fetchall()


# Two texts, as a direction cannot be a parameter. Each half reads its index in order and stops at the limit.
_OLDEST_FIRST: LiteralString = """
    SELECT number, id AS transfer, -amount AS amount, from_balance AS balance, to_account AS counterparty, created_at
    FROM transfer
    WHERE from_account = %(account)s AND number > %(after)s AND number < %(before)s
    UNION ALL
    SELECT number, id, amount, to_balance, from_account, created_at
    FROM transfer
    WHERE to_account = %(account)s AND number > %(after)s AND number < %(before)s
    ORDER BY number
    LIMIT %(limit)s
"""
_NEWEST_FIRST: LiteralString = """
    SELECT number, id AS transfer, -amount AS amount, from_balance AS balance, to_account AS counterparty, created_at
    FROM transfer
    WHERE from_account = %(account)s AND number > %(after)s AND number < %(before)s
    UNION ALL
    SELECT number, id, amount, to_balance, from_account, created_at
    FROM transfer
    WHERE to_account = %(account)s AND number > %(after)s AND number < %(before)s
    ORDER BY number DESC
    LIMIT %(limit)s
"""
