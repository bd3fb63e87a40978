"""POST /v1/transfers"""

from typing import Any

import pytest

from tests.client import Client, capture, item, reverse
from tests.conftest import Unchanged


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    """`a` has 100, `b` has nothing."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.move("fund", "world", "a", 100)


@pytest.mark.promise(9)
def test_each_item_has_its_result_in_order(client: Client) -> None:
    """Posted, declined, unknown and conflicting items stand side by side."""
    reply = client.batch(
        item("t1", "a", "b", 60),
        item("t2", "a", "b", 60),
        item("t3", "a", "nobody", 1),
        item("fund", "a", "b", 1),
        item("t4", "b", "a", 10),
    )
    results = reply.json["results"]
    assert reply.status == 200
    assert [result["status"] for result in results] == [201, 422, 422, 409, 201]
    assert results[1]["problem"]["type"] == "/problems/insufficient-funds"
    assert results[2]["problem"]["type"] == "/problems/account-not-found"
    assert (results[0]["transfer"]["number"], results[4]["transfer"]["number"]) == (2, 3)
    assert (client.balance("a"), client.balance("b")) == (50, 50)


@pytest.mark.promise(9)
def test_an_item_sees_what_the_ones_before_it_did(client: Client) -> None:
    """Money that comes in with one item can go out with the next."""
    reply = client.batch(item("t1", "a", "b", 100), item("t2", "b", "a", 100), item("t3", "a", "b", 100), atomic=True)
    assert [result["transfer"]["to_balance"] for result in reply.json["results"]] == [100, 100, 100]


def test_an_id_that_stands_twice_is_replayed(client: Client) -> None:
    """The second of two equal items moves nothing and shows the first one's transfer."""
    first, second = client.batch(item("t", "a", "b", 10), item("t", "a", "b", 10)).json["results"]
    assert (first["status"], second["status"]) == (201, 200)
    assert first["transfer"] == second["transfer"]


def test_an_id_that_stands_twice_with_other_content_conflicts(client: Client) -> None:
    """The second of two unequal items is told what differs."""
    _, second = client.batch(item("t", "a", "b", 10), item("t", "a", "b", 11)).json["results"]
    assert (second["status"], second["problem"]["differs"]) == (409, ["amount"])


@pytest.mark.promise(8)
def test_an_atomic_batch_posts_everything(client: Client) -> None:
    """All items of a good atomic batch are posted, with numbers in their order."""
    reply = client.batch(*(item(f"t{n}", "a", "b", n) for n in range(1, 11)), atomic=True)
    assert [result["transfer"]["number"] for result in reply.json["results"]] == list(range(2, 12))


@pytest.mark.promise(8)
@pytest.mark.parametrize(
    ("bad", "reason", "members"),
    [
        (item("bad", "a", "b", 1000), "insufficient-funds", {"account": "a", "available": 90}),
        (item("bad", "a", "nobody", 1), "account-not-found", {"account": "nobody"}),
        (item("fund", "a", "b", 1), "id-conflict", {"differs": ["from", "to", "amount"]}),
    ],
)
def test_a_refused_atomic_batch_leaves_nothing(
    client: Client, nothing_changes: Unchanged, bad: dict[str, Any], reason: str, members: dict[str, Any]
) -> None:
    """The first item that is refused refuses all, is named, and even a decline is not remembered."""
    with nothing_changes():
        reply = client.batch(item("good", "a", "b", 10), bad, item("worse", "b", "nobody", 1), atomic=True)
    assert (reply.status, reply.slug) == (422, "batch-refused")
    assert (reply.json["index"], reply.json["reason"]) == (1, reason)
    assert {name: reply.json[name] for name in members} == members


