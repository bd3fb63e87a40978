"""POST /v1/batches: results, atomic batches, and invalid batches. test_batch_items.py has what items see."""

from collections.abc import Callable
from typing import Any

import pytest

from service.contract import LIMITS
from tests.support.client import Client, capture_item, hold_item, item, movement, open_item, release_item, reverse_item
from tests.support.ledger import Unchanged

pytestmark = pytest.mark.usefixtures("accounts")


@pytest.mark.promise(9)
def test_each_item_has_its_own_result_in_order(client: Client) -> None:
    """A batch of transfers that is not atomic can have posted, declined, refused and conflicting items."""
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


@pytest.mark.promise(9)
@pytest.mark.usefixtures("holds")
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "not atomic"])
def test_each_kind_of_item_has_a_result_of_its_kind(client: Client, atomic: bool) -> None:
    """The members of a result are those of the response to a single request; only a release is not created."""
    reply = client.batch(
        open_item("new", metadata={"plan": "free"}),
        item("t", "a", "new", 40),
        hold_item("n", "new", "b", 15),
        capture_item("c", "n", amount=10),
        reverse_item("r", "t", amount=5),
        release_item("h"),
        atomic=atomic,
    )
    kinds = ["account", "transfer", "hold", "transfer", "transfer", "hold"]
    assert [list(result) for result in reply.json["results"]] == [["status", kind] for kind in kinds]
    assert [result["status"] for result in reply.json["results"]] == [201] * 5 + [200]
    last = {
        f"{kind}s/{result[kind]['id']}": result[kind] for kind, result in zip(kinds, reply.json["results"], strict=True)
    }
    changed = {"accounts/new", "holds/n"}  # by later items
    assert all(client.get(f"/v1/{path}").json == record for path, record in last.items() if path not in changed)
    assert (client.amounts("new"), client.amounts("a"), client.balance("b")) == ((25, 0, 25), (65, 20, 45), 10)


def test_an_account_that_is_open_is_shown_as_it_is(client: Client, nothing_changes: Unchanged) -> None:
    """An item with the same values is a replay; with other values it is a conflict."""
    with nothing_changes():
        same, other = client.batch(open_item("a"), open_item("a", currency="USD", min_balance=-1)).json["results"]
    assert (same["status"], same["account"]) == (200, client.get("/v1/accounts/a").json)
    assert (other["status"], other["problem"]["type"]) == (409, "/problems/id-conflict")
    assert other["problem"]["differs"] == ["currency", "min_balance"]


def test_the_release_of_an_unknown_hold_is_not_found(client: Client) -> None:
    """It is the problem of this item alone."""
    unknown, posted = client.batch(release_item("unknown"), item("t")).json["results"]
    assert (unknown["status"], unknown["problem"]["type"]) == (404, "/problems/not-found")
    assert posted["status"] == 201


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
        (capture_item("x", "g", amount=21), "capture-exceeds-hold", {"available": 20}),
        (capture_item("x", "h"), "hold-not-open", {}),
        (capture_item("x", "unknown"), "hold-not-found", {}),
        (reverse_item("x", "t", amount=11), "reversal-exceeds-transfer", {"available": 10}),
        (reverse_item("x", "unknown"), "transfer-not-found", {}),
        (reverse_item("fund", "fund"), "id-conflict", {"differs": ["reverses", "amount"]}),
        (open_item("b", currency="USD"), "id-conflict", {"differs": ["currency"]}),
        (item("x", "a", "new", 21), "max-balance-exceeded", {"account": "new", "available": 20}),
        (hold_item("x", "a", "b", 41), "insufficient-funds", {"account": "a", "available": 40}),
        (hold_item("x", "a", "unknown"), "account-not-found", {"account": "unknown"}),
        (hold_item("n", "b", "new", 2), "id-conflict", {"differs": ["amount"]}),
        (release_item("h"), "hold-not-open", {}),
        (release_item("unknown"), "not-found", {}),
    ],
)
def test_a_refused_atomic_batch_changes_nothing(
    client: Client, nothing_changes: Unchanged, refused: dict[str, Any], reason: str, members: dict[str, Any]
) -> None:
    """The problem describes the first refused item. Nothing is applied, opened or placed, and no decline is stored."""
    before = [
        open_item("new", max_balance=20),
        item("t", "a", "b", 10),
        capture_item("c", "h"),
        hold_item("n", "b", "new", 1),
    ]
    after = [reverse_item("r", "t"), item("y", "b", "unknown")]
    with nothing_changes():
        reply = client.batch(*before, refused, *after, atomic=True)
    assert (reply.status, reply.slug) == (422, "batch-refused")
    assert (reply.json["index"], reply.json["reason"]) == (4, reason)
    assert {name: reply.json[name] for name in members} == members


