"""GET /v1/accounts/{id}/entries: the statement of an account."""

import pytest

from tests.support.client import Client


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
    "query", ["order=up", "before=-1", "after=1.0", "after=", "limit=501", "after=1&after=2", "from=1"]
)
def test_an_invalid_query_is_refused(client: Client, query: str) -> None:
    """A parameter that is unknown here, repeated, or has an invalid value is an error."""
    assert client.get(f"/v1/accounts/a/entries?{query}").slug == "invalid-query"
