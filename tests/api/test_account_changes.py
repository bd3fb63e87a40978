"""GET /v1/accounts/{id}/changes: who changed min_balance, status or metadata."""

from typing import Any

import pytest

from tests.support.client import Client
from tests.support.ledger import Unchanged


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """`a` and `b` are open and were not changed."""
    client.open("a", "b")


def changes(client: Client) -> list[tuple[Any, Any]]:
    """`before` and `after` of each change of `a`."""
    page = client.get("/v1/accounts/a/changes").json
    return [(change["before"], change["after"]) for change in page["changes"]]


def test_the_opening_of_an_account_is_not_a_change(client: Client) -> None:
    """A new account has an empty list of changes."""
    assert client.get("/v1/accounts/a/changes").json == {"changes": [], "next": None}


@pytest.mark.promise(36)
def test_a_change_shows_the_changed_members_the_caller_and_the_time(client: Client) -> None:
    """Only the changed members are listed, before and after the change; the oldest change is first."""
    client.change("a", min_balance=-10, status="open")
    client.change("b", min_balance=-99)
    client.change("a", status="frozen", metadata={"why": "fraud"})
    client.change("a", min_balance=None)
    assert changes(client) == [
        ({"min_balance": 0}, {"min_balance": -10}),
        ({"status": "open", "metadata": {}}, {"status": "frozen", "metadata": {"why": "fraud"}}),
        ({"min_balance": -10}, {"min_balance": None}),
    ]
    page = client.get("/v1/accounts/a/changes").json["changes"]
    assert {change["changed_by"] for change in page} == {"development"}
    assert [change["changed_at"] for change in page] == sorted(change["changed_at"] for change in page)


@pytest.mark.promise(36)
def test_a_refused_change_is_not_recorded(client: Client, nothing_changes: Unchanged) -> None:
    """A PATCH that is declined or invalid adds no change."""
    with nothing_changes():
        assert client.change("a", min_balance=1).status == 422
        assert client.change("a", status="asleep").status == 400
    assert changes(client) == []


def test_the_pages_contain_each_change_once(client: Client) -> None:
    """The `next` of a page is the `after` of the following page; the last page has no `next`."""
    for n in range(1, 6):
        client.change("a", min_balance=-n)
    pages = client.pages("/v1/accounts/a/changes", limit=3)
    assert len(pages) == 2
    assert [change["after"]["min_balance"] for page in pages for change in page["changes"]] == [-1, -2, -3, -4, -5]


@pytest.mark.parametrize("query", ["after=x", "after=-1", "limit=501", "limit=", "before=1", "order=desc"])
def test_an_invalid_query_is_refused(client: Client, query: str) -> None:
    """A parameter that is unknown here or has an invalid value is an error."""
    assert client.get(f"/v1/accounts/a/changes?{query}").slug == "invalid-query"