@pytest.mark.usefixtures("holds")
def test_an_atomic_batch_can_be_repeated(client: Client, nothing_changes: Unchanged) -> None:
    """Every item is a replay, even if nothing is left of the hold or transfer that it names."""
    items = [
        open_item("new"),
        item("t", "a", "new", 10),
        hold_item("n", "new", "b", 5),
        release_item("n"),
        capture_item("c", "h"),
        reverse_item("r", "t"),
        reverse_item("rr", "r"),
    ]
    first = client.batch(*items, atomic=True).json["results"]
    with nothing_changes():
        again = client.batch(*items, atomic=True).json["results"]
    assert [result["status"] for result in again] == [200] * 7
    assert again[0]["account"] == client.get("/v1/accounts/new").json
    assert again[2]["hold"] == again[3]["hold"] == first[3]["hold"]
    assert [again[n]["transfer"] for n in (1, 4, 5, 6)] == [first[n]["transfer"] for n in (1, 4, 5, 6)]


def test_an_atomic_batch_with_a_declined_replay_is_refused(client: Client, nothing_changes: Unchanged) -> None:
    """An id that was declined earlier cannot be posted."""
    client.move("big", "a", "b", 1000)
    with nothing_changes():
        reply = client.batch(item("t"), item("big", "a", "b", 1000), atomic=True)
    assert (reply.json["index"], reply.json["reason"]) == (1, "insufficient-funds")


@pytest.mark.parametrize(
    ("items", "pointers"),
    [
        (
            [item("t", amount=0), {"transfer": {"id": "u"}}],
            ["1/transfer/amount", *(f"2/transfer/{name}" for name in ("from", "to", "amount", "currency"))],
        ),
        ([capture_item("c", "h", reverses="fund")], ["1/transfer/reverses"]),
        ([capture_item("c", "h", currency="EUR")], ["1/transfer/currency"]),
        ([reverse_item("r", "fund", to="b", **{"from": "a"})], ["1/transfer/from", "1/transfer/to"]),
        ([{"transfer": {"captures": "h"}}], ["1/transfer/id"]),
        ([capture_item("c", "-h", amount=0)], ["1/transfer/amount", "1/transfer/captures"]),
        ([item("t", reference="-")], ["1/transfer/reference"]),
        ([open_item("new", currency="eur", status="open")], ["1/account/currency", "1/account/status"]),
        ([open_item("new", min_balance=1, max_balance=-1)], ["1/account/min_balance", "1/account/max_balance"]),
        ([{"account": {"currency": "EUR"}}], ["1/account/id"]),
        ([hold_item("n", "a", "a", expires_at="soon")], ["1/hold/expires_at", "1/hold/to"]),
        ([{"hold": movement()}], ["1/hold/id"]),
        ([{"release": {"id": "h", "amount": 1}}], ["1/release/amount"]),
        ([{"release": {}}, release_item("-h")], ["1/release/id", "2/release/id"]),
    ],
)
def test_an_invalid_item_refuses_the_whole_batch(
    client: Client, nothing_changes: Unchanged, items: list[dict[str, Any]], pointers: list[str]
) -> None:
    """This applies to every batch, atomic or not; each error points to its item."""
    with nothing_changes():
        reply = client.batch(item("valid"), open_item("valid"), *items)
    expected = [f"/items/{int(pointer[0]) + 1}{pointer[1:]}" for pointer in pointers]
    assert sorted(reply.pointers) == sorted(expected)