class TestCapturesAndReversals:
    """Transfers that follow a hold or another transfer, beside plain ones. `h` and `g` set 30 and 20 of `a` aside."""

    @pytest.fixture(autouse=True)
    def holds(self, client: Client) -> None:
        client.hold("h", "a", "b", 30)
        client.hold("g", "a", "b", 20)

    def test_all_kinds_stand_side_by_side(self, client: Client) -> None:
        """Each item has its result in its place, whatever kind it is of."""
        reply = client.batch(
            capture("c1", "h", amount=10),
            item("t1", "a", "b", 5),
            capture("c2", "h"),
            reverse("r1", "t1"),
            capture("c3", "nowhere"),
            reverse("r2", "nowhere"),
            reverse("r3", "t1", amount=1),
            capture("c4", "g", amount=21),
            reverse("r4", "fund", amount=7),
        )
        results = reply.json["results"]
        told = [result.get("transfer", {}).get("id") or result["problem"]["type"][10:] for result in results]
        first = ["c1", "t1", "hold-not-open", "r1", "hold-not-found", "transfer-not-found"]
        assert told == [*first, "reversal-exceeds-transfer", "capture-exceeds-hold", "r4"]
        assert [result["transfer"]["number"] for result in results if "transfer" in result] == [2, 3, 4, 5]
        assert (client.amounts("a"), client.balance("b")) == ((83, 20, 63), 10)

    @pytest.mark.parametrize("atomic", [True, False])
    def test_an_item_may_follow_an_earlier_one(self, client: Client, atomic: bool) -> None:
        """A reversal of a reversal of a transfer that is new itself, and what the capture before it made possible."""
        reply = client.batch(
            item("t", "a", "b", 50),
            reverse("r", "t", amount=40),
            reverse("rr", "r", amount=30),
            reverse("rrr", "rr"),
            capture("c", "h"),
            reverse("rc", "c", amount=5),
            atomic=atomic,
        )
        transfers = [result["transfer"] for result in reply.json["results"]]
        assert [transfer["amount"] for transfer in transfers] == [50, 40, 30, 30, 30, 5]
        assert [transfer["reverses"] for transfer in transfers] == [None, "t", "r", "rr", None, "c"]
        assert [client.get(f"/v1/transfers/{transfer['id']}").json for transfer in transfers] == transfers
        assert (client.amounts("a"), client.balance("b")) == ((65, 20, 45), 35)

    def test_what_a_capture_frees_the_next_item_can_spend(self, client: Client) -> None:
        """50 of 100 are free; the rest of a captured hold comes to them at once."""
        items = (item("t1", "a", "b", 51), capture("c", "h", amount=1), item("t2", "a", "b", 79))
        first, _, third = client.batch(*items).json["results"]
        assert (first["problem"]["available"], third["status"]) == (50, 201)
        assert client.amounts("a") == (20, 20, 0)

    def test_a_later_item_is_not_there_yet(self, client: Client) -> None:
        """An item cannot give back what comes after it."""
        first, second = client.batch(reverse("r", "t"), item("t", "a", "b", 1)).json["results"]
        assert (first["problem"]["type"], second["status"]) == ("/problems/transfer-not-found", 201)

    @pytest.mark.parametrize(
        ("bad", "reason", "members"),
        [
            (capture("bad", "g", amount=21), "capture-exceeds-hold", {"available": 20}),
            (capture("bad", "h"), "hold-not-open", {}),
            (capture("bad", "nowhere"), "hold-not-found", {}),
            (reverse("bad", "good", amount=11), "reversal-exceeds-transfer", {"available": 10}),
            (reverse("bad", "nowhere"), "transfer-not-found", {}),
            (reverse("fund", "fund"), "id-conflict", {"differs": ["reverses", "amount"]}),
        ],
    )
    def test_a_refused_atomic_batch_leaves_nothing(
        self, client: Client, nothing_changes: Unchanged, bad: dict[str, Any], reason: str, members: dict[str, Any]
    ) -> None:
        """No transfer, no captured hold, and no decline, whatever kind of item was refused."""
        with nothing_changes():
            reply = client.batch(item("good", "a", "b", 10), capture("c", "h"), bad, reverse("r", "good"), atomic=True)
        assert (reply.status, reply.slug) == (422, "batch-refused")
        assert (reply.json["index"], reply.json["reason"]) == (2, reason)
        assert {name: reply.json[name] for name in members} == members

    def test_an_atomic_batch_can_be_repeated(self, client: Client, nothing_changes: Unchanged) -> None:
        """Captures and reversals without an amount are replayed too, though nothing is left of what they name."""
        items = [item("t", "a", "b", 10), capture("c", "h"), reverse("r", "t"), reverse("rr", "r")]
        first = client.batch(*items, atomic=True).json["results"]
        with nothing_changes():
            again = client.batch(*items, atomic=True).json["results"]
        assert [result["transfer"] for result in again] == [result["transfer"] for result in first]

    def test_the_same_capture_twice(self, client: Client) -> None:
        """The second of two equal items is a replay; under another id it comes too late."""
        one, two, three = client.batch(capture("c", "h"), capture("c", "h"), capture("d", "h")).json["results"]
        assert (one["status"], two["status"], two["transfer"]) == (201, 200, one["transfer"])
        assert three["problem"]["type"] == "/problems/hold-not-open"

    @pytest.mark.parametrize(
        ("bad", "pointers"),
        [
            (capture("c", "h", reverses="fund"), ["reverses"]),
            (capture("c", "h", currency="EUR"), ["currency"]),
            (reverse("r", "fund", to="b", **{"from": "a"}), ["from", "to"]),
            ({"captures": "h"}, ["id"]),
            (capture("c", "-h", amount=0), ["amount", "captures"]),
        ],
    )
    def test_faults_name_their_item(
        self, client: Client, nothing_changes: Unchanged, bad: dict[str, Any], pointers: list[str]
    ) -> None:
        """Members that do not go together are faults of the body, and refuse all of it."""
        with nothing_changes():
            reply = client.batch(item("t1", "a", "b", 1), bad)
        assert [error["pointer"] for error in reply.json["errors"]] == [f"/transfers/1/{name}" for name in pointers]


