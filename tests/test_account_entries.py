"""GET /v1/accounts/{id}/entries: the statement."""

import pytest

from tests.client import Client


@pytest.fixture(autouse=True)
def statement(client: Client) -> None:
    """`a` has entries with the numbers 1, 2, 4 and 5; number 3 is not its own."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.move("in", "world", "a", 100)
    client.move("out", "a", "b", 30)
    client.move("other", "b", "world", 10)
    client.move("back", "b", "a", 5)
    client.move("declined", "a", "b", 1000)
    client.move("last", "a", "world", 75)


@pytest.mark.promise(11)
def test_shows_signed_amounts_and_balances(client: Client) -> None:
    """Money in is positive, money out negative, and each balance follows from the one before."""
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


def test_the_newest_can_come_first(client: Client) -> None:
    """order=desc turns the statement round."""
    page = client.get("/v1/accounts/a/entries?order=desc").json
    assert [row["number"] for row in page["entries"]] == [5, 4, 2, 1]


@pytest.mark.parametrize(("order", "cursor"), [("asc", "after"), ("desc", "before")])
def test_pages_lead_from_one_to_the_next(client: Client, order: str, cursor: str) -> None:
    """`next` goes into `after` when reading forward and into `before` when reading back."""
    whole = client.get(f"/v1/accounts/a/entries?order={order}").json["entries"]
    page = client.get(f"/v1/accounts/a/entries?order={order}&limit=3").json
    rest = client.get(f"/v1/accounts/a/entries?order={order}&limit=3&{cursor}={page['next']}").json
    assert page["entries"] + rest["entries"] == whole
    assert rest["next"] is None


def test_a_range_of_numbers_can_be_cut_out(client: Client) -> None:
    """`after` and `before` are both exclusive."""
    page = client.get("/v1/accounts/a/entries?after=1&before=5").json
    assert [row["number"] for row in page["entries"]] == [2, 4]


def test_an_account_without_entries_has_an_empty_statement(client: Client) -> None:
    """An open account is found even when nothing happened on it."""
    client.open("new")
    assert client.get("/v1/accounts/new/entries").json == {"entries": [], "next": None}


def test_an_unknown_account_is_not_found(client: Client) -> None:
    """No account, no statement."""
    assert client.get("/v1/accounts/unknown/entries").slug == "not-found"


@pytest.mark.parametrize(
    "query", ["order=up", "before=-1", "after=1.0", "after=", "limit=501", "after=1&after=2", "from=1"]
)
def test_refuses_a_query_it_does_not_understand(client: Client, query: str) -> None:
    """A misspelt or misplaced parameter is an error, never ignored."""
    assert client.get(f"/v1/accounts/a/entries?{query}").slug == "invalid-query"
