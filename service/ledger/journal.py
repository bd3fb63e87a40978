"""The journal: posting transfers and reading them back.

A posting takes two round trips, whatever the number of its transfers. Every posting takes its locks in one order,
accounts by id and then the journal row, and writes ids only under the journal row's lock: no two wait for each other.
The journal row is held from its statement to the COMMIT behind it in one message, and never across a round trip. That
makes its numbers appear in commit order, without gaps.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from typing import LiteralString

from psycopg import Cursor
from psycopg.rows import TupleRow, class_row

from service import metrics
from service.database import Connection
from service.ledger import posting
from service.ledger.posting import Decisions, LockedAccount, Outcome, Transfer, TransferRequest


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
    # With nothing to write, the locks go when the connection is given back, which ends the transaction.
    written = _number_and_write(connection, decisions) if decisions.transfers else {}
    metrics.POSTING_SIZE.observe(len(requests))
    metrics.POSTING_SECONDS.observe(time.monotonic() - started_at)
    for transfer in written.values():
        metrics.TRANSFERS.labels(transfer.status, transfer.reason or "").inc()
    return [
        # Also the second of two equal items of a batch shows the number and the time that the first one got.
        replace(outcome, transfer=written.get(outcome.transfer.id, outcome.transfer)) if outcome.transfer else outcome
        for outcome in decisions.outcomes
    ]


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


def _number_and_write(connection: Connection, decisions: Decisions) -> dict[str, Transfer]:
    """Write the decisions and commit. Returns the new transfers by id, with their numbers and their time."""
    places = count(1)  # of the posted ones; the journal's last number is added to them where it is known
    placed = [
        replace(transfer, number=next(places)) if transfer.status == "posted" else transfer
        for transfer in decisions.transfers
    ]
    number_before, written_at = _write_and_commit(connection, decisions.accounts, placed, posted=next(places) - 1)
    return {
        transfer.id: replace(
            transfer, number=transfer.number and number_before + transfer.number, created_at=written_at
        )
        for transfer in placed
    }


def _write_and_commit(
    connection: Connection, accounts: Sequence[LockedAccount], transfers: Sequence[Transfer], *, posted: int
) -> TupleRow:
    row = connection.execute_and_commit(
        """
        UPDATE account
        SET balance = changed.balance
        FROM unnest(%(ids)s::text[], %(balances)s::bigint[]) AS changed (id, balance)
        WHERE account.id = changed.id;

        WITH journal_taken AS (
            UPDATE journal
            SET last_number = last_number + %(posted)s, last_at = greatest(last_at, clock_timestamp())
            WHERE only_row
            RETURNING last_number - %(posted)s AS number_before, last_at
        ), transfer_written AS (
            INSERT INTO transfer (
                id, number, status, reason, from_account, to_account, amount, currency, from_balance, to_balance,
                declined_account, declined_available, captures, reverses, metadata, created_at, created_by
            )
            SELECT id, number_before + number, status, reason, from_account, to_account, amount, currency,
                from_balance, to_balance, declined_account, declined_available, captures, reverses, metadata,
                last_at, created_by
            FROM journal_taken, jsonb_populate_recordset(NULL::transfer, %(transfers)s)
        )
        SELECT number_before, last_at FROM journal_taken;

        COMMIT
        """,
        {
            "ids": [account.id for account in accounts],
            "balances": [account.balance for account in accounts],
            "posted": posted,
            "transfers": json.dumps([vars(transfer) for transfer in transfers]),
        },
    )
    if row is None:
        raise AssertionError("bug: the journal row is missing")
    return row


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