def test_an_atomic_batch_can_be_repeated(client: Client, nothing_changes: Unchanged) -> None:
    """The same atomic batch again gives the same transfers and moves nothing."""
    items = [item("t1", "a", "b", 10), item("t2", "b", "a", 5)]
    first = client.batch(*items, atomic=True).json["results"]
    with nothing_changes():
        again = client.batch(*items, atomic=True).json["results"]
    assert [result["transfer"] for result in again] == [result["transfer"] for result in first]
    assert [result["status"] for result in again] == [200, 200]


def test_an_atomic_batch_with_a_declined_replay_is_refused(client: Client, nothing_changes: Unchanged) -> None:
    """An id that was declined before cannot be part of an atomic success."""
    client.move("big", "a", "b", 1000)
    with nothing_changes():
        reply = client.batch(item("good", "a", "b", 1), item("big", "a", "b", 1000), atomic=True)
    assert (reply.json["index"], reply.json["reason"]) == (1, "insufficient-funds")


def test_faults_name_their_item(client: Client, nothing_changes: Unchanged) -> None:
    """One bad member refuses the whole request before anything is posted, whether atomic or not."""
    with nothing_changes():
        reply = client.batch(item("t1", "a", "b", 1), item("t2", "a", "b", 0), {"id": "t3"})
    pointers = [error["pointer"] for error in reply.json["errors"]]
    assert pointers == [f"/transfers/{p}" for p in ("1/amount", "2/from", "2/to", "2/amount", "2/currency")]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"atomic": True},
        {"transfers": [item("t", "a", "b", 1)]},
        {"atomic": "yes", "transfers": [item("t", "a", "b", 1)]},
        {"atomic": 1, "transfers": [item("t", "a", "b", 1)]},
        {"atomic": False, "transfers": []},
        {"atomic": False, "transfers": {}},
        {"atomic": False, "transfers": [7]},
        {"atomic": False, "transfers": [item("t", "a", "b", 1)], "mode": "fast"},
    ],
)
def test_refuses_what_is_no_batch(client: Client, nothing_changes: Unchanged, body: Any) -> None:
    """A batch says whether it is atomic and has at least one transfer."""
    with nothing_changes():
        assert client.post("/v1/transfers", body).slug == "invalid-request"
