"""Threads race for the same hold, transfer or account: whichever comes first, the results agree with each other.

Each race is a function, so that it can also run on builds that are broken on purpose and must fail there.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from typing import Any

import psycopg
import pytest

from service import config, server
from service.ledger import accounts, posting, rules
from service.ledger import clock as ledger_clock
from service.ledger.types import AccountCommand, Command, Result
from service.session import Connection
from tests.concurrency.conftest import Replicas
from tests.support import broken
from tests.support.client import Client, Reply
from tests.support.ledger import empty
from tests.support.threads import THREADS, number_of_thread, together
from tests.support.waiting import LIMIT_SECONDS, wait_for

ROUNDS = 10
HALF = THREADS // 2
Race = Callable[[Client], None]


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """None of them has a lower limit."""
    client.open("a", "b", "c", "d", min_balance=None)


def captures(client: Client) -> None:
    """A hold is captured once; later captures are declined, and that is stored."""
    for n in range(ROUNDS):
        client.hold(f"h{n}", "a", "b", 10)
    replies = together(lambda thread: [client.capture(f"c{n}-{thread}", f"h{n}") for n in range(ROUNDS)])
    assert Counter(reply.status for reply in replies) == {201: ROUNDS, 422: (THREADS - 1) * ROUNDS}
    stored = [client.get(f"/v1/transfers/c{n}-{t}").json for n in range(ROUNDS) for t in range(THREADS)]
    assert Counter(row["status"] for row in stored) == {"posted": ROUNDS, "declined": (THREADS - 1) * ROUNDS}
    captured_by = {row["captures"]: row["id"] for row in stored if row["status"] == "posted"}
    assert captured_by == {f"h{n}": client.get(f"/v1/holds/h{n}").json["captured_by"] for n in range(ROUNDS)}
    assert client.amounts("a") == (-10 * ROUNDS, 0, -10 * ROUNDS)


def captures_and_releases(client: Client) -> None:
    """A hold is either captured or released, and no response contradicts that."""
    for n in range(ROUNDS):
        client.hold(f"h{n}", "a", "b", 10)

    def work(thread: int) -> list[tuple[int, str, int]]:
        if thread % 2:
            return [(n, "capture", client.capture(f"c{n}-{thread}", f"h{n}").status) for n in range(ROUNDS)]
        return [(n, "release", client.release(f"h{n}").status) for n in range(ROUNDS)]

    counts = Counter(together(work))
    for n in range(ROUNDS):
        if client.get(f"/v1/holds/h{n}").json["status"] == "captured":
            expected = {(n, "capture", 201): 1, (n, "capture", 422): HALF - 1, (n, "release", 422): HALF}
        else:
            expected = {(n, "capture", 422): HALF, (n, "release", 200): HALF}
        assert {key: count for key, count in counts.items() if key[0] == n} == expected
    assert client.amounts("a")[1] == 0


def releases_and_holds(client: Client) -> None:
    """A hold is released once, and the amounts that other holds reserve meanwhile stay reserved."""
    for n in range(ROUNDS):
        client.hold(f"h{n}", "a", "b", 10)

    def work(thread: int) -> list[Reply]:
        if thread % 2:
            return [client.hold(f"g{n}-{thread}", "a", "b", 1) for n in range(ROUNDS)]
        return [client.release(f"h{n}") for n in range(ROUNDS)]

    replies = together(work)
    placed = released = HALF * ROUNDS
    assert Counter(reply.status for reply in replies) == {201: placed, 200: released}
    assert len({reply.body for reply in replies if reply.status == 200}) == ROUNDS
    assert client.amounts("a") == (0, placed, -placed)


def reversals(client: Client) -> None:
    """The whole amount of a transfer is reversed once."""
    for n in range(ROUNDS):
        client.move(f"t{n}", "a", "b", 10)
    replies = together(lambda thread: [client.reverse(f"r{n}-{thread}", f"t{n}") for n in range(ROUNDS)])
    assert Counter(reply.status for reply in replies) == {201: ROUNDS, 422: (THREADS - 1) * ROUNDS}
    assert client.balance("a") == 0


def partial_reversals(client: Client) -> None:
    """The parts of a transfer that are reversed add up to at most its amount."""
    for n in range(ROUNDS):
        client.move(f"t{n}", "a", "b", 16)
    replies = together(
        lambda thread: (
            [client.reverse(f"r{n}-{thread}", f"t{n}", amount=3) for n in range(ROUNDS)]
            + [client.reverse(f"s{n}-{thread}", f"t{n}", amount=1) for n in range(ROUNDS)]
        )
    )
    assert Counter(reply.status for reply in replies) == {201: 6 * ROUNDS, 422: (THREADS * 2 - 6) * ROUNDS}
    assert client.balance("a") == 0


def holds_with_one_id(client: Client) -> None:
    """Requests that lock different accounts use the same id: one hold is placed, the others conflict."""
    ends = [("a", "b"), ("c", "d")]
    replies = together(lambda thread: [client.hold(f"h{n}", *ends[thread % 2], 1) for n in range(ROUNDS)])
    assert Counter(reply.status for reply in replies) == {201: ROUNDS, 200: (HALF - 1) * ROUNDS, 409: HALF * ROUNDS}
    assert client.amounts("a")[1] + client.amounts("c")[1] == ROUNDS


def freezing(client: Client) -> None:
    """No transfer is posted on an account while it is frozen."""
    change_an_account_in_use(client, {"status": "frozen"}, {"status": "open"})


def closing(client: Client) -> None:
    """No transfer is posted on an account while it is closed."""
    change_an_account_in_use(client, {"status": "closed"}, {"status": "open"})


def limiting(client: Client) -> None:
    """No transfer takes an account below the min_balance that it has at that time."""
    change_an_account_in_use(client, {"min_balance": -3}, {"min_balance": None})


def change_an_account_in_use(client: Client, *changes: dict[str, Any]) -> None:
    """Transfers from and to `x` race with the changes. Every entry must fit the state that `x` had at its time."""
    client.open("x", min_balance=None)

    def work(thread: int) -> list[Reply]:
        if thread % 4 >= 2:
            return [client.change("x", **members) for _ in range(ROUNDS) for members in changes]
        ends = [("x", "b"), ("b", "x")] if thread < HALF else [("b", "x"), ("x", "b")]
        return [client.move(f"t{n}-{k}-{thread}", *ends[k], 2) for n in range(ROUNDS) for k in (0, 1)]

    replies = together(work)
    assert {reply.status for reply in replies} <= {200, 201, 422}
    entries = client.get("/v1/accounts/x/entries?limit=500").json["entries"]
    assert [entry["balance"] for entry in entries] == list(accumulate(entry["amount"] for entry in entries))
    made = client.get("/v1/accounts/x/changes?limit=500").json["changes"]
    assert made
    for entry in entries:
        state = {"status": "open", "min_balance": None}
        for change in made:
            state |= change["after"] if change["changed_at"] < entry["created_at"] else {}
        assert state["status"] == "open", entry
        assert entry["amount"] > 0 or state["min_balance"] is None or entry["balance"] >= state["min_balance"], entry


RACES_ON_BALANCES = [captures, captures_and_releases, releases_and_holds, reversals, partial_reversals]
RACES_WITH_CHANGES = [freezing, closing, limiting]
RACES = [*RACES_ON_BALANCES, holds_with_one_id, *RACES_WITH_CHANGES]


def name_of(race: Race) -> str:
    return race.__name__


@pytest.mark.parametrize("race", RACES, ids=name_of)
def test_racing_requests_do_not_contradict_each_other(client: Client, race: Race) -> None:
    """Each race checks the property in its docstring."""
    race(client)


class TwoStalePostings:
    """Without the accounts' lock, the first posting of an odd and of an even thread both read before either writes.

    All other postings wait for the end of these two. With `then_lock`, the two lock the accounts after they have read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, then_lock: bool) -> None:
        self.then_lock = then_lock
        self.first = {0: iter([True]), 1: iter([True])}
        self.finished = {0: threading.Event(), 1: threading.Event()}
        self.both_have_read = threading.Barrier(2)
        self.thread = threading.local()
        self.original_post, self.original_expire_holds = posting.post, ledger_clock.expire_holds
        broken.replace_sql(monkeypatch, accounts, "_LOCK", "FOR NO KEY UPDATE", "")
        monkeypatch.setattr(posting, "post", self.post)
        monkeypatch.setattr(ledger_clock, "expire_holds", self.expire_holds)

    def post(self, *arguments: Any, **options: Any) -> list[Result]:
        number = number_of_thread()
        if number is not None and next(self.first[number % 2], False):
            self.thread.is_stale = True
            try:
                return self.original_post(*arguments, **options)
            finally:
                self.thread.is_stale = False
                self.finished[number % 2].set()
        if number is not None:
            wait_for(self.finished[0])
            wait_for(self.finished[1])
        return self.original_post(*arguments, **options)

    def expire_holds(self, connection: Connection, ids: Collection[str], time: Any) -> Any:
        now = self.original_expire_holds(connection, ids, time)
        if getattr(self.thread, "is_stale", False):
            self.both_have_read.wait(LIMIT_SECONDS)
            if self.then_lock:
                connection.execute("SELECT FROM account WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", [list(ids)])
        return now


