"""One id has one result: a repeated request is a replay, and a different body is a conflict."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from service.logs import format_time
from tests.support.client import Client, Reply, capture_item, movement, reverse_item
from tests.support.ledger import Clock, Unchanged

TRANSFER = movement("a", "b", 10, metadata={"k": "v"})
HOLD = TRANSFER | {"expires_at": "2126-12-01T00:00:00Z"}
DIFFERENCES: list[tuple[dict[str, Any], list[str]]] = [  # changes of a body, and what a conflict lists for them
    ({"from": "world"}, ["from"]),
    ({"to": "world"}, ["to"]),
    ({"to": "unknown"}, ["to"]),
    ({"to": "unknown", "amount": 1}, ["to", "amount"]),
    ({"amount": 11}, ["amount"]),
    ({"currency": "USD"}, ["currency"]),
    ({"metadata": {}}, ["metadata"]),
    ({"amount": 11, "metadata": {"k": "w"}}, ["amount", "metadata"]),
]
HOLD_DIFFERENCES: list[tuple[dict[str, Any], list[str]]] = [
    *DIFFERENCES,
    ({"expires_at": None}, ["expires_at"]),
    ({"expires_at": "2126-12-01T00:00:00.000001Z"}, ["expires_at"]),
]


@pytest.fixture(autouse=True)
def transfer(client: Client, accounts: None) -> None:
    """The transfer `t` moved 10 of the 100 of `a` to `b`."""
    client.put("/v1/transfers/t", TRANSFER)


@pytest.mark.promise(2)
def test_a_repeated_transfer_returns_the_first_result(client: Client, nothing_changes: Unchanged) -> None:
    """The response is 200 with the balances of the first response, and no money moves."""
    first = client.get("/v1/transfers/t").json
    client.move("later", "a", "b", 5)
    with nothing_changes():
        again = client.put("/v1/transfers/t", TRANSFER)
    assert (again.status, again.json) == (200, first)


@pytest.mark.promise(3)
@pytest.mark.parametrize(("change", "differs"), DIFFERENCES)
def test_a_transfer_with_a_different_body_is_a_conflict(
    client: Client, nothing_changes: Unchanged, change: dict[str, Any], differs: list[str]
) -> None:
    """The response lists the members that differ, and no money moves."""
    with nothing_changes():
        reply = client.put("/v1/transfers/t", TRANSFER | change)
    assert (reply.status, reply.slug, reply.json["differs"]) == (409, "id-conflict", differs)


@pytest.mark.promise(3)
@pytest.mark.parametrize(("change", "differs"), HOLD_DIFFERENCES)
@pytest.mark.parametrize("status", ["open", "released"])
def test_a_hold_with_a_different_body_is_a_conflict(
    client: Client, nothing_changes: Unchanged, change: dict[str, Any], differs: list[str], status: str
) -> None:
    """The response lists the members that differ, and nothing is reserved."""
    client.put("/v1/holds/h", HOLD)
    if status == "released":
        client.release("h")
    with nothing_changes():
        reply = client.put("/v1/holds/h", HOLD | change)
    assert (reply.status, reply.slug, reply.json["differs"]) == (409, "id-conflict", differs)


def test_a_declined_transfer_or_hold_cannot_be_repeated_with_a_lower_amount(client: Client) -> None:
    """The different amount is a conflict, even if the amount is available."""
    for put in (client.move, client.hold):
        assert put("big", "a", "b", 1000).status == 422
        assert put("big", "a", "b", 1).json["differs"] == ["amount"]


def test_a_single_transfer_can_be_repeated_in_a_batch(client: Client, nothing_changes: Unchanged) -> None:
    """Single transfers and batches share one set of ids."""
    with nothing_changes():
        (result,) = client.batch({"transfer": {"id": "t", **TRANSFER}}).json["results"]
    assert (result["status"], result["transfer"]["id"]) == (200, "t")


def test_a_transfer_can_have_the_id_of_an_account(client: Client) -> None:
    """Accounts and transfers have separate ids."""
    assert client.move("a", "a", "b").status == 201


@pytest.mark.promise(32)
@pytest.mark.parametrize("status", ["open", "released", "captured"])
def test_a_repeated_hold_returns_the_hold_as_it_is_now(client: Client, nothing_changes: Unchanged, status: str) -> None:
    """The response is 200, and nothing is reserved again."""
    assert client.put("/v1/holds/h", HOLD).status == 201
    if status == "released":
        client.release("h")
    if status == "captured":
        client.capture("c", "h")
    with nothing_changes():
        reply = client.put("/v1/holds/h", HOLD)
    assert (reply.status, reply.json["status"]) == (200, status)
    assert reply.json == client.get("/v1/holds/h").json


def test_a_hold_that_is_repeated_after_expires_at_is_expired(client: Client, clock: Clock) -> None:
    """The repeat is not declined, because the first request was posted in time."""
    due = format_time(clock.stop() + timedelta(hours=1))
    client.hold("h", "a", "b", 10, expires_at=due)
    clock.turn(hours=1)
    for _ in range(2):
        reply = client.hold("h", "a", "b", 10, expires_at=due)
        assert (reply.status, reply.json["status"], reply.json["resolved_at"]) == (200, "expired", due)
    assert client.get("/v1/holds/h").json == reply.json


@pytest.fixture(params=["capture", "reversal"])
def follow_up(client: Client, request: pytest.FixtureRequest) -> Callable[..., Reply]:
    """Posts the transfer `x`, which captures the hold `h` of 10 or reverses `t`."""
    client.hold("h", "a", "b", 10)
    if request.param == "capture":
        return lambda **members: client.capture("x", "h", **members)
    return lambda **members: client.reverse("x", "t", **members)


@pytest.mark.promise(32)
@pytest.mark.parametrize("members", [{}, {"amount": 10}, {"amount": 4, "metadata": {"k": "v"}}], ids=str)
def test_a_repeated_capture_or_reversal_returns_the_first_result(
    follow_up: Callable[..., Reply], nothing_changes: Unchanged, members: dict[str, Any]
) -> None:
    """This is also true if nothing is left of the hold or transfer."""
    first = follow_up(**members)
    with nothing_changes():
        again = follow_up(**members)
    assert (first.status, again.status, again.json) == (201, 200, first.json)


@pytest.mark.promise(32)
@pytest.mark.parametrize(
    ("first", "second"), [({}, {"amount": 10}), ({"amount": 10}, {}), ({}, {"amount": 9})], ids=str
)
def test_an_absent_amount_differs_from_every_amount(
    follow_up: Callable[..., Reply], nothing_changes: Unchanged, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """A request for all and a request for 10 are different requests, even if all is 10."""
    assert follow_up(**first).status == 201
    with nothing_changes():
        reply = follow_up(**second)
    assert (reply.status, reply.json["differs"]) == (409, ["amount"])


def test_a_capture_or_reversal_with_different_metadata_is_a_conflict(follow_up: Callable[..., Reply]) -> None:
    """This is the same as for a plain transfer."""
    follow_up()
    assert follow_up(metadata={"k": "v"}).json["differs"] == ["metadata"]


@pytest.mark.parametrize(
    ("body", "differs"),
    [
        ({"captures": "g"}, ["captures"]),
        ({"reverses": "c"}, ["captures", "reverses"]),
        ({"captures": "unknown", "amount": 10}, ["amount", "captures"]),
        (movement("a", "b", 10), ["amount", "captures"]),
    ],
)
def test_a_capture_that_is_repeated_with_another_source_is_a_conflict(
    client: Client, nothing_changes: Unchanged, body: dict[str, Any], differs: list[str]
) -> None:
    """The hold or the transfer that a body names is compared like the other members."""
    client.hold("h", "a", "b", 10)
    client.hold("g", "a", "b", 10)
    client.capture("c", "h")
    with nothing_changes():
        reply = client.put("/v1/transfers/c", body)
    assert (reply.status, sorted(reply.json["differs"])) == (409, differs)


def test_a_plain_transfer_cannot_be_repeated_as_a_capture_or_reversal(client: Client) -> None:
    """`captures` or `reverses` differs, even if accounts and amount are the same."""
    client.hold("h", "a", "b", 10)
    assert client.capture("t", "h", amount=10, metadata={"k": "v"}).json["differs"] == ["captures"]
    assert client.reverse("t", "fund", amount=10, metadata={"k": "v"}).json["differs"] == ["reverses"]


@pytest.mark.promise(32)
def test_a_declined_capture_or_reversal_stays_declined(client: Client, nothing_changes: Unchanged) -> None:
    """A repeat returns the same problem with the same text, even if the balance is high enough by then."""
    client.hold("h", "a", "b", 10)
    client.release("h")
    client.move("spent", "b", "world", 10)
    items = [
        capture_item("c1", "h"),
        capture_item("c2", "h", amount=3),
        reverse_item("r1", "t"),
        reverse_item("r2", "t", amount=11),
    ]
    first = client.batch(*items).json["results"]
    client.move("more", "world", "b", 1000)
    with nothing_changes():
        again = client.batch(*items).json["results"]
    assert {result["status"] for result in first} == {422}
    for result in first + again:
        result["problem"]["request_id"] = ""
    assert again == first


def test_a_declined_reversal_cannot_be_repeated_with_a_different_amount(client: Client) -> None:
    """An absent amount differs too."""
    client.reverse("r", "t", amount=11)
    assert client.reverse("r", "t").json["differs"] == ["amount"]
    assert client.reverse("r", "t", amount=10).json["differs"] == ["amount"]


def test_a_single_capture_and_a_single_reversal_can_be_repeated_in_a_batch(
    client: Client, nothing_changes: Unchanged
) -> None:
    """Both items are replays."""
    client.hold("h", "a", "b", 10)
    client.capture("c", "h", amount=4)
    client.reverse("r", "t")
    with nothing_changes():
        results = client.batch(capture_item("c", "h", amount=4), reverse_item("r", "t"), atomic=True).json["results"]
    assert [result["status"] for result in results] == [200, 200]
