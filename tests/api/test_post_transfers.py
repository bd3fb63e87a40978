"""POST /v1/transfers: batches."""

from typing import Any

import pytest

from tests.support.client import Client, capture, item, reverse
from tests.support.ledger import Unchanged

pytestmark = pytest.mark.usefixtures("accounts")


@pytest.fixture
def holds(client: Client, accounts: None) -> None:
    """The holds `h` and `g` reserve 30 and 20 of the 100 of `a` for `b`."""
    client.hold("h", "a", "b", 30)
    client.hold("g", "a", "b", 20)


@pytest.mark.promise(9)
def test_each_item_has_its_own_result_in_order(client: Client) -> None:
    """A batch that is not atomic can have posted, declined, refused and conflicting items."""
    reply = client.batch(
        item("t1", "a", "b", 60),
        item("t2", "a", "b", 60),
        item("t3", "a", "unknown", 1),
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


@pytest.mark.usefixtures("holds")
def test_plain_transfers_captures_and_reversals_can_be_in_one_batch(client: Client) -> None:
    """The results are in the order of the items, and only posted transfers have numbers."""
    reply = client.batch(
        capture("c1", "h", amount=10),
        item("t1", "a", "b", 5),
        capture("c2", "h"),
        reverse("r1", "t1"),
        capture("c3", "unknown"),
        reverse("r2", "unknown"),
        reverse("r3", "t1", amount=1),
        capture("c4", "g", amount=21),
        reverse("r4", "fund", amount=7),
    )
    results = reply.json["results"]
    ids_and_problems = [
        result["transfer"]["id"] if "transfer" in result else result["problem"]["type"].removeprefix("/problems/")
        for result in results
    ]
    refused = ["hold-not-found", "transfer-not-found", "reversal-exceeds-transfer", "capture-exceeds-hold"]
    assert ids_and_problems == ["c1", "t1", "hold-not-open", "r1", *refused, "r4"]
    assert [result["transfer"]["number"] for result in results if "transfer" in result] == [2, 3, 4, 5]
    assert (client.amounts("a"), client.balance("b")) == ((83, 20, 63), 10)


@pytest.mark.promise(9)
def test_an_item_can_spend_what_an_earlier_item_moved(client: Client) -> None:
    """The balances include the transfers of the items before it."""
    reply = client.batch(item("t1", "a", "b", 100), item("t2", "b", "a", 100), item("t3", "a", "b", 100), atomic=True)
    assert [result["transfer"]["to_balance"] for result in reply.json["results"]] == [100, 100, 100]


@pytest.mark.usefixtures("holds")
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "not atomic"])
def test_an_item_can_reverse_what_an_earlier_item_posted(client: Client, atomic: bool) -> None:
    """This includes reversals of reversals and the reversal of a capture."""
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


@pytest.mark.usefixtures("holds")
def test_an_item_can_spend_what_an_earlier_capture_released(client: Client) -> None:
    """50 of 100 are available; the part of a hold that is not captured becomes available at once."""
    items = (item("t1", "a", "b", 51), capture("c", "h", amount=1), item("t2", "a", "b", 79))
    first, _, third = client.batch(*items).json["results"]
    assert (first["problem"]["available"], third["status"]) == (50, 201)
    assert client.amounts("a") == (20, 20, 0)


def test_an_item_cannot_reverse_a_later_item(client: Client) -> None:
    """The transfer does not exist yet."""
    first, second = client.batch(reverse("r", "t"), item("t")).json["results"]
    assert (first["problem"]["type"], second["status"]) == ("/problems/transfer-not-found", 201)


def test_the_second_of_two_equal_items_is_a_replay(client: Client) -> None:
    """It moves no money and returns the transfer of the first item."""
    first, second = client.batch(item("t", "a", "b", 10), item("t", "a", "b", 10)).json["results"]
    assert (first["status"], second["status"]) == (201, 200)
    assert first["transfer"] == second["transfer"]


@pytest.mark.usefixtures("holds")
def test_the_second_of_two_equal_captures_is_a_replay(client: Client) -> None:
    """A capture of the same hold under another id is declined."""
    one, two, three = client.batch(capture("c", "h"), capture("c", "h"), capture("d", "h")).json["results"]
    assert (one["status"], two["status"], two["transfer"]) == (201, 200, one["transfer"])
    assert three["problem"]["type"] == "/problems/hold-not-open"


def test_the_second_of_two_different_items_with_one_id_is_a_conflict(client: Client) -> None:
    """The problem lists the members that differ."""
    _, second = client.batch(item("t", "a", "b", 10), item("t", "a", "b", 11)).json["results"]
    assert (second["status"], second["problem"]["differs"]) == (409, ["amount"])


