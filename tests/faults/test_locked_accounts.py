"""An account that another session keeps locked: requests on it wait apart, and all others go on."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import psycopg.errors
import pytest

from service.contract import LIMITS
from service.database import Database
from service.ledger import accounts, group, posting
from service.ledger import clock as ledger_clock
from service.ledger.group import GroupPosting
from tests.support import broken
from tests.support.client import Client, Reply, item
from tests.support.groups import post_as_group
from tests.support.ledger import Clock, Urls
from tests.support.model import format_time
from tests.support.threads import Call
from tests.support.waiting import wait_for_lock_waiters, wait_until

CALLERS = 24
OTHERS = 30
ONE_SECOND = dataclasses.replace(LIMITS, request_deadline_seconds=1)


@contextmanager
def locked(urls: Urls, account: str) -> Iterator[None]:
    """During the block, a session of the owner keeps the account locked."""
    with psycopg.connect(urls.owner) as connection:
        connection.execute("SELECT FROM account WHERE id = %s FOR NO KEY UPDATE", [account])
        yield


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second for each request."""
    monkeypatch.setattr(group, "LIMITS", ONE_SECOND)


def lock_waiters(owner: psycopg.Connection[Any]) -> int:
    """The sessions of this database that wait for a lock."""
    counting = """
        SELECT count(*)
        FROM pg_locks
        JOIN pg_stat_activity USING (pid)
        WHERE NOT granted AND datname = current_database()
    """
    (count,) = owner.execute(counting).fetchone() or (0,)
    return int(count)


def post_beside_a_locked_account(client: Client, urls: Urls, owner: psycopg.Connection[Any]) -> None:
    """CALLERS requests on the locked account `a` wait with one connection. Those on `c` and `d` are posted."""
    posting = client.application.dependencies.group_posting
    with locked(urls, "a"):
        calls = [Call(partial(client.move, f"locked-{n}", "a", "b")) for n in range(CALLERS)]
        wait_for_lock_waiters(urls, 1)
        assert [client.move(f"t{n}", "c", "d").status for n in range(OTHERS)] == [201] * OTHERS
        assert lock_waiters(owner) <= 2
        assert posting._blocked == {"a"}
    assert [call.result().status for call in calls] == [201] * CALLERS


def test_requests_on_other_accounts_are_posted(own_client: Client, urls: Urls, owner: psycopg.Connection[Any]) -> None:
    """When the account is free, the waiting requests are posted too."""
    post_beside_a_locked_account(own_client, urls, owner)


