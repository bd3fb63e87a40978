"""Eight threads send batches that open the same two accounts, in both orders, and move money between them.

The race is a function, so that it can also run on a build that is broken on purpose and must fail there.
"""

from collections import Counter
from functools import partial
from typing import Any

import psycopg
import pytest

from service import config, server
from service.ledger import accounts, posting
from tests.concurrency.conftest import Replicas
from tests.support import broken
from tests.support.client import Client, Reply, item, open_item
from tests.support.ledger import empty
from tests.support.threads import THREADS, Call, together

ROUNDS = 200  # each with new accounts
AMOUNTS = (2, 1)  # of the transfers of even and of odd threads: a lost transfer changes the balances
PAUSE_SECONDS = 0.5  # between two locks of the broken build: more than the two threads need to start


def race(client: Client) -> None:
    """Each account is opened by one of the batches, and the balances are the sums of all transfers."""
    moved = THREADS // 2 * (AMOUNTS[0] - AMOUNTS[1])
    for number in range(ROUNDS):
        replies = together(partial(send_batch, client, number))
        assert [reply.status for reply in replies] == [200] * THREADS, replies
        results = [result for reply in replies for result in reply.json["results"]]
        opened = Counter(result["account"]["id"] for result in results if "account" in result and is_new(result))
        assert opened == {f"x{number}": 1, f"y{number}": 1}
        assert sum("transfer" in result and is_new(result) for result in results) == THREADS
        assert (client.balance(f"x{number}"), client.balance(f"y{number}")) == (-moved, moved)


def send_batch(client: Client, number: int, thread: int) -> list[Reply]:
    """Open x and y and move from x to y. Odd threads name the two in the reverse order."""
    source, target = (f"{name}{number}" for name in ("xy", "yx")[thread % 2])
    openings = [open_item(id, min_balance=None) for id in (source, target)]
    move = item(f"t{number}-{thread}", source, target, AMOUNTS[thread % 2])
    return [client.batch(*openings, move, atomic=True)]


def is_new(result: dict[str, object]) -> bool:
    return result["status"] == 201


@pytest.mark.slow
def test_batches_that_open_the_same_accounts_are_all_applied(client: Client) -> None:
    """200 times 8 batches: no deadlock, each account is opened once, and the sums are right."""
    race(client)


def test_a_build_that_does_not_retry_an_opened_account_fails(
    environment: dict[str, str], owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: a batch whose account another batch opens meanwhile gets an internal error."""
    monkeypatch.setattr(server, "RETRIED_CONSTRAINTS", posting.RETRIED_CONSTRAINTS - {"account_pkey"})
    applications = [server.build_application(config.load(environment)) for _ in range(2)]
    with pytest.raises(AssertionError, match="500"):
        race(Replicas(applications))
    for application in applications:
        application.dependencies.database.close()
    empty(owner)


@pytest.mark.parametrize("expected_deadlocks", [1])
def test_a_build_that_locks_in_the_order_of_the_request_deadlocks(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: two batches with the same accounts in both orders wait for each other.

    The client counts the deadlock. The batch that it ends is sent to the database again.
    """
    client.open("x0", "y0", min_balance=None)
    lock_in_the_order_of_the_request(monkeypatch)
    calls = [Call(partial(send_batch, client, 0, thread), name=f"thread-{thread}") for thread in (0, 1)]
    assert [reply.status for call in calls for reply in call.result()] == [200, 200]


def lock_in_the_order_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lock one account after the other, as the request names them, each PAUSE_SECONDS after the one before."""
    in_order = "list(dict.fromkeys(id for ids in find_accounts(connection, commands) for id in ids))"
    broken.build(
        monkeypatch, posting._find_ids, "sorted(frozenset().union(*find_accounts(connection, commands)))", in_order
    )
    rows = f"""
        FROM unnest(%(ids)s::text[]) AS wanted
        CROSS JOIN LATERAL (
            SELECT account.*
            FROM account, pg_sleep({PAUSE_SECONDS} + 0 * length(wanted)) -- without `wanted`, it would run only once
            WHERE id = wanted
            FOR NO KEY UPDATE OF account
        ) AS account
    """
    original = "FROM account WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE"
    broken.replace_sql(monkeypatch, accounts, "_LOCK", original, rows)
