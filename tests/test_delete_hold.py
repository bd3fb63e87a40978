"""DELETE /v1/holds/{id}: release."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from service.wire import timestamp
from tests.client import Client
from tests.conftest import Clock, Unchanged


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    """`a` has 100, 30 of them set aside by the hold `h`, which is due in an hour."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.move("fund", "world", "a", 100)


@pytest.fixture
def due(client: Client, clock: Clock) -> str:
    """The hold `h`, and the time when it is due."""
    moment = timestamp(clock.stop() + timedelta(hours=1))
    client.hold("h", "a", "b", 30, expires_at=moment)
    return moment


def test_frees_what_was_set_aside(client: Client, due: str, clock: Clock) -> None:
    """The hold is released from now on, and its money available."""
    now = timestamp(clock.turn(minutes=1))
    reply = client.release("h")
    assert (reply.status, reply.json["status"], reply.json["resolved_at"]) == (200, "released", now)
    assert reply.json == client.get("/v1/holds/h").json
    assert client.amounts("a") == (100, 0, 100)


@pytest.mark.promise(30)
@pytest.mark.usefixtures("due")
def test_a_repeat_answers_the_same(client: Client, nothing_changes: Unchanged) -> None:
    """Released is released: the second answer is the first one, and frees nothing more."""
    client.hold("other", "a", "b", 50)
    first = client.release("h")
    with nothing_changes():
        again = client.release("h")
    assert (again.status, again.json) == (200, first.json)
    assert client.amounts("a") == (100, 50, 50)


def test_a_released_hold_stays_released(client: Client, due: str, clock: Clock) -> None:
    """It does not expire later."""
    client.release("h")
    clock.turn(hours=2)
    assert client.release("h").json["status"] == "released"
    assert client.get("/v1/holds/h").json["status"] == "released"


@pytest.mark.promise(30)
@pytest.mark.parametrize("late", [0, 1])
def test_an_expired_hold_is_answered_as_expired(client: Client, due: str, clock: Clock, late: int) -> None:
    """Whoever wants it released has what they want: nothing is set aside since its moment."""
    clock.turn(hours=1, microseconds=late)
    reply = client.release("h")
    assert (reply.status, reply.json["status"], reply.json["resolved_at"]) == (200, "expired", due)
    assert client.release("h").json == reply.json


def test_an_expired_hold_that_was_written_off_too(client: Client, due: str, clock: Clock) -> None:
    """After the next posting the row says so itself."""
    clock.turn(hours=1)
    client.move("t", "a", "b", 1)
    reply = client.release("h")
    assert (reply.json["status"], reply.json["resolved_at"]) == ("expired", due)


def test_a_microsecond_before_its_time_it_is_released(client: Client, due: str, clock: Clock) -> None:
    """Until its moment comes a hold is open."""
    clock.turn(hours=1, microseconds=-1)
    assert client.release("h").json["status"] == "released"


@pytest.mark.promise(30)
@pytest.mark.usefixtures("due")
def test_a_captured_hold_is_refused(client: Client, nothing_changes: Unchanged) -> None:
    """The money has moved: that is given back by a reversal."""
    client.capture("c", "h", amount=10)
    with nothing_changes():
        reply = client.release("h")
    assert (reply.status, reply.slug) == (422, "hold-not-open")


def test_a_declined_hold_is_refused(client: Client, nothing_changes: Unchanged) -> None:
    """Nothing was ever set aside."""
    client.hold("big", "a", "b", 1000)
    with nothing_changes():
        assert client.release("big").slug == "hold-not-open"


@pytest.mark.parametrize("id", ["unknown", "caf%C3%A9", "x" * 65, "-a"])
def test_what_is_not_there_is_not_found(client: Client, nothing_changes: Unchanged, id: str) -> None:
    """An id that nobody used and one that nobody can use get the same answer."""
    with nothing_changes():
        reply = client.release(id)
    assert (reply.status, reply.slug) == (404, "not-found")


@pytest.mark.promise(33)
@pytest.mark.usefixtures("due")
@pytest.mark.parametrize("account", ["a", "b"])
def test_goes_on_while_an_account_is_frozen(client: Client, account: str) -> None:
    """A frozen account keeps nobody from freeing what is set aside."""
    client.change(account, status="frozen")
    assert client.release("h").json["status"] == "released"
    assert client.amounts("a") == (100, 0, 100)


@pytest.mark.usefixtures("due")
def test_writes_off_what_else_is_due(client: Client, clock: Clock, owner: psycopg.Connection[Any]) -> None:
    """A release is a posting: another hold of the account that is due goes with it."""
    client.hold("mine", "a", "b", 5)
    clock.turn(hours=1)
    client.release("mine")
    assert owner.execute("SELECT status FROM hold ORDER BY id").fetchall() == [("expired",), ("released",)]
    assert owner.execute("SELECT held FROM account WHERE id = 'a'").fetchone() == (0,)