@pytest.mark.usefixtures("short_deadlines")
def test_a_build_that_waits_for_a_locked_account_fails(
    own_client: Client, urls: Urls, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: no command of the group is posted before all of its accounts are free."""
    broken.build(monkeypatch, GroupPosting._post_unblocked, "accounts.find_locked", "lambda *_: frozenset()")
    with pytest.raises(AssertionError):
        post_beside_a_locked_account(own_client, urls, owner)


def post_beside_two_locked_accounts(client: Client, urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """`c` is found locked while requests on `a` wait apart. The neighbour in its group is posted."""
    client.open("e", "f", min_balance=None)
    posting = client.application.dependencies.group_posting
    with locked(urls, "a"):
        first = Call(partial(client.move, "locked-a", "a", "b"))
        wait_until(lambda: posting._blocked == {"a"}, "the request on `a` waits apart")
        monkeypatch.setattr(group, "LIMITS", ONE_SECOND)  # the request on `a` waits longer than the others
        with locked(urls, "c"):
            requests = [partial(client.move, "locked-c", "c", "d"), partial(client.move, "t1", "e", "f")]
            second, neighbour = call_in_one_group(posting, requests)
            status = neighbour.result().status
    assert {first.result().status, second.result().status} <= {201, 503}
    assert status == 201


def call_in_one_group(posting: GroupPosting, requests: Sequence[Callable[[], Reply]]) -> list[Call[Reply]]:
    """Calls of the requests, which no leader takes before all of them wait."""
    line = posting._main
    wait_until(lambda: not line.is_led, "no group is posted")
    line.is_led = True
    calls = [Call(request) for request in requests]
    wait_until(lambda: len(line.waiting) == len(requests), "the requests wait")
    with posting._lock:
        line.is_led = False
        line.appoint_leader()
    return calls


def test_a_second_locked_account_does_not_stop_the_others(
    own_client: Client, urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests on both wait apart."""
    post_beside_two_locked_accounts(own_client, urls, monkeypatch)


def test_a_build_that_forgets_which_accounts_are_locked_fails(
    own_client: Client, urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: each attempt of the group finds the second account locked again."""
    broken.build(monkeypatch, GroupPosting._block, "self._blocked |= ids", "self._blocked |= {'another'}")
    with pytest.raises(AssertionError):
        post_beside_two_locked_accounts(own_client, urls, monkeypatch)


def post_on_an_account_that_is_free_again(client: Client, urls: Urls) -> None:
    """Requests on `b` were sent to the second line, where one on `d` waits."""
    posting = client.application.dependencies.group_posting
    with locked(urls, "d"):
        waiting = Call(partial(client.move, "locked", "d", "c"))
        wait_until(lambda: posting._blocked == {"d"}, "the request waits apart")
        posting._block(frozenset({"b"}))
        status = client.move("t1", "a", "b").status
        blocked = posting._blocked
    assert waiting.result().status == 201
    assert status == 201
    assert blocked == {"d"}


def test_one_posted_request_shows_that_its_account_is_free(own_client: Client, urls: Urls) -> None:
    """The next requests on it do not wait apart, although another account is still locked."""
    post_on_an_account_that_is_free_again(own_client, urls)


def test_a_build_that_does_not_see_that_it_is_free_fails(
    own_client: Client, urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: with two processes, one of them sent all requests to its second line."""
    broken.build(monkeypatch, GroupPosting._post_unblocked, "self._blocked -= free", "pass")
    with pytest.raises(AssertionError):
        post_on_an_account_that_is_free_again(own_client, urls)


def lock_beside_a_locked_account(client: Client, urls: Urls) -> None:
    """While a request from `d` to `b` waits for `d`, others get the lock of `b`, whose id is the first of the two."""
    posting = client.application.dependencies.group_posting
    with locked(urls, "d"), psycopg.connect(urls.owner, autocommit=True) as other:
        call = Call(partial(client.move, "locked", "d", "b"))
        wait_until(lambda: posting._blocked == {"d"}, "the request waits apart")
        other.execute("SET lock_timeout = '200ms'")  # a request waits for `d` for 500 ms
        failures = 0
        for _ in range(3):
            wait_for_lock_waiters(urls, 1)
            try:
                other.execute("SELECT FROM account WHERE id = 'b' FOR NO KEY UPDATE")
            except psycopg.errors.LockNotAvailable:
                failures += 1
    assert call.result().status == 201
    assert failures == 0


def test_a_request_that_waits_apart_keeps_no_other_account_locked(own_client: Client, urls: Urls) -> None:
    """It waits for the locked account before it locks its other one."""
    lock_beside_a_locked_account(own_client, urls)


def test_a_build_that_keeps_the_other_account_locked_fails(
    own_client: Client, urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: the request locks both accounts by one statement, without a wait for the locked one before."""
    monkeypatch.setattr(posting, "wait_for_accounts", lambda *_: None)
    with pytest.raises(AssertionError):
        lock_beside_a_locked_account(own_client, urls)


def find_locked_beside_a_hot_account(client: Client, urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """One session keeps `a` locked. `b` is locked by one session and then by another one."""
    with locked(urls, "a"), psycopg.connect(urls.owner) as first, psycopg.connect(urls.owner) as second:
        lock_b = "SELECT FROM account WHERE id = 'b' FOR NO KEY UPDATE"
        first.execute(lock_b)

        def hand_over(seconds: float) -> None:
            first.rollback()
            second.execute(lock_b)

        monkeypatch.setattr(accounts, "time", SimpleNamespace(sleep=hand_over))
        database = client.application.dependencies.database
        assert database.run(lambda connection: accounts.find_locked(connection, ["a", "b", "c"])) == {"a"}


def test_an_account_that_others_use_all_the_time_is_not_a_locked_one(
    own_client: Client, urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locks are those of many short transactions. Requests on it do not wait apart."""
    find_locked_beside_a_hot_account(own_client, urls, monkeypatch)


def test_a_build_that_takes_a_hot_account_for_a_locked_one_fails(
    own_client: Client, urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: it does not compare which transaction has the lock."""
    broken.build(monkeypatch, accounts.find_locked, "locker == before[id]", "True")
    with pytest.raises(AssertionError):
        find_locked_beside_a_hot_account(own_client, urls, monkeypatch)


@pytest.mark.usefixtures("short_deadlines")
def test_requests_on_a_locked_account_end_at_their_deadline(own_client: Client, urls: Urls) -> None:
    """Transfers, captures, holds and releases on it were not applied, and are not applied later."""
    own_client.hold("h1", "a", "b", 7)
    own_client.hold("h2", "a", "b", 8)
    requests: list[Callable[[], Reply]] = [
        partial(own_client.move, "t1", "a", "b"),
        partial(own_client.move, "t2", "b", "a"),
        partial(own_client.capture, "t3", "h1"),
        partial(own_client.release, "h2"),
        partial(own_client.hold, "h3", "a", "b"),
    ]
    with locked(urls, "a"):
        replies = [call.result() for call in [Call(request) for request in requests]]
    outcomes = [(reply.status, reply.slug, reply.json["outcome"]) for reply in replies]
    assert outcomes == [(503, "deadline-exceeded", "not_applied")] * len(requests)
    assert own_client.move("next", "a", "b").json["number"] == 1
    assert own_client.amounts("a") == (-1, 15, -16)


def test_an_account_that_is_free_again_is_posted_at_once(own_client: Client, urls: Urls) -> None:
    """After the wait, requests on the account do not wait apart any more."""
    with locked(urls, "a"):
        waiting = Call(partial(own_client.move, "t1", "a", "b"))
        wait_for_lock_waiters(urls, 1)
    assert waiting.result().status == 201
    posting = own_client.application.dependencies.group_posting
    wait_until(lambda: not posting._apart.is_led, "nothing waits apart")
    assert posting._blocked == frozenset()


def most_lock_waiters(client: Client, urls: Urls, owner: psycopg.Connection[Any], at_least: int) -> int:
    """How many sessions wait for a lock while CALLERS batches on `a` and changes of `a` are requested."""
    requests = [partial(client.batch, item("t")), partial(client.change, "a", status="frozen")]
    with locked(urls, "a"):
        calls = [Call(requests[n % 2]) for n in range(CALLERS)]
        wait_for_lock_waiters(urls, at_least)
        waiters = max(lock_waiters(owner) for _ in range(20))
        others = client.move("other", "c", "d").status, client.get("/v1/accounts/a").status
    assert {call.result().status for call in calls} <= {200, 503}
    assert others == (201, 200)
    return waiters


def test_batches_and_changes_of_a_locked_account_use_half_of_the_connections(
    own_client: Client, urls: Urls, owner: psycopg.Connection[Any]
) -> None:
    """The other half serves reads and single postings."""
    assert most_lock_waiters(own_client, urls, owner, at_least=4) == 4


def test_a_build_in_which_batches_and_changes_use_all_connections_fails(
    own_client: Client, urls: Urls, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: they run without the limit of `run_long`."""
    monkeypatch.setattr(Database, "run_long", Database.run)
    with pytest.raises(AssertionError):
        assert most_lock_waiters(own_client, urls, owner, at_least=8) == 4


def post_beside_expired_holds(client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One commit cannot write the status of all expired holds of `a`. The neighbour does not wait for the rest."""
    monkeypatch.setattr(ledger_clock, "HOLDS_EXPIRED_PER_COMMIT", 1)
    expires_at = format_time(clock.now() + timedelta(seconds=60))
    for n in range(3):
        client.hold(f"h{n}", "a", "b", expires_at=expires_at)
    clock.turn(seconds=61)
    requests = [partial(client.move, "t1", "a", "b"), partial(client.move, "t2", "c", "d")]
    replies = post_as_group(client, monkeypatch, *requests)
    assert [reply.json["number"] for reply in replies][1] == 1  # the transfer that was held back is from `a` too


def test_a_command_does_not_wait_for_the_expired_holds_of_another_account(
    own_client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command on the account with these holds waits apart until their status is written."""
    post_beside_expired_holds(own_client, clock, monkeypatch)


def test_a_build_in_which_a_command_waits_for_these_holds_fails(
    own_client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: both commands are posted when the status of all holds is written."""
    broken.build(monkeypatch, GroupPosting._post_unblocked, "clock.find_expired", "lambda *_: frozenset()")
    with pytest.raises(AssertionError):
        post_beside_expired_holds(own_client, clock, monkeypatch)
