"""PUT /v1/holds/{id}"""

from datetime import timedelta
from typing import Any

import pytest

from service.logs import format_time
from tests.support.client import Client, item
from tests.support.ledger import Clock, Unchanged

pytestmark = pytest.mark.usefixtures("accounts")


def test_a_hold_reserves_its_amount(client: Client) -> None:
    """`held` increases and `available` decreases; no balance changes."""
    reply = client.hold("h", "a", "b", 30, expires_at="2126-12-01T00:00:00Z", metadata={"order": "A-19"})
    assert reply.status == 201
    assert reply.json == {
        "id": "h",
        "status": "open",
        "from": "a",
        "to": "b",
        "amount": 30,
        "currency": "EUR",
        "expires_at": "2126-12-01T00:00:00.000000Z",
        "captured_by": None,
        "reference": None,
        "metadata": {"order": "A-19"},
        "created_by": "development",
        "created_at": reply.json["created_at"],
        "resolved_at": None,
    }
    assert (client.amounts("a"), client.amounts("b")) == ((100, 30, 70), (0, 0, 0))


@pytest.mark.parametrize("members", [{}, {"expires_at": None}], ids=["absent", "null"])
def test_a_hold_without_expires_at_does_not_expire(client: Client, clock: Clock, members: dict[str, Any]) -> None:
    """Only a capture or a release ends it; null is the same as absent."""
    assert client.hold("h", "a", "b", 30, **members).json["expires_at"] is None
    clock.turn(days=100 * 365)
    assert client.get("/v1/holds/h").json["status"] == "open"
    assert client.amounts("a") == (100, 30, 70)


def test_held_is_the_sum_of_the_open_holds(client: Client) -> None:
    """The available amount can be reserved completely, down to min_balance."""
    assert [client.hold(f"h{n}", "a", "b", 25).status for n in range(4)] == [201] * 4
    assert client.amounts("a") == (100, 100, 0)


def test_a_hold_has_no_number(client: Client) -> None:
    """Only posted transfers are numbered."""
    client.hold("h", "a", "b", 30)
    assert client.move("t", "a", "b").json["number"] == 2


def test_a_hold_can_have_the_id_of_a_transfer(client: Client) -> None:
    """Holds and transfers have separate ids."""
    assert client.hold("fund", "a", "b").status == 201


@pytest.mark.promise(26)
def test_a_reserved_amount_cannot_be_transferred(client: Client) -> None:
    """This applies to a single transfer and to a transfer in a batch."""
    client.hold("h", "a", "b", 30)
    refused = client.move("t1", "a", "b", 71)
    assert (refused.slug, refused.json["available"]) == ("insufficient-funds", 70)
    first, second = client.batch(item("t2", "a", "b", 70), item("t3", "a", "b", 1)).json["results"]
    assert (first["status"], second["problem"]["available"]) == (201, 0)


@pytest.mark.parametrize("expires_at", ["2126-12-01T02:00:00+02:00", "2126-11-30T18:30:00.000000-05:30"])
def test_a_time_with_an_offset_is_returned_in_utc(client: Client, expires_at: str) -> None:
    """A repeat with the same time and another offset is a replay."""
    assert client.hold("h", expires_at=expires_at).json["expires_at"] == "2126-12-01T00:00:00.000000Z"
    assert client.hold("h", expires_at="2126-12-01T00:00:00Z").status == 200


@pytest.mark.parametrize("expires_at", ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999+23:59"])
def test_expires_at_can_be_the_last_time_of_the_year_9999(client: Client, expires_at: str) -> None:
    """The hold is stored with this time and can be captured."""
    placed = client.hold("h", expires_at=expires_at)
    assert (placed.status, client.get("/v1/holds/h").json) == (201, placed.json)
    assert client.capture("c", "h").status == 201


@pytest.mark.promise(26)
def test_a_hold_of_more_than_the_available_amount_is_declined(client: Client) -> None:
    """The amounts of open holds are not available."""
    client.hold("h1", "a", "b", 60)
    reply = client.hold("h2", "a", "b", 41)
    assert (reply.status, reply.slug) == (422, "insufficient-funds")
    assert (reply.json["account"], reply.json["available"]) == ("a", 40)
    assert client.amounts("a") == (100, 60, 40)


@pytest.mark.promise(28)
@pytest.mark.parametrize("late", [0, 1, 10**9])
def test_a_hold_that_is_posted_at_its_expires_at_or_later_is_declined(client: Client, clock: Clock, late: int) -> None:
    """This is checked before the available amount, and the decline is stored."""
    due = format_time(clock.stop())
    clock.turn(microseconds=late)
    assert client.hold("h", "a", "b", 1000, expires_at=due).slug == "hold-not-open"
    assert client.get("/v1/holds/h").json["status"] == "declined"
    assert client.amounts("a") == (100, 0, 100)


def test_a_hold_with_the_first_time_of_the_year_1_is_declined(client: Client) -> None:
    """The decline is stored with this time."""
    assert client.hold("h", expires_at="0001-01-01T00:00:00Z").slug == "hold-not-open"
    assert client.get("/v1/holds/h").json["expires_at"] == "0001-01-01T00:00:00.000000Z"


def test_a_hold_can_be_placed_one_microsecond_before_its_expires_at(client: Client, clock: Clock) -> None:
    """It is declined only from `expires_at` on."""
    due = format_time(clock.stop() + timedelta(microseconds=1))
    assert client.hold("h", expires_at=due).status == 201


@pytest.mark.promise(39)
def test_an_available_amount_out_of_range_declines_the_hold(client: Client) -> None:
    """`available` stays within ±(2^53-1), also without a lower limit."""
    assert client.hold("h1", "world", "b", 2**53 - 1 - 100).status == 201
    assert client.amounts("world")[2] == -(2**53 - 1)
    reply = client.hold("h2", "world", "b", 1)
    assert (reply.slug, reply.json["account"]) == ("balance-out-of-range", "world")
    assert client.move("t", "world", "b", 1).slug == "balance-out-of-range"


@pytest.mark.promise(39)
def test_a_held_amount_out_of_range_declines_the_hold(client: Client) -> None:
    """`held` stays within 2^53-1, even if `available` would stay in its range."""
    client.open("rich", min_balance=None)
    client.move("t", "world", "rich", 1000)
    assert client.hold("h1", "rich", "b", 2**53 - 1).status == 201
    assert client.hold("h2", "rich", "b", 1).slug == "balance-out-of-range"
    assert client.get("/v1/holds/h2").json["reason"] == "balance-out-of-range"


def test_all_errors_of_a_body_are_listed(client: Client, nothing_changes: Unchanged) -> None:
    """One response has every missing, unknown and invalid member."""
    body = {"from": "-", "amount": "1", "expires_at": "soon", "metadata": [], "status": "open"}
    with nothing_changes():
        reply = client.put("/v1/holds/h", body)
    assert set(reply.pointers) == {"/from", "/to", "/amount", "/currency", "/expires_at", "/metadata", "/status"}