@pytest.mark.parametrize("then_lock", [False, True], ids=["no locks", "locks after reading"])
@pytest.mark.parametrize("race", RACES_ON_BALANCES, ids=name_of)
def test_a_build_that_reads_before_it_locks_fails(
    client: Client, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, race: Race, then_lock: bool
) -> None:
    """Broken on purpose: two postings decide on the same state, and both are applied."""
    stale = TwoStalePostings(monkeypatch, then_lock=then_lock)
    with pytest.raises(AssertionError):
        race(client)
    assert not stale.both_have_read.broken
    empty(owner)


def test_a_build_that_does_not_retry_a_violated_key_fails(
    environment: dict[str, str], owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: the second request that uses an id would get an internal error."""
    monkeypatch.setattr(server, "RETRIED_CONSTRAINTS", frozenset())
    applications = [server.build_application(config.load(environment)) for _ in range(2)]
    stale = TwoStalePostings(monkeypatch, then_lock=False)
    with pytest.raises(AssertionError):
        holds_with_one_id(Replicas(applications))
    for application in applications:
        application.dependencies.database.close()
    assert not stale.both_have_read.broken
    empty(owner)


class OneStalePosting:
    """Without the accounts' lock, another posting and a change come between the first posting's read and its write.

    After that other posting, the rest wait for the end of the first.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.first = iter([True])
        self.one_at_a_time = threading.Lock()
        self.changed, self.posted, self.finished = threading.Event(), threading.Event(), threading.Event()
        self.thread = threading.local()
        self.original_decide, self.original_post, self.original_change = rules.decide, posting.post, accounts.change
        broken.replace_sql(monkeypatch, accounts, "_LOCK", "FOR NO KEY UPDATE", "")
        monkeypatch.setattr(rules, "decide", self.decide)
        monkeypatch.setattr(posting, "post", self.post)
        monkeypatch.setattr(accounts, "change", self.change)

    def post(self, connection: Connection, commands: Sequence[Command], **options: Any) -> list[Result]:
        if any(isinstance(command, AccountCommand) for command in commands):
            return self.original_post(connection, commands, **options)
        if next(self.first, False):
            self.thread.is_stale = True
            try:
                return self.original_post(connection, commands, **options)
            finally:
                self.thread.is_stale = False
                self.finished.set()
        with self.one_at_a_time:
            if not self.posted.is_set():
                results = self.original_post(connection, commands, **options)
                if any(not result.refusal for result in results):
                    self.posted.set()
                return results
        wait_for(self.finished)
        return self.original_post(connection, commands, **options)

    def decide(self, *arguments: Any, **options: Any) -> Any:
        if getattr(self.thread, "is_stale", False):
            wait_for(self.changed)
            wait_for(self.posted)
        return self.original_decide(*arguments, **options)

    def change(self, *arguments: Any, **options: Any) -> Any:
        account = self.original_change(*arguments, **options)
        self.changed.set()
        return account


@pytest.mark.parametrize("race", RACES_WITH_CHANGES, ids=name_of)
def test_a_build_that_posts_on_a_stale_account_fails(
    client: Client, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, race: Race
) -> None:
    """Broken on purpose: a posting overwrites the balance that another posting left."""
    stale = OneStalePosting(monkeypatch)
    with pytest.raises(AssertionError):
        race(client)
    assert all(event.is_set() for event in (stale.changed, stale.posted, stale.finished))
    empty(owner)
