"""The journal: where transfers and holds are posted.

A posting takes two round trips, whatever the number of its transfers: one more when a hold or transfer is named, and
two more for each time that holds of its accounts are written off.
Every posting takes its locks in one order, accounts by id and then the journal row, and writes ids only under the
journal row's lock: no two wait for each other. The journal row is held from its statement to the COMMIT behind it in
one message, and never across a round trip. That makes its numbers appear in commit order, without gaps.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import LiteralString

from psycopg import Cursor
from psycopg.rows import class_row

from service import metrics
from service.database import Connection
from service.ledger import holds, posting, transfers
from service.ledger.posting import Books
from service.ledger.records import AccountState, Hold, Outcome, Record, Release, Request, Transfer, TransferRequest


def post(connection: Connection, requests: Sequence[Request], *, atomic: bool, caller: str) -> list[Outcome]:
    """Decide the requests in one transaction, write what they make, and return their outcomes in order.

    Safe to repeat. Raises Refusal `batch-refused` when anything of an atomic batch is refused; nothing is kept then.
    """
    started_at = time.monotonic()
    books = _lock_and_read(connection, requests)
    outcomes, after = posting.decide(books, requests, atomic=atomic, caller=caller)
    written: dict[tuple[type, str], Record] = {}
    if any(outcome.is_new for outcome in outcomes):  # else the locks go when the connection is given back
        accounts = [account for id, account in after.accounts.items() if account != books.accounts[id]]
        new = [transfer for id, transfer in after.transfers.items() if id not in books.transfers]
        changed = [hold for id, hold in after.holds.items() if hold != books.holds.get(id)]
        records = _write_and_commit(connection, accounts, new, changed)
        written = {(type(record), record.id): record for record in records}
    metrics.POSTING_SIZE.observe(len(requests))
    metrics.POSTING_SECONDS.observe(time.monotonic() - started_at)
    for record in written.values():
        counter = metrics.TRANSFERS if isinstance(record, Transfer) else metrics.HOLDS
        counter.labels(record.status, record.reason or "").inc()
    return [
        # Also the second of two equal items of a batch shows the number and the time that the first one got.
        replace(outcome, record=written.get((type(outcome.record), outcome.record.id), outcome.record))
        if outcome.record
        else outcome
        for outcome in outcomes
    ]


def post_one(connection: Connection, request: Request, *, caller: str) -> Outcome:
    """Post one request. What refuses it is raised, also when it was written down as declined."""
    (outcome,) = post(connection, [request], atomic=False, caller=caller)
    if outcome.refusal:
        raise outcome.refusal
    return outcome


def _lock_and_read(connection: Connection, requests: Sequence[Request]) -> Books:
    """Lock first, read after: under READ COMMITTED each statement sees what was committed before it began.

    Holds of these accounts that are due are written off first, in commits of their own.
    """
    posts = [request for request in requests if isinstance(request, TransferRequest)]
    hold_ids = [post.captures for post in posts if post.captures]
    hold_ids += [request.id for request in requests if not isinstance(request, TransferRequest)]
    reverses = [post.reverses for post in posts if post.reverses]
    ids = _accounts(connection, requests, hold_ids, reverses)
    are_due = True
    while are_due:
        with connection.pipeline():
            connection.execute("BEGIN")
            locked = _lock(connection, ids)
            clock = holds.due(connection, ids)
            known = transfers.read(connection, [post.id for post in posts] + reverses)
            given_back = transfers.given_back(connection, reverses) if reverses else ()
            named = holds.read(connection, hold_ids) if hold_ids else ()
        [(now, are_due)] = clock
        if are_due:
            holds.expire(connection, ids, now)
    return Books(
        accounts={account.id: account for account in locked},
        transfers={transfer.id: transfer for transfer in known},
        holds={hold.id: hold for hold in named},
        reversed=dict(given_back),
        now=now,
    )


def _accounts(
    connection: Connection, requests: Sequence[Request], hold_ids: Sequence[str], reverses: Sequence[str]
) -> list[str]:
    """All accounts that the requests are about. Those of a hold or transfer never change: they are read unlocked."""
    accounts = {
        account
        for request in requests
        if not isinstance(request, Release)
        for account in (request.from_account, request.to_account)
    }
    if hold_ids or reverses:
        named = connection.execute(
            """
            SELECT from_account, to_account FROM hold WHERE id = ANY(%(hold_ids)s)
            UNION ALL
            SELECT from_account, to_account FROM transfer WHERE id = ANY(%(reverses)s)
            """,
            {"hold_ids": hold_ids, "reverses": reverses},
        )
        accounts.update(*named)
    return sorted(accounts)


def _lock(connection: Connection, accounts: Sequence[str]) -> Cursor[AccountState]:
    return connection.cursor(row_factory=class_row(AccountState)).execute(
        """
        SELECT id, currency, min_balance, balance, held, status
        FROM account
        WHERE id = ANY(%(accounts)s)
        ORDER BY id
        FOR NO KEY UPDATE
        """,
        {"accounts": accounts},
    )


def _write_and_commit(
    connection: Connection, accounts: Sequence[AccountState], new: Sequence[Transfer], changed: Sequence[Hold]
) -> list[Record]:
    """Write accounts, new transfers, and new and changed holds; the records as they are written."""
    places = count(1)  # of the posted ones; the journal's last number is added to them where it is known
    rows = [{**vars(transfer), "number": next(places) if transfer.status == "posted" else None} for transfer in new]
    taken = connection.execute_and_commit(
        # Most postings are without holds: they are spared the planning of these statements.
        _WRITE_TRANSFERS + (_WRITE_HOLDS if changed else "") + "COMMIT",
        {
            "ids": [account.id for account in accounts],
            "balances": [account.balance for account in accounts],
            "helds": [account.held for account in accounts],
            "posted": next(places) - 1,
            "transfers": json.dumps(rows),
            "placed": json.dumps([vars(hold) for hold in changed if not hold.created_at], default=str),
            "resolved": json.dumps([vars(hold) for hold in changed if hold.created_at], default=str),
        },
    )
    if taken is None:
        raise AssertionError("bug: the journal row is missing")
    before, now = taken
    return [
        *(
            replace(transfer, number=row["number"] and before + row["number"], created_at=now)
            for transfer, row in zip(new, rows, strict=True)
        ),
        *(
            replace(hold, created_at=hold.created_at or now, resolved_at=now if hold.status != "open" else None)
            for hold in changed
        ),
    ]


_WRITE_TRANSFERS: LiteralString = """
    UPDATE account
    SET balance = changed.balance, held = changed.held
    FROM unnest(%(ids)s::text[], %(balances)s::bigint[], %(helds)s::bigint[]) AS changed (id, balance, held)
    WHERE account.id = changed.id;

    WITH journal_taken AS (
        UPDATE journal
        SET last_number = last_number + %(posted)s, last_at = greatest(last_at, clock_timestamp())
        WHERE only_row
        RETURNING last_number - %(posted)s AS number_before, last_at
    ), transfer_written AS (
        INSERT INTO transfer (
            id, number, status, reason, from_account, to_account, amount, currency, from_balance, to_balance,
            declined_account, declined_available, captures, reverses, takes_rest, metadata, created_at, created_by
        )
        SELECT id, number_before + number, status, reason, from_account, to_account, amount, currency,
            from_balance, to_balance, declined_account, declined_available, captures, reverses, takes_rest,
            metadata, last_at, created_by
        FROM journal_taken, jsonb_populate_recordset(NULL::transfer, %(transfers)s)
    )
    SELECT number_before, last_at FROM journal_taken;
"""
_WRITE_HOLDS: LiteralString = """
    INSERT INTO hold (
        id, status, reason, from_account, to_account, amount, currency, expires_at, captured_by,
        declined_account, declined_available, metadata, created_at, created_by, resolved_at
    )
    SELECT id, status, reason, from_account, to_account, amount, currency, expires_at, captured_by,
        declined_account, declined_available, metadata, last_at, created_by,
        CASE WHEN status <> 'open' THEN last_at END
    FROM journal, jsonb_populate_recordset(NULL::hold, %(placed)s);

    UPDATE hold
    SET status = resolved.status, captured_by = resolved.captured_by,
        resolved_at = CASE WHEN hold.expires_at > last_at IS NOT FALSE THEN last_at END  -- else see errors.RACES
    FROM journal, jsonb_populate_recordset(NULL::hold, %(resolved)s) AS resolved
    WHERE hold.id = resolved.id;
"""
