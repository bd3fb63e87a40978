"""Many requests at the same time: each id has exactly one effect, and no request waits in a deadlock."""

import threading
from collections import Counter
from functools import partial
from typing import Any

import pytest

from service.session import Connection, Statement
from tests.support.client import Client, Reply, capture_item, item, reverse_item
from tests.support.threads import THREADS, Call, together
from tests.support.waiting import LIMIT_SECONDS, attempts

# Four accounts in four orders. Requests on them that locked in the order of the request would wait for each other.
ORDERS = ["abcd", "dcba", "bdac", "cadb"]


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """`a` to `d` have no lower limit; `poor` must not go below 0."""
    client.open("a", "b", "c", "d", min_balance=None)
    client.open("poor")


def pairs(order: str) -> list[tuple[str, str]]:
    """The neighbours in this order; the last one and the first one are neighbours too."""
    return list(zip(order, order[1:] + order[0], strict=True))


def test_transfers_in_opposite_directions_are_all_posted(client: Client) -> None:
    """Half of the threads move money from a to b, half from b to a."""

    def work(thread: int) -> list[Reply]:
        source, target = ("a", "b") if thread % 2 else ("b", "a")
        return [client.move(f"t{thread}-{n}", source, target, 1) for n in range(40)]

    replies = together(work)
    assert Counter(reply.status for reply in replies) == {201: THREADS * 40}
    assert sorted(reply.json["number"] for reply in replies) == list(range(1, THREADS * 40 + 1))
    assert client.balance("a") == 0


def test_batches_on_the_same_accounts_in_different_orders_are_all_posted(client: Client) -> None:
    """Atomic batches name four accounts in four orders."""

    def work(thread: int) -> list[Reply]:
        transfers = pairs(ORDERS[thread % 4])
        return [
            client.batch(
                *(item(f"t{thread}-{n}-{source}", source, target, 1) for source, target in transfers), atomic=True
            )
            for n in range(20)
        ]

    replies = together(work)
    assert {result["status"] for reply in replies for result in reply.json["results"]} == {201}
    assert [client.balance(id) for id in "abcd"] == [0, 0, 0, 0]


def test_batches_of_captures_and_reversals_on_the_same_accounts_are_all_posted(client: Client) -> None:
    """Each batch captures one hold and reverses parts of four transfers between the same accounts."""
    for thread in range(THREADS):
        for n, (source, target) in enumerate(pairs(ORDERS[thread % 4])):
            client.hold(f"h{thread}-{n}", source, target, 5)
            client.move(f"t{thread}-{n}", source, target, 5)

    def work(thread: int) -> list[Reply]:
        replies = []
        for n in range(4):
            items = [capture_item(f"c{thread}-{n}", f"h{thread}-{n}", amount=2)]
            for k in range(4):
                items.append(reverse_item(f"r{thread}-{n}-{k}", f"t{(thread + n) % THREADS}-{k}", amount=1))
            replies.append(client.batch(*items, atomic=bool(n % 2)))
        return replies

    replies = together(work)
    assert {reply.status for reply in replies} == {200}
    assert {result["status"] for reply in replies for result in reply.json["results"]} == {201}


@pytest.mark.promise(6)
def test_the_same_transfer_from_all_threads_is_posted_once(client: Client) -> None:
    """One request returns 201, all others return 200 with the same transfer."""
    replies = together(lambda thread: [client.move(f"t{n}", "a", "b", 1) for n in range(20)])
    assert Counter(reply.status for reply in replies) == {201: 20, 200: (THREADS - 1) * 20}
    assert client.balance("b") == 20
    assert len({reply.body for reply in replies}) == 20


@pytest.mark.promise(6)
def test_one_id_with_different_accounts_is_posted_once(client: Client) -> None:
    """Requests that lock different accounts use the same id: one is posted, the others conflict."""
    ends = [("a", "b"), ("c", "d"), ("b", "a"), ("d", "c")]
    replies = together(lambda thread: [client.move(f"t{n}", *ends[thread % 4], 1) for n in range(20)])
    counts = Counter(reply.status for reply in replies)
    assert (counts[201], counts[409], counts[200]) == (20, 20 * 6, 20)


def test_batches_with_the_same_ids_in_opposite_orders_all_end(client: Client) -> None:
    """The batches lock different accounts and insert the same ids, ascending and descending."""

    def work(thread: int) -> list[Reply]:
        source, target = ("a", "b") if thread % 2 else ("c", "d")
        order = range(10) if thread % 2 else range(9, -1, -1)
        return [client.batch(*(item(f"r{n}-t{k}", source, target, 1) for k in order)) for n in range(10)]

    results = [result["status"] for reply in together(work) for result in reply.json["results"]]
    assert (results.count(201), set(results)) == (100, {200, 201, 409})


@pytest.mark.promise(7)
def test_concurrent_transfers_cannot_overdraw_an_account(client: Client) -> None:
    """An account with 10 pays exactly 3 of 40 transfers of 3."""
    client.move("fund", "a", "poor", 10)
    replies = together(lambda thread: [client.move(f"t{thread}-{n}", "poor", "b", 3) for n in range(5)])
    assert Counter(reply.status for reply in replies) == {201: 3, 422: THREADS * 5 - 3}
    assert client.balance("poor") == 1


@pytest.mark.promise(10)
def test_a_consumer_of_the_feed_sees_every_number_in_order(client: Client) -> None:
    """It reads the feed while transfers are posted, and never sees a gap."""
    count = THREADS * 20

    def read_feed() -> list[int]:
        seen: list[int] = []
        for _ in attempts(f"{count} transfers are in the feed"):
            page = client.get(f"/v1/transfers?after={len(seen)}&limit=500").json["transfers"]
            seen.extend(row["number"] for row in page)
            assert seen == list(range(1, len(seen) + 1))
            if len(seen) >= count:
                break
        return seen

    consumer = Call(read_feed)
    together(lambda thread: [client.move(f"t{thread}-{n}", "a", "b", 1) for n in range(20)])
    assert len(consumer.result()) == count
    assert client.get(f"/v1/transfers?after={count}").json["transfers"] == []


@pytest.mark.parametrize("expected_deadlocks", [1])
def test_a_build_that_locks_accounts_in_any_order_causes_a_deadlock(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: the server counts the deadlock, so the check of the other tests can fail."""
    fetch_together = Connection.fetch_together
    orders = iter([("a", "b"), ("b", "a")])
    both_have_one = threading.Barrier(2)

    def lock_in_any_order(connection: Connection, *statements: Statement) -> Any:
        connection.execute("BEGIN")
        for position, id in enumerate(next(orders, ())):
            connection.execute("SELECT FROM account WHERE id = %s FOR NO KEY UPDATE", [id]).fetchall()
            if position == 0:
                both_have_one.wait(LIMIT_SECONDS)
        return [[], *fetch_together(connection, *statements[1:])]  # without BEGIN

    monkeypatch.setattr(Connection, "fetch_together", lock_in_any_order)
    replies = [Call(partial(client.move, f"t{n}", "a", "b", 1), name=f"thread-{n}") for n in range(2)]
    assert [reply.result().status for reply in replies] == [201, 201]
