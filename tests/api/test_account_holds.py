"""GET /v1/accounts/{id}/holds: the open holds from an account."""

from datetime import timedelta

import pytest

from service.logs import format_time
from tests.support.client import Client
from tests.support.ledger import Clock, Unchanged

MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """`a` and `b` have the balance 0 and no lower limit."""
    client.open("a", "b", min_balance=None)


def listed(client: Client, query: str = "") -> list[str]:
    """The ids of the holds in the list of `a`."""
    return [hold["id"] for hold in client.get(f"/v1/accounts/a/holds{query}").json["holds"]]


def test_the_list_shows_each_hold_like_a_read_by_id(client: Client) -> None:
    """All members are equal."""
    client.hold("h1", metadata={"k": "v"}, expires_at="2126-12-01T00:00:00.000001Z")
    client.hold("h2", amount=5)
    page = client.get("/v1/accounts/a/holds").json
    assert page == {"holds": [client.get(f"/v1/holds/{id}").json for id in ("h1", "h2")], "next": None}


def test_the_list_has_only_open_holds_from_the_account(client: Client) -> None:
    """A hold for the account, and a hold that was captured, released or declined, is not in the list."""
    client.open("poor")
    for id in ("captured", "open", "released"):
        client.hold(id, "a", "b", 7)
    client.hold("other", "b", "a", 1)
    client.hold("declined", "poor", "a", 1)
    client.capture("c", "captured", amount=3)
    client.release("released")
    assert listed(client) == ["open"]
    assert client.get("/v1/accounts/poor/holds").json == {"holds": [], "next": None}


@pytest.mark.promise(46)
def test_the_amounts_add_up_to_held_at_each_microsecond_of_an_expiry(client: Client, clock: Clock) -> None:
    """Before, at and after each `expires_at`, the list and the account leave out the same holds."""
    start = clock.stop()
    times = {"h1": start + timedelta(seconds=1), "h2": start + timedelta(seconds=1) + MICROSECOND, "h3": None}
    for n, (id, expires_at) in enumerate(times.items()):
        client.hold(id, amount=10**n, expires_at=expires_at and format_time(expires_at))
    for microseconds, ids, held in [(-1, ["h1", "h2", "h3"], 111), (0, ["h2", "h3"], 110), (1, ["h3"], 100)]:
        clock.stop(start + timedelta(seconds=1, microseconds=microseconds))
        assert (listed(client), client.amounts("a")[1]) == (ids, held)


@pytest.mark.promise(46)
def test_a_hold_that_was_left_out_cannot_be_captured(client: Client, clock: Clock) -> None:
    """The read advances the ledger's time, so a clock that is set back later does not open the hold again."""
    due = clock.stop() + timedelta(seconds=1)
    client.hold("h", expires_at=format_time(due))
    clock.stop(due)
    assert listed(client) == []
    clock.stop(due - timedelta(seconds=1))
    assert listed(client) == []
    assert client.capture("c", "h").slug == "hold-not-open"


def test_a_read_without_an_expired_hold_writes_nothing(client: Client, nothing_changes: Unchanged) -> None:
    """The ledger's time is advanced only if a hold is left out."""
    client.hold("h", expires_at="2126-12-01T00:00:00Z")
    with nothing_changes():
        assert listed(client) == ["h"]


def test_the_list_is_sorted_by_the_bytes_of_the_id(client: Client) -> None:
    """Capital letters come before small letters; the locale of the database has no effect."""
    ids = ["A", "Z:1", "a", "h10", "h2"]
    for id in reversed(ids):
        client.hold(id)
    assert listed(client) == ids


@pytest.mark.parametrize("size", [1, 2, 3, 500])
def test_the_pages_contain_each_hold_once(client: Client, size: int) -> None:
    """Every page except the last one is full; the last page has no `next`."""
    for n in range(5):
        client.hold(f"h{n}")
    pages = client.pages("/v1/accounts/a/holds", limit=size)
    assert [len(page["holds"]) for page in pages[:-1]] == [size] * (len(pages) - 1)
    assert [hold["id"] for page in pages for hold in page["holds"]] == [f"h{n}" for n in range(5)]


def test_after_does_not_have_to_be_an_existing_id(client: Client) -> None:
    """The list starts with the first id that is greater, and is empty after the last one."""
    for id in ("h1", "h3"):
        client.hold(id)
    assert (listed(client, "?after=h2"), listed(client, "?after=h3")) == (["h3"], [])


@pytest.mark.parametrize("query", ["after=", "after=-", "limit=0", "limit=501", "prefix=a", "after=a&after=b"])
def test_an_invalid_query_is_refused(client: Client, query: str) -> None:
    """A parameter that is unknown here, repeated, or has an invalid value is an error."""
    assert client.get(f"/v1/accounts/a/holds?{query}").slug == "invalid-query"
