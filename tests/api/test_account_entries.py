"""GET /v1/accounts/{id}/entries: the statement of an account."""

from datetime import UTC, datetime, timedelta

import pytest

from service.logs import format_time
from tests.support.client import Client, item
from tests.support.ledger import Clock, Unchanged

START = datetime(2126, 12, 1, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NOW = START + timedelta(seconds=30)  # the clock is stopped at this time, by the fixture `period`


@pytest.fixture(autouse=True)
def statement(client: Client) -> None:
    """`a` has entries with the numbers 1, 2, 4 and 5. Number 3 does not involve `a`."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.move("in", "world", "a", 100)
    client.move("out", "a", "b", 30)
    client.move("other", "b", "world", 10)
    client.move("back", "b", "a", 5)
    client.move("declined", "a", "b", 1000)
    client.move("last", "a", "world", 75)


@pytest.mark.promise(11)
def test_an_entry_shows_the_signed_amount_and_the_balance_after_it(client: Client) -> None:
    """An incoming amount is positive and an outgoing amount negative; a declined transfer has no entry."""
    page = client.get("/v1/accounts/a/entries").json
    rows = [
        (row["number"], row["transfer"], row["amount"], row["balance"], row["counterparty"]) for row in page["entries"]
    ]
    assert rows == [
        (1, "in", 100, 100, "world"),
        (2, "out", -30, 70, "b"),
        (4, "back", 5, 75, "b"),
        (5, "last", -75, 0, "world"),
    ]
    assert page["next"] is None


def test_order_desc_lists_the_newest_entry_first(client: Client) -> None:
    """The order is the reverse of the default order."""
    page = client.get("/v1/accounts/a/entries?order=desc").json
    assert [row["number"] for row in page["entries"]] == [5, 4, 2, 1]


@pytest.mark.parametrize(("order", "cursor"), [("asc", "after"), ("desc", "before")])
def test_the_pages_contain_each_entry_once(client: Client, order: str, cursor: str) -> None:
    """`next` is the following `after` in ascending order, and the following `before` in descending order."""
    path = f"/v1/accounts/a/entries?order={order}"
    first, second = client.pages(path, limit=3, cursor=cursor)
    assert first["entries"] + second["entries"] == client.get(path).json["entries"]


def test_after_and_before_are_exclusive(client: Client) -> None:
    """Together they select the entries between two numbers."""
    page = client.get("/v1/accounts/a/entries?after=1&before=5").json
    assert [row["number"] for row in page["entries"]] == [2, 4]


def test_an_account_without_entries_has_an_empty_statement(client: Client) -> None:
    """An account without transfers is not an error."""
    client.open("new")
    assert client.get("/v1/accounts/new/entries").json == {"entries": [], "next": None}


@pytest.mark.parametrize(
    "query",
    [
        *("order=up", "before=-1", "after=1.0", "after=", "limit=501", "after=1&after=2", "at=2026-12-01T00:00:00Z"),
        *("from=1", "from=", "until=now", "until=2026-12-01", "from=2026-12-01T00:00:00", "until=2026-12-01T00:00Z"),
        *("from=2026-12-01T00:00:00+00:00", "until=9999-12-31T23:59:59.999999Z"),
    ],
)
def test_an_invalid_query_is_refused(client: Client, query: str) -> None:
    """A parameter that is unknown here, repeated, or has an invalid value is an error."""
    assert client.get(f"/v1/accounts/a/entries?{query}").slug == "invalid-query"


@pytest.fixture
def period(client: Client, clock: Clock) -> None:
    """`a` has further entries: 6 at second 0, 7 and 8 in one batch at second 10, and 9 at second 20."""
    clock.stop(START)
    client.move("six", "world", "a", 100)
    clock.stop(START + timedelta(seconds=10))
    client.batch(item("seven", "a", "b", 1), item("eight", "a", "b", 1))
    clock.stop(START + timedelta(seconds=20))
    client.move("nine", "a", "b", 1)
    clock.stop(NOW)


def numbers(client: Client, start: datetime | None, end: datetime | None, further: str = "") -> list[int]:
    """The numbers of the entries from `start` until `end`."""
    times = {"from": start, "until": end}
    query = "&".join([f"{name}={format_time(time)}" for name, time in times.items() if time] + [further])
    reply = client.get(f"/v1/accounts/a/entries?{query.strip('&')}")
    assert reply.status == 200, reply.body
    return [entry["number"] for entry in reply.json["entries"]]


@pytest.mark.promise(48)
@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, 0, [1, 2, 4, 5]),
        (0, None, [6, 7, 8, 9]),
        (1, None, [7, 8, 9]),
        (0, 1, [6]),
        (1, 10_000_000, []),
        (0, 10_000_000, [6]),
        (10_000_000, 10_000_001, [7, 8]),
        (10_000_001, 20_000_000, []),
        (10_000_001, 30_000_000, [9]),
        (10_000_000, 10_000_000, []),
        (20_000_000, 10_000_000, []),
        (30_000_000, None, []),
        (10**12, None, []),
    ],
)
def test_a_period_has_the_entries_from_its_start_until_before_its_end(
    client: Client, period: None, start: int | None, end: int | None, expected: list[int]
) -> None:
    """Exact to the microsecond, in both orders. `from` may be in the future; `until` may be the present time."""
    first = None if start is None else START + start * MICROSECOND
    until = None if end is None else START + end * MICROSECOND
    assert numbers(client, first, until) == expected
    assert numbers(client, first, until, "order=desc") == expected[::-1]


def test_a_period_can_be_combined_with_after_and_before(client: Client, period: None) -> None:
    """An entry is shown if it satisfies all four."""
    assert numbers(client, START, NOW, "after=6&before=9") == [7, 8]
    assert numbers(client, START + 20_000_000 * MICROSECOND, NOW, "before=9") == []
    assert numbers(client, None, START, "after=4") == [5]


@pytest.mark.parametrize(("order", "cursor"), [("asc", "after"), ("desc", "before")])
def test_the_pages_of_a_period_contain_each_entry_once(client: Client, period: None, order: str, cursor: str) -> None:
    """`next` continues within the period."""
    query = f"from={format_time(START + MICROSECOND)}&until={format_time(NOW)}&order={order}"
    pages = client.pages(f"/v1/accounts/a/entries?{query}", limit=2, cursor=cursor)
    shown = [[entry["number"] for entry in page["entries"]] for page in pages]
    assert shown == ([[7, 8], [9]] if order == "asc" else [[9, 8], [7]])


def test_a_period_can_begin_before_the_ledger_and_end_before_its_first_transfer(client: Client) -> None:
    """The earliest time that a query can have is before each entry."""
    assert numbers(client, datetime(1, 1, 1, tzinfo=UTC), None) == [1, 2, 4, 5]
    assert numbers(client, None, datetime(1, 1, 1, tzinfo=UTC)) == []


def test_a_time_with_an_offset_is_the_same_time(client: Client, period: None) -> None:
    """The plus sign of the offset is percent-encoded in the query."""
    page = client.get("/v1/accounts/a/entries?from=2126-12-01T14:00:00%2B02:00&until=2126-12-01T13:00:00.5%2B01:00")
    assert [entry["number"] for entry in page.json["entries"]] == [6]


@pytest.mark.promise(48)
def test_a_transfer_after_the_read_is_not_in_the_period(client: Client, period: None, clock: Clock) -> None:
    """This is also true if the clock was set back: the new transfer gets the end of the period as its time."""
    before = numbers(client, START, NOW)
    clock.stop(NOW - timedelta(seconds=5))
    assert client.move("ten", "a", "b", 1).json["created_at"] == format_time(NOW)
    assert (numbers(client, START, NOW), before) == ([6, 7, 8, 9], [6, 7, 8, 9])
    clock.stop(NOW + MICROSECOND)
    assert numbers(client, START, NOW + MICROSECOND) == [6, 7, 8, 9, 10]


def test_a_period_that_ends_in_the_future_is_refused(
    client: Client, period: None, clock: Clock, nothing_changes: Unchanged
) -> None:
    """A transfer may still get a time in it. One microsecond later it has ended."""
    query = f"/v1/accounts/a/entries?until={format_time(NOW + MICROSECOND)}"
    with nothing_changes():
        reply = client.get(query)
    detail = "must not be in the future"
    assert (reply.slug, reply.json["errors"]) == ("invalid-query", [{"parameter": "until", "detail": detail}])
    clock.turn(microseconds=1)
    assert client.get(query).status == 200


def test_reading_a_period_before_the_newest_transfer_writes_nothing(
    client: Client, period: None, nothing_changes: Unchanged
) -> None:
    """No transfer can get a time in it any more. The same is true for a read without `until`."""
    with nothing_changes():
        assert numbers(client, START, START + timedelta(seconds=20)) == [6, 7, 8]
        assert numbers(client, START, None) == [6, 7, 8, 9]
