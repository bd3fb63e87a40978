"""Callers who want the same hold, transfer or account at once: one effect, or the exact sum, whoever comes first.

Each proof is a function of its own, so that builds broken on purpose can be held against it too.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import psycopg
import pytest

from service import database
from service.database import Connection
from service.ledger import accounts, journal, transfers
from service.ledger.records import Request
from service.wire import timestamp
from tests import broken
from tests.client import Client, Reply
from tests.conftest import Clock, Urls, empty
from tests.test_concurrency import THREADS, client, deadlocks, together

__all__ = ["client", "deadlocks"]  # fixtures

ROUNDS = 10
Proof = Callable[[Client], None]


def captures(client: Client) -> None:
    """A hold is captured once; who comes later is declined, and that is remembered."""
    for n in range(ROUNDS):
        client.hold(f"h{n}", "a", "b", 10)
    replies = together(lambda thread: [client.capture(f"c{n}-{thread}", f"h{n}") for n in range(ROUNDS)])
    assert Counter(reply.status for reply in replies) == {201: ROUNDS, 422: (THREADS - 1) * ROUNDS}
    stored = [client.get(f"/v1/transfers/c{n}-{t}").json for n in range(ROUNDS) for t in range(THREADS)]
    assert Counter(row["status"] for row in stored) == {"posted": ROUNDS, "declined": (THREADS - 1) * ROUNDS}
    winners = {row["captures"]: row["id"] for row in stored if row["status"] == "posted"}
    assert winners == {f"h{n}": client.get(f"/v1/holds/h{n}").json["captured_by"] for n in range(ROUNDS)}
    assert client.amounts("a") == (-10 * ROUNDS, 0, -10 * ROUNDS)


def captures_and_releases(client: Client) -> None:
    """A hold is captured or released, and nobody is told the other."""
    for n in range(ROUNDS):
        client.hold(f"h{n}", "a", "b", 10)
    told: list[Counter[tuple[str, int]]] = [Counter() for _ in range(ROUNDS)]

    def work(thread: int) -> list[Reply]:
        for n in range(ROUNDS):
            reply = client.capture(f"c{n}-{thread}", f"h{n}") if thread % 2 else client.release(f"h{n}")
            told[n]["captured" if thread % 2 else "released", reply.status] += 1
        return []

    together(work)
    half = THREADS // 2
    for n in range(ROUNDS):
        posted = client.get(f"/v1/holds/h{n}").json["status"] == "captured"
        captured, released = ({201: 1, 422: half - 1}, {422: half}) if posted else ({422: half}, {200: half})
        assert told[n] == {("captured", status): count for status, count in captured.items()} | {
            ("released", status): count for status, count in released.items()
        }
    assert client.amounts("a")[1] == 0


def releases_and_holds(client: Client) -> None:
    """A hold is released once, and what others set aside meanwhile stays set aside."""
    for n in range(ROUNDS):
        client.hold(f"h{n}", "a", "b", 10)

    def work(thread: int) -> list[Reply]:
        if thread % 2:
            return [client.hold(f"g{n}-{thread}", "a", "b", 1) for n in range(ROUNDS)]
        return [client.release(f"h{n}") for n in range(ROUNDS)]

    replies = together(work)
    half = THREADS // 2 * ROUNDS
    assert Counter(reply.status for reply in replies) == {201: half, 200: half}
    assert len({reply.body for reply in replies if reply.status == 200}) == ROUNDS
    assert client.amounts("a") == (0, half, -half)


def reversals(client: Client) -> None:
    """A transfer is given back whole once."""
    for n in range(ROUNDS):
        client.move(f"t{n}", "a", "b", 10)
    replies = together(lambda thread: [client.reverse(f"r{n}-{thread}", f"t{n}") for n in range(ROUNDS)])
    assert Counter(reply.status for reply in replies) == {201: ROUNDS, 422: (THREADS - 1) * ROUNDS}
    assert client.balance("a") == 0


def parts_of_reversals(client: Client) -> None:
    """A transfer is given back in parts up to its amount, and not one unit more."""
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


def one_id_for_other_holds(client: Client) -> None:
    """Requests that share no account share the id: one hold is placed, the others conflict."""
    ends = [("a", "b"), ("c", "d")]
    replies = together(lambda thread: [client.hold(f"h{n}", *ends[thread % 2], 1) for n in range(ROUNDS)])
    half = THREADS // 2
    assert Counter(reply.status for reply in replies) == {201: ROUNDS, 200: (half - 1) * ROUNDS, 409: half * ROUNDS}
    assert client.amounts("a")[1] + client.amounts("c")[1] == ROUNDS


def freezing(client: Client) -> None:
    """Nothing is posted on an account between the freezing and the thawing."""
    changing(client, [{"status": "frozen"}, {"status": "open"}])


def closing(client: Client) -> None:
    """Nothing is posted on an account while it is closed."""
    changing(client, [{"status": "closed"}, {"status": "open"}])


def limiting(client: Client) -> None:
    """No transfer passes the floor that stands at its time."""
    changing(client, [{"min_balance": -3}, {"min_balance": None}])


def changing(client: Client, members: list[dict[str, Any]]) -> None:
    """Move money to and fro while the account changes; each entry must fit the account as it was at its time."""

    def work(thread: int) -> list[Reply]:
        if thread % 2:
            return [client.change("x", **each) for _ in range(ROUNDS) for each in members]
        ends = [("x", "b"), ("b", "x")] if thread % 4 else [("b", "x"), ("x", "b")]
        return [client.move(f"t{n}-{k}-{thread}", *ends[k], 2) for n in range(ROUNDS) for k in (0, 1)]

    client.open("x", min_balance=None)
    replies = together(work)
    assert {reply.status for reply in replies} <= {200, 201, 422}
    changes = client.get("/v1/accounts/x/changes?limit=500").json["changes"]
    entries = client.get("/v1/accounts/x/entries?limit=500").json["entries"]
    assert changes
    assert [entry["balance"] for entry in entries] == list(accumulate(entry["amount"] for entry in entries))
    for entry in entries:
        now = {"status": "open", "min_balance": None}
        for change in changes:
            now |= change["after"] if change["changed_at"] < entry["created_at"] else {}
        assert now["status"] == "open", entry
        assert entry["amount"] > 0 or now["min_balance"] is None or entry["balance"] >= now["min_balance"], entry


PROOFS = [
    captures,
    captures_and_releases,
    releases_and_holds,
    reversals,
    parts_of_reversals,
    one_id_for_other_holds,
    freezing,
    closing,
    limiting,
]


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
def test_whoever_comes_first(client: Client, proof: Proof) -> None:
    """The sentence of each proof holds."""
    proof(client)


def meet_after_reading(monkeypatch: pytest.MonkeyPatch, *, then_lock: bool) -> None:
    """Without the accounts' lock, the first postings of an odd and of an even thread decide on what both read."""
    broken.build(monkeypatch, journal._lock, "FOR NO KEY UPDATE", "")
    meet, first = threading.Barrier(2), {0: iter([True]), 1: iter([True])}
    lock_and_read = journal._lock_and_read

    def careless(connection: Connection, requests: Sequence[Request]) -> Any:
        found = lock_and_read(connection, requests)
        number = threading.current_thread().name.removeprefix("caller-")
        if number.isdigit() and next(first[int(number) % 2], False):
            meet.wait()
            if then_lock:
                connection.execute(
                    "SELECT FROM account WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", [list(found.accounts)]
                )
        return found

    monkeypatch.setattr(journal, "_lock_and_read", careless)