@pytest.mark.parametrize(
    "invalid",
    [7, None, "t", [], {}, {"refund": {"id": "t"}}, open_item("new") | item("t"), item("t") | {"kind": "transfer"}],
    ids=str,
)
def test_an_item_has_exactly_one_member_that_names_its_kind(
    client: Client, nothing_changes: Unchanged, invalid: Any
) -> None:
    """The pointer of the error is that of the item."""
    with nothing_changes():
        reply = client.batch(item("valid"), invalid, atomic=True)
    assert reply.pointers == ["/items/1"]


@pytest.mark.parametrize("kind", ["account", "transfer", "hold", "release"])
@pytest.mark.parametrize("value", [7, None, "t", [], True], ids=str)
def test_the_value_of_an_item_is_an_object(client: Client, nothing_changes: Unchanged, kind: str, value: Any) -> None:
    """The first error points to the member of the item."""
    with nothing_changes():
        assert client.batch({kind: value}).pointers[0] == f"/items/0/{kind}"


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"atomic": True},
        {"items": [item("t")]},
        {"atomic": "yes", "items": [item("t")]},
        {"atomic": 1, "items": [item("t")]},
        {"atomic": False, "items": []},
        {"atomic": False, "items": {}},
        {"atomic": False, "transfers": [item("t")]},
        {"atomic": False, "items": [item("t")], "mode": "fast"},
    ],
    ids=str,
)
def test_an_invalid_batch_is_refused(client: Client, nothing_changes: Unchanged, body: Any) -> None:
    """A batch has exactly the members `atomic`, a boolean, and `items`, a list with at least one item."""
    with nothing_changes():
        assert client.post("/v1/batches", body).slug == "invalid-request"


@pytest.mark.parametrize(
    "maker",
    [
        lambda n: open_item(f"new{n}"),
        lambda n: item(f"t{n}", "world", "b", n + 1),
        lambda n: hold_item(f"n{n}", "world", "b", n + 1),
        lambda n: release_item(f"n{n}"),
    ],
    ids=["accounts", "transfers", "holds", "releases"],
)
def test_a_batch_can_have_the_most_items_of_each_kind(client: Client, maker: Callable[[int], dict[str, Any]]) -> None:
    """The results are in the order of the items."""
    if maker(0) == release_item("n0"):
        client.batch(*(hold_item(f"n{n}", "world", "b") for n in range(LIMITS.batch_items)))
    items = [maker(n) for n in range(LIMITS.batch_items)]
    results = client.batch(*items, atomic=True).json["results"]
    [kind] = results[0].keys() - {"status"}
    assert [result[kind]["id"] for result in results] == [members["id"] for item in items for members in item.values()]


@pytest.mark.promise(44)
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "not atomic"])
@pytest.mark.parametrize("min_balance", [None, -1])
def test_a_floor_below_zero_requires_the_scope_admin(
    client: Client, nothing_changes: Unchanged, min_balance: int | None, atomic: bool
) -> None:
    """The whole batch is refused, also if the account is open; an invalid item is reported first."""
    writer = client.with_scopes("read", "write")
    client.open("low", min_balance=min_balance)
    items = [item("t"), open_item("low", min_balance=min_balance)]
    with nothing_changes():
        invalid = writer.batch(*items, item("u", amount=0), atomic=atomic)
        reply = writer.batch(*items, atomic=atomic)
    assert invalid.slug == "invalid-request"
    assert (reply.status, reply.slug, reply.json["scope"]) == (403, "forbidden", "admin")
    assert [result["status"] for result in client.batch(*items, atomic=atomic).json["results"]] == [201, 200]


def test_a_floor_of_zero_requires_only_the_scope_write(client: Client) -> None:
    """This includes the default; a ceiling does not matter."""
    writer = client.with_scopes("write")
    reply = writer.batch(open_item("x"), open_item("y", min_balance=0), open_item("z", max_balance=0), item("t"))
    assert [result["status"] for result in reply.json["results"]] == [201] * 4
