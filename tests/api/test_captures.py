"""PUT /v1/transfers/{id} with `captures`: a transfer that captures a hold."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from service.logs import format_time
from tests.support.client import Client, item, movement, posted_transfer
from tests.support.ledger import Clock, Unchanged


@pytest.fixture(autouse=True)
def hold(client: Client, accounts: None) -> None:
    """`a` has 100, and the hold `h` reserves 30 of them for `b`."""
    client.hold("h", "a", "b", 30)


def test_a_capture_moves_the_amount_of_the_hold(client: Client) -> None:
    """Accounts and currency are those of the hold; without an amount, the whole hold is captured."""
    reply = client.capture("c", "h", metadata={"order": "A-19"})
    expected = posted_transfer("c", "a", "b", 30, number=2, from_balance=70, to_balance=30, captures="h")
    expected |= {"metadata": {"order": "A-19"}, "created_at": reply.json["created_at"]}
    assert (reply.status, reply.json) == (201, expected)
    assert (client.amounts("a"), client.amounts("b")) == ((70, 0, 70), (30, 0, 30))


@pytest.mark.promise(29)
@pytest.mark.parametrize("amount", [1, 29, 30])
def test_a_capture_releases_the_rest_of_the_hold(client: Client, amount: int) -> None:
    """The part that is not captured becomes available in the same commit, and the hold reserves nothing more."""
    client.hold("other", "a", "b", 50)
    assert client.capture("c", "h", amount=amount).json["amount"] == amount
    assert client.amounts("a") == (100 - amount, 50, 50 - amount)
    assert client.get("/v1/holds/h").json["status"] == "captured"


def test_a_capture_needs_no_available_amount(client: Client) -> None:
    """It succeeds even if the account has nothing but the reserved amount."""
    client.move("rest", "a", "b", 70)
    assert client.capture("c", "h").status == 201
    assert client.amounts("a") == (0, 0, 0)


def test_a_capture_is_in_the_feed_and_in_the_statement(client: Client) -> None:
    """Reads show a capture like any other transfer."""
    captured = client.capture("c", "h").json
    assert client.get("/v1/transfers?after=1").json["transfers"] == [captured]
    assert client.get("/v1/transfers/c").json == captured
    (entry,) = client.get("/v1/accounts/b/entries").json["entries"]
    assert (entry["transfer"], entry["amount"], entry["balance"]) == ("c", 30, 30)


def test_a_raised_min_balance_does_not_stop_a_capture(client: Client) -> None:
    """The amount of the hold is already reserved."""
    client.change("a", min_balance=70)
    assert client.capture("c", "h").status == 201


def test_a_hold_can_be_captured_one_microsecond_before_it_expires(client: Client, clock: Clock) -> None:
    """A hold is open until `expires_at`."""
    due = clock.stop() + timedelta(hours=1)
    client.hold("timed", "a", "b", 5, expires_at=format_time(due))
    clock.stop(due - timedelta(microseconds=1))
    assert client.capture("c", "timed").status == 201


@pytest.mark.promise(29)
def test_a_hold_can_be_captured_only_once(client: Client) -> None:
    """A second capture is declined even if the first one captured only a part."""
    client.capture("c1", "h", amount=10)
    reply = client.capture("c2", "h", amount=10)
    assert (reply.status, reply.slug) == (422, "hold-not-open")
    assert client.amounts("a") == (90, 0, 90)


@pytest.mark.promise(29)
def test_a_capture_of_more_than_the_hold_is_declined(client: Client) -> None:
    """The available amount does not matter, and the hold stays open for a capture with another id."""
    reply = client.capture("c1", "h", amount=31)
    assert (reply.slug, reply.json["available"]) == ("capture-exceeds-hold", 30)
    assert client.amounts("a") == (100, 30, 70)
    assert client.capture("c2", "h", amount=30).status == 201


def test_a_capture_of_a_released_hold_is_declined(client: Client) -> None:
    """A released hold reserves nothing."""
    client.release("h")
    assert client.capture("c", "h").slug == "hold-not-open"


@pytest.mark.parametrize("late", [0, 1])
def test_a_capture_of_an_expired_hold_is_declined(
    client: Client, clock: Clock, owner: psycopg.Connection[Any], late: int
) -> None:
    """A hold expires at `expires_at`, and the declined capture stores its new status."""
    due = clock.stop() + timedelta(hours=1)
    client.hold("timed", "a", "b", 5, expires_at=format_time(due))
    clock.stop(due + timedelta(microseconds=late))
    assert client.capture("c", "timed").slug == "hold-not-open"
    assert owner.execute("SELECT status FROM hold WHERE id = 'timed'").fetchone() == ("expired",)
    assert client.amounts("a") == (100, 30, 70)


def test_a_capture_of_a_declined_hold_is_declined(client: Client) -> None:
    """A declined hold never reserved anything."""
    client.hold("big", "a", "b", 1000)
    assert client.capture("c", "big").slug == "hold-not-open"


@pytest.mark.promise(34)
def test_a_capture_for_a_closed_account_is_declined(client: Client) -> None:
    """The hold stays open and can be released."""
    client.change("b", status="closed")
    reply = client.capture("c", "h")
    assert (reply.slug, reply.json["account"]) == ("account-closed", "b")
    assert client.amounts("a") == (100, 30, 70)
    assert client.release("h").status == 200


def test_a_capture_beyond_the_range_of_the_balance_is_declined(client: Client) -> None:
    """The receiver's balance cannot exceed 2^53-1."""
    client.move("t", "world", "b", 2**53 - 1 - 100)
    client.open("other", min_balance=None)
    client.move("t2", "other", "b", 71)
    assert client.capture("c", "h").json["account"] == "b"


def test_a_declined_capture_shows_the_requested_amount(client: Client) -> None:
    """It also has the accounts and the amount of its hold."""
    client.capture("c", "h", amount=31)
    declined = client.get("/v1/transfers/c").json
    assert (declined["from"], declined["to"], declined["amount"]) == ("a", "b", 31)
    assert (declined["captures"], declined["reason"], declined["available"]) == ("h", "capture-exceeds-hold", 30)


def test_null_is_the_same_as_absent(client: Client) -> None:
    """Responses show null for `captures` and `reverses`, so a request may contain it."""
    plain = movement("a", "b", 5)
    assert client.put("/v1/transfers/t", plain | {"captures": None, "reverses": None}).status == 201
    assert client.put("/v1/transfers/t", plain).status == 200
    assert client.put("/v1/transfers/c", {"captures": "h", "reverses": None}).status == 201
    assert client.put("/v1/transfers/r", {"captures": None, "reverses": "t"}).status == 201
    (result,) = client.batch(item("t", amount=5, captures=None, reverses=None)).json["results"]
    assert result["status"] == 200


def test_the_id_of_a_transfer_cannot_be_captured(client: Client, nothing_changes: Unchanged) -> None:
    """`captures` is the id of a hold; transfers have ids of their own."""
    with nothing_changes():
        assert client.capture("c", "fund").slug == "hold-not-found"


@pytest.mark.parametrize("hold_id", ["", "-a", "x" * 65, 5, ["h"]])
def test_an_invalid_id_of_a_hold_is_refused(client: Client, nothing_changes: Unchanged, hold_id: Any) -> None:
    """The error points to `captures`."""
    with nothing_changes():
        reply = client.capture("c", hold_id)
    assert (reply.slug, reply.pointers) == ("invalid-request", ["/captures"])