@pytest.mark.parametrize("then_lock", [False, True], ids=["without-locks", "locks-after-reading"])
@pytest.mark.parametrize("proof", PROOFS[:5], ids=lambda proof: proof.__name__)
def test_a_build_that_reads_without_locks_is_found(
    client: Client, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, proof: Proof, then_lock: bool
) -> None:
    """Broken on purpose: the same proof fails."""
    meet_after_reading(monkeypatch, then_lock=then_lock)
    with pytest.raises(AssertionError):
        proof(client)
    empty(owner)


def test_a_build_that_does_not_try_again_after_a_race_is_found(
    client: Client, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: the second user of an id would be told an error of ours."""
    monkeypatch.setattr(database, "RACES", frozenset())
    meet_after_reading(monkeypatch, then_lock=False)
    with pytest.raises(AssertionError):
        one_id_for_other_holds(client)
    empty(owner)


@pytest.mark.parametrize("proof", PROOFS[6:], ids=lambda proof: proof.__name__)
def test_a_build_that_posts_on_what_an_account_was_is_found(
    client: Client, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    """Broken on purpose: without the lock, an account is changed and used between reading and writing of a posting."""
    broken.build(monkeypatch, journal._lock, "FOR NO KEY UPDATE", "")
    first, changed, used = iter([True]), threading.Event(), threading.Event()
    lock_and_read, post, change = journal._lock_and_read, journal.post, accounts.change

    def careless(connection: Connection, requests: Sequence[Request]) -> Any:
        found = lock_and_read(connection, requests)
        if next(first, False):
            changed.wait()
            used.wait()
        return found

    def telling(work: Callable[..., Any], event: threading.Event) -> Callable[..., Any]:
        def tell(*given: Any, **named: Any) -> Any:
            made = work(*given, **named)
            event.set()
            return made

        return tell

    monkeypatch.setattr(journal, "_lock_and_read", careless)
    monkeypatch.setattr(journal, "post", telling(post, used))
    monkeypatch.setattr(accounts, "change", telling(change, changed))
    with pytest.raises(AssertionError):
        proof(client)
    empty(owner)


@pytest.mark.promise(41)
def test_a_hold_that_ends_ends_once(client: Client) -> None:
    """Captured, released or expired: the first end that anybody is told is the only one that is ever told."""
    ends: dict[str, set[str]] = {}

    def see(reply: Reply) -> None:
        if reply.status == 200 and reply.json["status"] != "open":
            ends[reply.json["id"]].add(reply.json["status"])

    def work(thread: int) -> list[Reply]:
        for n in range(ROUNDS * 2):
            time.sleep(0.004)
            id = f"h{n}"
            see(client.get(f"/v1/holds/{id}"))
            if thread % 4 == 1 and client.capture(f"c{n}-{thread}", id).status == 201:
                ends[id].add("captured")
            if thread % 4 == 2 and thread < 4:
                see(client.release(id))
            see(client.get(f"/v1/holds/{id}"))
        return []

    for n in range(ROUNDS * 2):
        ends[f"h{n}"] = set()
        until = datetime.now(UTC) + timedelta(milliseconds=30 + 9 * n)
        client.hold(f"h{n}", "a", "b", 1, expires_at=until.isoformat())
    together(work)
    for id in ends:
        see(client.get(f"/v1/holds/{id}"))
    assert {id: len(found) for id, found in ends.items()} == dict.fromkeys(ends, 1), ends
    assert client.amounts("a")[1] == 0


@pytest.mark.promise(41)
@pytest.mark.parametrize("end", [lambda client: client.capture("c", "h"), lambda client: client.release("h")])
def test_a_hold_that_was_told_expired_stays_expired(
    client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch, end: Callable[[Client], Reply]
) -> None:
    """It comes due between the decision and the writing of its capture or release: these come too late."""
    decided, seen = threading.Event(), threading.Event()
    write = journal._write_and_commit

    def waiting(*given: Any) -> Any:
        decided.set()
        seen.wait()
        return write(*given)

    until = clock.stop() + timedelta(seconds=1)
    client.hold("h", "a", "b", 5, expires_at=timestamp(until))
    monkeypatch.setattr(journal, "_write_and_commit", waiting)
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(end(client)))
    thread.start()
    decided.wait()
    clock.turn(seconds=1)
    told = client.get("/v1/holds/h").json
    seen.set()
    thread.join()
    assert (told["status"], client.get("/v1/holds/h").json) == ("expired", told)
    assert replies[0].slug == "hold-not-open" or replies[0].json == told
    assert client.amounts("a") == (0, 0, 0)


def look_while_captured(client: Client, owner: psycopg.Connection[Any], clock: Clock, urls: Urls) -> None:
    """A reader who comes after the end of a hold waits for the capture that got its time before, and tells of it."""
    until = clock.stop() + timedelta(seconds=1)
    client.hold("h", "a", "b", 5, expires_at=timestamp(until))
    captured, seen = list[Reply](), list[Reply]()
    capturing = threading.Thread(target=lambda: captured.append(client.capture("c", "h")))
    looking = threading.Thread(target=lambda: seen.append(client.get("/v1/holds/h")))
    with psycopg.connect(urls.owner) as other:
        other.execute("SELECT FROM hold FOR UPDATE")  # what a capture writes after it took its time
        for turned, thread, waiting in ((0, capturing, 1), (1, looking, 2)):
            clock.turn(seconds=turned)
            thread.start()
            locks = "SELECT FROM pg_locks WHERE NOT granted"
            while thread.is_alive() and len(owner.execute(locks).fetchall()) < waiting:
                pass
    capturing.join()
    looking.join()
    assert captured[0].status == 201
    assert seen[0].json["status"] == "captured"


@pytest.mark.promise(41)
def test_who_looks_while_a_hold_is_captured_waits_for_it(
    client: Client, owner: psycopg.Connection[Any], clock: Clock, urls: Urls
) -> None:
    """Nobody is told `expired` of a hold that was captured just before its end."""
    look_while_captured(client, owner, clock, urls)


def test_a_build_that_does_not_wait_for_captures_is_found(
    client: Client, owner: psycopg.Connection[Any], clock: Clock, urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: the same proof fails."""
    monkeypatch.setattr(transfers, "number_at", lambda connection, at: None)
    with pytest.raises(AssertionError):
        look_while_captured(client, owner, clock, urls)


def test_batches_that_capture_and_reverse_cross(client: Client) -> None:
    """Holds and transfers between the same accounts, in every order: all is done, and no two wait for each other."""
    rings = ["abcd", "dcba", "bdac", "cadb"]
    for thread in range(THREADS):
        ring = rings[thread % 4]
        for n, (source, target) in enumerate(zip(ring, ring[1:] + ring[0], strict=True)):
            client.hold(f"h{thread}-{n}", source, target, 5)
            client.move(f"t{thread}-{n}", source, target, 5)

    def work(thread: int) -> list[Reply]:
        replies = []
        for n in range(4):
            items: list[dict[str, Any]] = [{"id": f"c{thread}-{n}", "captures": f"h{thread}-{n}", "amount": 2}]
            for k in range(4):
                items.append({"id": f"r{thread}-{n}-{k}", "reverses": f"t{(thread + n) % THREADS}-{k}", "amount": 1})
            replies.append(client.batch(*items, atomic=bool(n % 2)))
        return replies

    replies = together(work)
    assert {reply.status for reply in replies} == {200}
    assert {result["status"] for reply in replies for result in reply.json["results"]} == {201}
