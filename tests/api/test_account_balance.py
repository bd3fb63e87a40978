"""GET /v1/accounts/{id}/balance: the balance after a transfer or at a time."""

import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from service.logs import format_time
from tests.support.client import Client, Reply, item
from tests.support.ledger import Clock, Unchanged, Urls
from tests.support.waiting import join, wait_for_lock_waiters

START = datetime(2126, 12, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
NOW = START + 30 * SECOND  # the clock is stopped at this time


@pytest.fixture(autouse=True)
def history(client: Client, clock: Clock) -> None:
    """Transfers 1 to 4 at seconds 0, 10, 10 and 20. 2 and 3 are one batch; 4 does not involve `a`."""
    client.open("world", "a", "b", min_balance=None)
    clock.stop(START)
    client.move("one", "world", "a", 100)
    clock.stop(START + 10 * SECOND)
    client.batch(item("two", "a", "b", 30), item("three", "b", "a", 5))
    clock.stop(START + 20 * SECOND)
    client.move("four", "world", "b", 1)
    clock.stop(NOW)


def balance_at(client: Client, time: datetime) -> tuple[int, int]:
    """Number and balance of `a` at the time."""
    reply = client.get(f"/v1/accounts/a/balance?at={format_time(time)}")
    assert reply.status == 200, reply.body
    return reply.json["number"], reply.json["balance"]


@pytest.mark.parametrize(("number", "balance"), [(0, 0), (1, 100), (2, 70), (3, 75), (4, 75)])
def test_a_number_gives_the_balance_after_this_transfer(client: Client, number: int, balance: int) -> None:
    """The account does not have to be part of the transfer with this number."""
    reply = client.get(f"/v1/accounts/a/balance?number={number}")
    assert reply.json == {"account": "a", "balance": balance, "number": number, "at": None}


@pytest.mark.promise(38)
@pytest.mark.parametrize(
    ("microseconds", "number", "balance"),
    [(-1, 0, 0), (0, 1, 100), (9_999_999, 1, 100), (10_000_000, 3, 75), (20_000_000, 4, 75), (29_999_999, 4, 75)],
)
def test_a_time_gives_the_balance_at_this_time(client: Client, microseconds: int, number: int, balance: int) -> None:
    """All transfers up to and including this microsecond count; all transfers of a batch have one time."""
    assert balance_at(client, START + microseconds * MICROSECOND) == (number, balance)


def test_a_time_with_an_offset_is_returned_in_utc(client: Client) -> None:
    """The plus sign of the offset is percent-encoded in the query."""
    reply = client.get("/v1/accounts/a/balance?at=2126-12-01T14:00:05.5%2B02:00")
    assert reply.json == {"account": "a", "balance": 100, "number": 1, "at": "2126-12-01T12:00:05.500000Z"}


def test_the_balance_before_the_first_transfer_is_0(client: Client) -> None:
    """This includes the time before the account was opened."""
    assert balance_at(client, datetime(1, 1, 1, tzinfo=UTC)) == (0, 0)


@pytest.mark.promise(38)
def test_a_transfer_after_the_read_gets_a_later_time(client: Client, clock: Clock) -> None:
    """This is also true if the clock is still at the time of the read, or was set back before it."""
    clock.turn(microseconds=1)
    assert balance_at(client, NOW) == (4, 75)
    clock.stop(NOW - 5 * SECOND)
    posted = client.move("five", "a", "b", 75).json
    assert posted["created_at"] == format_time(NOW + MICROSECOND)
    assert balance_at(client, NOW) == (4, 75)
    clock.stop(NOW + SECOND)
    assert balance_at(client, NOW + MICROSECOND) == (5, 0)


@pytest.mark.promise(38)
def test_later_transfers_do_not_change_a_past_balance(client: Client, clock: Clock) -> None:
    """Each past time gives the same number and balance after further transfers."""
    times = [START + n * SECOND for n in (-1, 0, 5, 10, 15, 20, 29)]
    before = [balance_at(client, time) for time in times]
    for n in range(3):
        clock.turn(microseconds=1)
        client.move(f"more{n}", "b", "a", 1)
    assert [balance_at(client, time) for time in times] == before


def test_the_present_time_is_refused(client: Client, clock: Clock, nothing_changes: Unchanged) -> None:
    """A transfer may still get the present time; one microsecond later the time is past and can be read."""
    with nothing_changes():
        reply = client.get(f"/v1/accounts/a/balance?at={format_time(NOW)}")
    assert (reply.slug, reply.json["errors"][0]["parameter"]) == ("invalid-query", "at")
    clock.turn(microseconds=1)
    assert balance_at(client, NOW) == (4, 75)


def test_a_posting_in_progress_gets_a_later_time(client: Client, urls: Urls) -> None:
    """A posting that waits for the journal's row while the time is closed uses the new time of the journal."""
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(client.move("five", "a", "b", 1)))
    with psycopg.connect(urls.owner) as closing:
        closing.execute("UPDATE journal SET last_at = %s + interval '1 microsecond'", [NOW])
        thread.start()
        wait_for_lock_waiters(urls, 1, or_end_of=thread)
    join(thread)
    assert replies[0].json["created_at"] == format_time(NOW + MICROSECOND)


def test_reading_a_time_before_the_newest_transfer_writes_nothing(client: Client, nothing_changes: Unchanged) -> None:
    """Such a time is already closed."""
    with nothing_changes():
        assert balance_at(client, START + 19 * SECOND) == (3, 75)


def test_a_hold_does_not_change_a_past_balance(client: Client) -> None:
    """A past balance is the sum of the transfers; holds do not count."""
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
def test_an_invalid_query_is_refused(client: Client, nothing_changes: Unchanged, query: str) -> None:
    """Neither or both parameters, a future number or time, or an invalid time; a plus sign means a space."""
    with nothing_changes():
        assert client.get(f"/v1/accounts/a/balance{query}").slug == "invalid-query"