@pytest.mark.promise(8)
def test_an_atomic_batch_posts_all_items(client: Client) -> None:
    """The numbers are in the order of the items."""
    reply = client.batch(*(item(f"t{n}", "a", "b", n) for n in range(1, 11)), atomic=True)
    assert [result["transfer"]["number"] for result in reply.json["results"]] == list(range(2, 12))


@pytest.mark.promise(8)
@pytest.mark.usefixtures("holds")
@pytest.mark.parametrize(
    ("refused", "reason", "members"),
    [
        (item("x", "a", "b", 1000), "insufficient-funds", {"account": "a", "available": 40}),
        (item("x", "a", "unknown"), "account-not-found", {"account": "unknown"}),
        (item("fund", "a", "b"), "id-conflict", {"differs": ["from", "to", "amount"]}),
        (capture("x", "g", amount=21), "capture-exceeds-hold", {"available": 20}),
        (capture("x", "h"), "hold-not-open", {}),
        (capture("x", "unknown"), "hold-not-found", {}),
        (reverse("x", "t", amount=11), "reversal-exceeds-transfer", {"available": 10}),
        (reverse("x", "unknown"), "transfer-not-found", {}),
        (reverse("fund", "fund"), "id-conflict", {"differs": ["reverses", "amount"]}),
    ],
)
def test_a_refused_atomic_batch_changes_nothing(
    client: Client, nothing_changes: Unchanged, refused: dict[str, Any], reason: str, members: dict[str, Any]
) -> None:
    """The problem describes the first refused item. No item is applied, and no decline is stored."""
    before, after = [item("t", "a", "b", 10), capture("c", "h")], [reverse("r", "t"), item("y", "b", "unknown")]
    with nothing_changes():
        reply = client.batch(*before, refused, *after, atomic=True)
    assert (reply.status, reply.slug) == (422, "batch-refused")
    assert (reply.json["index"], reply.json["reason"]) == (2, reason)
    assert {name: reply.json[name] for name in members} == members


@pytest.mark.usefixtures("holds")
def test_an_atomic_batch_can_be_repeated(client: Client, nothing_changes: Unchanged) -> None:
    """Every item is a replay, even if nothing is left of the hold or transfer that it names."""
    items = [item("t", "a", "b", 10), item("u", "b", "a", 5), capture("c", "h"), reverse("r", "t"), reverse("rr", "r")]
    first = client.batch(*items, atomic=True).json["results"]
    with nothing_changes():
        again = client.batch(*items, atomic=True).json["results"]
    assert [result["transfer"] for result in again] == [result["transfer"] for result in first]
    assert [result["status"] for result in again] == [200] * 5


def test_an_atomic_batch_with_a_declined_replay_is_refused(client: Client, nothing_changes: Unchanged) -> None:
    """An id that was declined earlier cannot be posted."""
    client.move("big", "a", "b", 1000)
    with nothing_changes():
        reply = client.batch(item("t"), item("big", "a", "b", 1000), atomic=True)
    assert (reply.json["index"], reply.json["reason"]) == (1, "insufficient-funds")


@pytest.mark.parametrize(
    ("items", "pointers"),
    [
        ([item("t", amount=0), {"id": "u"}], ["1/amount", "2/from", "2/to", "2/amount", "2/currency"]),
        ([capture("c", "h", reverses="fund")], ["1/reverses"]),
        ([capture("c", "h", currency="EUR")], ["1/currency"]),
        ([reverse("r", "fund", to="b", **{"from": "a"})], ["1/from", "1/to"]),
        ([{"captures": "h"}], ["1/id"]),
        ([capture("c", "-h", amount=0)], ["1/amount", "1/captures"]),
    ],
)
def test_an_invalid_item_refuses_the_whole_batch(
    client: Client, nothing_changes: Unchanged, items: list[dict[str, Any]], pointers: list[str]
) -> None:
    """This applies to every batch, atomic or not; each error points to its item."""
    with nothing_changes():
        reply = client.batch(item("valid"), *items)
    assert reply.pointers == [f"/transfers/{pointer}" for pointer in pointers]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"atomic": True},
        {"transfers": [item("t")]},
        {"atomic": "yes", "transfers": [item("t")]},
        {"atomic": 1, "transfers": [item("t")]},
        {"atomic": False, "transfers": []},
        {"atomic": False, "transfers": {}},
        {"atomic": False, "transfers": [7]},
        {"atomic": False, "transfers": [item("t")], "mode": "fast"},
    ],
    ids=str,
)
def test_an_invalid_batch_is_refused(client: Client, nothing_changes: Unchanged, body: Any) -> None:
    """A batch has exactly the members `atomic`, a boolean, and `transfers`, a list with at least one item."""
    with nothing_changes():
        assert client.post("/v1/transfers", body).slug == "invalid-request"
