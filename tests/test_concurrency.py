"""Many callers at once: exactly one effect for each id, no deadlock, and books that balance."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest

from service import config, wsgi
from service.database import Connection
from service.ledger import journal
from service.ledger.records import Request, TransferRequest
from tests.client import Client, Reply, item

THREADS = 8


def together(work: Callable[[int], list[Reply]]) -> list[Reply]:
    """What each of the threads got; they start at the same moment."""
    barrier = threading.Barrier(THREADS)
    replies: list[list[Reply]] = [[] for _ in range(THREADS)]

    def run(number: int) -> None:
        barrier.wait()
        replies[number] = work(number)

    threads = [threading.Thread(target=run, args=[number], name=f"caller-{number}") for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [reply for some in replies for reply in some]


def figures(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    """Sessions of this database, and the deadlocks that sessions met; each tells its own at its end at the latest."""
    connection.execute("SELECT pg_stat_clear_snapshot()")
    row = connection.execute(
        "SELECT numbackends, deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    return row or (0, 0)


@pytest.fixture
def deadlocks() -> int:
    """How many deadlocks a test is to meet."""
    return 0


@pytest.fixture
def client(environment: dict[str, str], owner: psycopg.Connection[Any], deadlocks: int) -> Iterator[Client]:
    """A caller of an application of its own, so that its sessions end and tell of their deadlocks."""
    sessions, before = figures(owner)
    built = wsgi.build(config.load(environment))
    caller = Client(built)
    caller.open("a", "b", "c", "d", min_balance=None)
    caller.open("poor")
    yield caller
    built.parts.database.close()
    while figures(owner)[0] > sessions:
        pass
    assert figures(owner)[1] == before + deadlocks


def test_transfers_cross_the_same_accounts(client: Client) -> None:
    """Half of the threads move from a to b, half from b to a: all are posted, and no two wait for each other."""

    def work(thread: int) -> list[Reply]:
        source, target = ("a", "b") if thread % 2 else ("b", "a")
        return [client.move(f"t{thread}-{n}", source, target, 1) for n in range(40)]

    replies = together(work)
    assert Counter(reply.status for reply in replies) == {201: THREADS * 40}
    assert sorted(reply.json["number"] for reply in replies) == list(range(1, THREADS * 40 + 1))
    assert client.balance("a") == 0


def test_batches_cross_many_accounts(client: Client) -> None:
    """Batches name the same accounts in every order."""
    rings = ["abcd", "dcba", "bdac", "cadb"]

    def work(thread: int) -> list[Reply]:
        ring = rings[thread % 4]
        pairs = list(zip(ring, ring[1:] + ring[0], strict=True))
        return [client.batch(*(item(f"t{thread}-{n}-{x}", x, y, 1) for x, y in pairs), atomic=True) for n in range(20)]

    replies = together(work)
    assert {result["status"] for reply in replies for result in reply.json["results"]} == {201}
    assert [client.balance(id) for id in "abcd"] == [0, 0, 0, 0]


@pytest.mark.promise(6)
def test_one_id_from_all_threads_has_one_effect(client: Client) -> None:
    """One caller is told 201, all others 200, with the same transfer."""
    replies = together(lambda thread: [client.move(f"t{n}", "a", "b", 1) for n in range(20)])
    assert Counter(reply.status for reply in replies) == {201: 20, 200: (THREADS - 1) * 20}
    assert client.balance("b") == 20
    assert len({reply.body for reply in replies}) == 20


@pytest.mark.promise(6)
def test_one_id_with_other_accounts_has_one_effect(client: Client) -> None:
    """Requests that share no lock still share the id: one is posted, the others conflict."""
    pairs = [("a", "b"), ("c", "d"), ("b", "a"), ("d", "c")]
    replies = together(lambda thread: [client.move(f"t{n}", *pairs[thread % 4], 1) for n in range(20)])
    told = Counter(reply.status for reply in replies)
    assert (told[201], told[409], told[200]) == (20, 20 * 6, 20)


def test_ids_in_opposite_orders_do_not_block_each_other(client: Client) -> None:
    """Batches on other accounts that share their ids, forward and backward, all come to an end."""

    def work(thread: int) -> list[Reply]:
        source, target = ("a", "b") if thread % 2 else ("c", "d")
        order = range(10) if thread % 2 else range(9, -1, -1)
        return [client.batch(*(item(f"r{n}-t{k}", source, target, 1) for k in order)) for n in range(10)]

    results = [result["status"] for reply in together(work) for result in reply.json["results"]]
    assert (results.count(201), set(results)) == (100, {200, 201, 409})


@pytest.mark.promise(7)
def test_the_floor_holds_under_a_rush(client: Client) -> None:
    """Of many transfers that the account can pay once, exactly as many are posted as it can pay."""
    client.move("fund", "a", "poor", 10)
    replies = together(lambda thread: [client.move(f"t{thread}-{n}", "poor", "b", 3) for n in range(5)])
    assert Counter(reply.status for reply in replies) == {201: 3, 422: THREADS * 5 - 3}
    assert client.balance("poor") == 1


@pytest.mark.promise(10)
def test_the_feed_never_skips(client: Client) -> None:
    """A reader that follows the feed while others post sees every number, in order, without a gap."""
    seen: list[int] = []
    posted = threading.Event()

    def follow() -> None:
        while not posted.is_set() or len(seen) < THREADS * 20:
            page = client.get(f"/v1/transfers?after={len(seen)}&limit=500").json["transfers"]
            seen.extend(row["number"] for row in page)
            assert seen == list(range(1, len(seen) + 1))

    reader = threading.Thread(target=follow)
    reader.start()
    together(lambda thread: [client.move(f"t{thread}-{n}", "a", "b", 1) for n in range(20)])
    posted.set()
    reader.join()
    assert len(seen) == THREADS * 20


@pytest.mark.parametrize("deadlocks", [1])
def test_a_build_that_locks_in_the_order_asked_deadlocks(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose: without one order of locks the server counts a deadlock, so the others' check can fail."""
    meet = threading.Barrier(2)
    lock_and_read = journal._lock_and_read
    first_two = iter([True, True])

    def careless(connection: Connection, requests: Sequence[Request]) -> Any:
        if next(first_two, False):
            (request,) = requests
            assert isinstance(request, TransferRequest)
            connection.execute("BEGIN")
            connection.execute("SET LOCAL lock_timeout = '3s'")  # more than the second after which the server looks
            connection.execute("SELECT FROM account WHERE id = %s FOR NO KEY UPDATE", [request.from_account])
            meet.wait()
            connection.execute("SELECT FROM account WHERE id = %s FOR NO KEY UPDATE", [request.to_account])
            connection.execute("ROLLBACK")
        return lock_and_read(connection, requests)

    monkeypatch.setattr(journal, "_lock_and_read", careless)
    pairs = [("a", "b"), ("b", "a")]
    threads = [threading.Thread(target=client.move, args=[f"t-{x}", x, y, 1]) for x, y in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [client.get(f"/v1/transfers/t-{id}").status for id in "ab"] == [200, 200]
