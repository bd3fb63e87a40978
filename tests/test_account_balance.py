"""GET /v1/accounts/{id}/balance: what an account held after a transfer, or at a moment."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from service.wire import timestamp
from tests.client import Client, Reply, item
from tests.conftest import Clock, Unchanged, Urls

START = datetime(2126, 12, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def history(client: Client, clock: Clock) -> None:
    """The numbers 1 to 4 at seconds 0, 10, 10 and 20; 2 and 3 came in one batch, 4 is none of `a`."""
    client.open("world", "a", "b", min_balance=None)
    clock.stop(START)
    client.move("one", "world", "a", 100)
    clock.stop(START + 10 * SECOND)
    client.batch(item("two", "a", "b", 30), item("three", "b", "a", 5))
    clock.stop(START + 20 * SECOND)
    client.move("four", "world", "b", 1)
    clock.stop(START + 30 * SECOND)


def at(client: Client, moment: datetime, account: str = "a") -> tuple[int, int]:
    """Number and balance at the moment."""
    reply = client.get(f"/v1/accounts/{account}/balance?at={timestamp(moment)}")
    assert reply.status == 200, reply.body
    return reply.json["number"], reply.json["balance"]


@pytest.mark.parametrize(("number", "balance"), [(0, 0), (1, 100), (2, 70), (3, 75), (4, 75)])
def test_after_a_number(client: Client, number: int, balance: int) -> None:
    """The balance after the transfer with this number, also when the account had no part in that."""
    reply = client.get(f"/v1/accounts/a/balance?number={number}")
    assert reply.json == {"account": "a", "balance": balance, "number": number, "at": None}


@pytest.mark.promise(38)
@pytest.mark.parametrize(
    ("microseconds", "number", "balance"),
    [(-1, 0, 0), (0, 1, 100), (9_999_999, 1, 100), (10_000_000, 3, 75), (20_000_000, 4, 75), (29_999_999, 4, 75)],
)
def test_at_a_moment(client: Client, microseconds: int, number: int, balance: int) -> None:
    """All transfers up to the moment count, one of the very microsecond too; a batch has one moment."""
    assert at(client, START + timedelta(microseconds=microseconds)) == (number, balance)


def test_says_the_moment_in_utc(client: Client) -> None:
    """An offset is understood, with its plus sign encoded."""
    reply = client.get("/v1/accounts/a/balance?at=2126-12-01T14:00:05.5%2B02:00")
    assert reply.json == {"account": "a", "balance": 100, "number": 1, "at": "2126-12-01T12:00:05.500000Z"}


def test_before_everything(client: Client) -> None:
    """An account had nothing before its first transfer, and before it was opened."""
    assert at(client, datetime(1, 1, 1, tzinfo=UTC)) == (0, 0)


class TestAMomentThatWasAskedForIsClosed:
    @pytest.mark.promise(38)
    def test_a_later_transfer_gets_a_later_time(self, client: Client, clock: Clock) -> None:
        """Even if the clock still stands at that moment, or was set back before it."""
        asked = START + 30 * SECOND
        clock.turn(microseconds=1)
        assert at(client, asked) == (4, 75)
        clock.stop(asked - 5 * SECOND)
        posted = client.move("five", "a", "b", 75).json
        assert posted["created_at"] == timestamp(asked + timedelta(microseconds=1))
        assert at(client, asked) == (4, 75)
        clock.stop(asked + SECOND)
        assert at(client, asked + timedelta(microseconds=1)) == (5, 0)

    @pytest.mark.promise(38)
    def test_the_same_answer_for_ever(self, client: Client, clock: Clock) -> None:
        """Every moment of the past gives the same after more transfers."""
        moments = [START + n * SECOND for n in (-1, 0, 5, 10, 15, 20, 29)]
        before = [at(client, moment) for moment in moments]
        for n in range(3):
            clock.turn(microseconds=1)
            client.move(f"more{n}", "b", "a", 1)
        assert [at(client, moment) for moment in moments] == before

    def test_the_moment_of_now_is_still_to_come(self, client: Client, clock: Clock, nothing_changes: Unchanged) -> None:
        """A transfer may still get the time of now; a microsecond later that is over."""
        now = START + 30 * SECOND
        with nothing_changes():
            reply = client.get(f"/v1/accounts/a/balance?at={timestamp(now)}")
        assert (reply.slug, reply.json["errors"][0]["parameter"]) == ("invalid-query", "at")
        clock.turn(microseconds=1)
        assert at(client, now) == (4, 75)

    def test_a_transfer_that_is_on_its_way_gets_a_later_time(
        self, client: Client, clock: Clock, owner: psycopg.Connection[Any], urls: Urls
    ) -> None:
        """A posting that waits for the journal's row, while the moment is being closed, sees the new time."""
        now, replies = clock.now(), list[Reply]()
        thread = threading.Thread(target=lambda: replies.append(client.move("five", "a", "b", 1)))
        with psycopg.connect(urls.owner) as closing:
            closing.execute("UPDATE journal SET last_at = %s + interval '1 microsecond'", [now])
            thread.start()
            while thread.is_alive() and not owner.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall():
                pass
        thread.join()
        assert replies[0].json["created_at"] == timestamp(now + timedelta(microseconds=1))

    def test_numbers_and_balances_stay(self, client: Client, nothing_changes: Unchanged) -> None:
        """A moment before the newest transfer is closed already: asking changes nothing."""
        with nothing_changes():
            assert at(client, START + 19 * SECOND) == (3, 75)

    def test_a_hold_does_not_change_it(self, client: Client) -> None:
        """A past balance is what had come in less what had gone out; what was held then is no part of it."""
        client.hold("h", "a", "b", 10)
        assert client.get("/v1/accounts/a/balance?number=4").json["balance"] == 75


@pytest.mark.parametrize(
    "query",
    [
        *("", "?", "?at=2126-12-01T12:00:00Z&number=1", "?number=5", "?number=-1", "?number=1.0", "?number=", "?at="),
        *("?at=2126-12-01T12:00:31Z", "?at=9999-12-31T23:59:59.999999Z", "?at=2126-12-01T12:00:00", "?at=now"),
        *("?at=2126-12-01T14:00:00+02:00", "?at=2126-12-01T12:00:00Z&at=2126-12-01T12:00:00Z", "?limit=1"),
    ],
)
def test_refuses_a_query_it_cannot_answer(client: Client, nothing_changes: Unchanged, query: str) -> None:
    """Neither, both, a number or a time to come, or what is no time: a plus sign that is not encoded is a space."""
    with nothing_changes():
        assert client.get(f"/v1/accounts/a/balance{query}").slug == "invalid-query"


@pytest.mark.parametrize("query", ["?number=0", "?at=2126-12-01T12:00:00Z"])
def test_an_unknown_account_is_not_found(client: Client, nothing_changes: Unchanged, query: str) -> None:
    """No account, no balance."""
    with nothing_changes():
        assert client.get(f"/v1/accounts/unknown/balance{query}").slug == "not-found"
