"""DELETE /v1/holds/{id}: the release of a hold."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from service.logs import format_time
from tests.support.client import Client
from tests.support.ledger import Clock, Unchanged

pytestmark = pytest.mark.usefixtures("accounts")


@pytest.fixture
def due(client: Client, clock: Clock, accounts: None) -> str:
    """The time at which the hold `h` of 30 expires: in one hour. The clock is stopped."""
    time = format_time(clock.stop() + timedelta(hours=1))
    client.hold("h", "a", "b", 30, expires_at=time)
    return time


@pytest.mark.usefixtures("due")
def test_a_release_makes_the_amount_available(client: Client, clock: Clock) -> None:
    """The hold is released at the time of the request."""
    now = format_time(clock.turn(minutes=1))
    reply = client.release("h")
    assert (reply.status, reply.json["status"], reply.json["resolved_at"]) == (200, "released", now)
    assert reply.json == client.get("/v1/holds/h").json
    assert client.amounts("a") == (100, 0, 100)


@pytest.mark.promise(30)
@pytest.mark.usefixtures("due")
def test_a_repeated_release_returns_the_same_hold(client: Client, nothing_changes: Unchanged) -> None:
    """The second response is equal to the first, and no other amount is released."""
    client.hold("other", "a", "b", 50)
    first = client.release("h")
    with nothing_changes():
        again = client.release("h")
    assert (again.status, again.json) == (200, first.json)
    assert client.amounts("a") == (100, 50, 50)


@pytest.mark.usefixtures("due")
def test_a_released_hold_does_not_expire(client: Client, clock: Clock) -> None:
    """It stays released after `expires_at`."""
    client.release("h")
    clock.turn(hours=2)
    assert client.release("h").json["status"] == "released"
    assert client.get("/v1/holds/h").json["status"] == "released"


@pytest.mark.promise(30)
@pytest.mark.parametrize("late", [0, 1])
def test_the_release_of_an_expired_hold_returns_it(client: Client, due: str, clock: Clock, late: int) -> None:
    """The response is 200 with the status `expired`, because nothing is reserved from `expires_at` on."""
    clock.turn(hours=1, microseconds=late)
    reply = client.release("h")
    assert (reply.status, reply.json["status"], reply.json["resolved_at"]) == (200, "expired", due)
    assert client.release("h").json == reply.json


def test_the_release_of_a_hold_that_is_stored_as_expired_returns_it(client: Client, due: str, clock: Clock) -> None:
    """The response is the same after a posting has stored the new status."""
    clock.turn(hours=1)
    client.move("t", "a", "b")
    reply = client.release("h")
    assert (reply.json["status"], reply.json["resolved_at"]) == ("expired", due)


@pytest.mark.usefixtures("due")
def test_a_hold_can_be_released_one_microsecond_before_it_expires(client: Client, clock: Clock) -> None:
    """A hold is open until `expires_at`."""
    clock.turn(hours=1, microseconds=-1)
    assert client.release("h").json["status"] == "released"


@pytest.mark.promise(30)
@pytest.mark.usefixtures("due")
def test_the_release_of_a_captured_hold_is_refused(client: Client, nothing_changes: Unchanged) -> None:
    """The amount has moved; only a reversal can move it back."""
    client.capture("c", "h", amount=10)
    with nothing_changes():
        reply = client.release("h")
    assert (reply.status, reply.slug) == (422, "hold-not-open")


def test_the_release_of_a_declined_hold_is_refused(client: Client, nothing_changes: Unchanged) -> None:
    """A declined hold never reserved anything."""
    client.hold("big", "a", "b", 1000)
    with nothing_changes():
        assert client.release("big").slug == "hold-not-open"


@pytest.mark.promise(33)
@pytest.mark.usefixtures("due")
@pytest.mark.parametrize("account", ["a", "b"])
def test_a_hold_can_be_released_while_an_account_is_frozen(client: Client, account: str) -> None:
    """Freezing an account stops only new transfers and new holds."""
    client.change(account, status="frozen")
    assert client.release("h").json["status"] == "released"
    assert client.amounts("a") == (100, 0, 100)


@pytest.mark.usefixtures("due")
def test_a_release_expires_other_holds_that_are_due(
    client: Client, clock: Clock, owner: psycopg.Connection[Any]
) -> None:
    """Like every posting, it stores the expiry of the due holds of the account."""
    client.hold("mine", "a", "b", 5)
    clock.turn(hours=1)
    client.release("mine")
    assert owner.execute("SELECT status FROM hold ORDER BY id").fetchall() == [("expired",), ("released",)]
    assert owner.execute("SELECT held FROM account WHERE id = 'a'").fetchone() == (0,)
