"""The database's clock is ahead of the service's: nothing gets a time of the future, and no hold expires too early."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from service import session
from service.ledger import rules
from service.logs import format_time
from tests.support.client import Client, Reply, item
from tests.support.ledger import Clock, Unchanged

AHEAD = session.CLOCK_MAX_AHEAD_SECONDS

WRITES: dict[str, Callable[[Client], Reply]] = {
    "a transfer": lambda client: client.move("t"),
    "a hold": lambda client: client.hold("new"),
    "a release": lambda client: client.release("h"),
    "a capture": lambda client: client.capture("c", "h"),
    "a batch": lambda client: client.batch(item("t1")),
    "a change": lambda client: client.change("a", min_balance=-10),
    "an opening": lambda client: client.put("/v1/accounts/new", {"currency": "EUR"}),
}


@pytest.fixture
def ahead(client: Client, owner: psycopg.Connection[Any]) -> Iterator[Clock]:
    """The clock of the database, which the service's own clock limits. The hold `h` expires in an hour."""
    client.open("a", "b", min_balance=None)
    assert client.hold("h", expires_at=format_time(datetime.now(UTC) + timedelta(hours=1))).status == 201
    clock = Clock(owner)
    yield clock
    clock.reset()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_is_refused_while_the_clock_is_ahead(
    client: Client, ahead: Clock, nothing_changes: Unchanged, write: Callable[[Client], Reply]
) -> None:
    """By a day: the response names the cause, and the same request succeeds when the clock is right."""
    ahead.turn(hours=24)
    with nothing_changes():
        reply = write(client)
    assert (reply.status, reply.slug, reply.json["outcome"]) == (503, "clock-ahead", "not_applied")
    assert re.search("(86400|863[0-9]{2}) s ahead", reply.json["detail"])  # a slow request sees less than a day
    ahead.reset()
    assert write(client).status in (200, 201)


def test_a_small_difference_is_accepted(client: Client, ahead: Clock) -> None:
    """Up to CLOCK_MAX_AHEAD_SECONDS; the test leaves ten seconds for the request."""
    ahead.turn(seconds=AHEAD - 10)
    assert client.move("t").status == 201
    ahead.turn(seconds=-3600)
    assert client.move("later").status == 201


READS = {"the hold": "/v1/holds/h", "its account": "/v1/accounts/a", "the list": "/v1/accounts"}


@pytest.mark.parametrize("path", READS.values(), ids=READS)
def test_no_read_shows_a_hold_as_expired_too_early(
    client: Client, ahead: Clock, nothing_changes: Unchanged, path: str
) -> None:
    """The read is refused, and the hold is open when the clock is right."""
    ahead.turn(hours=24)
    with nothing_changes():
        reply = client.get(path)
    assert (reply.slug, reply.json["outcome"]) == ("clock-ahead", "not_applied")
    ahead.reset()
    assert client.get("/v1/holds/h").json["status"] == "open"
    assert client.amounts("a") == (0, 1, -1)


@pytest.mark.parametrize("seconds", [30, 80_000])
def test_a_balance_does_not_advance_the_time(
    client: Client, ahead: Clock, nothing_changes: Unchanged, seconds: int
) -> None:
    """The time is in the past by the database's clock only. Else the ledger's time would advance to it."""
    ahead.turn(hours=24)
    at = format_time(datetime.now(UTC) + timedelta(seconds=seconds))
    with nothing_changes():
        assert client.get(f"/v1/accounts/a/balance?at={at}").slug == "clock-ahead"


def post_while_the_clock_jumps(client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Reply:
    """The clock jumps ahead after the accounts are locked and before the writes."""
    decide = rules.decide

    def decide_and_jump(*arguments: Any, **options: Any) -> Any:
        clock.turn(hours=24)
        return decide(*arguments, **options)

    monkeypatch.setattr(rules, "decide", decide_and_jump)
    return client.move("t")


def test_a_jump_during_a_posting_writes_nothing(
    client: Client, ahead: Clock, nothing_changes: Unchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement that writes reads the clock again."""
    with nothing_changes():
        assert post_while_the_clock_jumps(client, ahead, monkeypatch).slug == "clock-ahead"


def test_a_build_without_the_limit_expires_holds_too_early(
    client: Client, ahead: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: one transfer while the clock is ahead ends the hold permanently."""
    monkeypatch.setattr(session, "CLOCK_MAX_AHEAD_SECONDS", 10**6)
    ahead.turn(hours=24)
    assert client.move("t").status == 201
    ahead.reset()
    assert client.get("/v1/holds/h").json["status"] == "expired"
