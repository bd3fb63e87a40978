"""GET /v1/accounts/{id}/changes: who changed floor, status or metadata."""

from typing import Any

import pytest

from tests.client import Client
from tests.conftest import Unchanged


@pytest.fixture(autouse=True)
def account(client: Client) -> None:
    """`a` and `b` were opened, and are as they were opened."""
    client.open("a", "b")


def changes(client: Client, query: str = "") -> list[tuple[Any, Any]]:
    """Before and after of each change."""
    page = client.get(f"/v1/accounts/a/changes{query}").json
    return [(change["before"], change["after"]) for change in page["changes"]]


def test_an_account_that_was_never_changed_has_none(client: Client) -> None:
    """The opening is no change."""
    assert client.get("/v1/accounts/a/changes").json == {"changes": [], "next": None}


@pytest.mark.promise(36)
def test_tells_who_changed_what(client: Client) -> None:
    """The changed members alone, as they were and as they became, oldest first."""
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
def test_a_refused_change_is_none(client: Client, nothing_changes: Unchanged) -> None:
    """What was not changed is not recorded."""
    with nothing_changes():
        assert client.change("a", min_balance=1).status == 422
        assert client.change("a", status="asleep").status == 400
    assert changes(client) == []


def test_pages_lead_from_one_to_the_next(client: Client) -> None:
    """`next` goes into `after`."""
    for n in range(1, 6):
        client.change("a", min_balance=-n)
    page = client.get("/v1/accounts/a/changes?limit=3").json
    rest = client.get(f"/v1/accounts/a/changes?limit=3&after={page['next']}").json
    assert [change["after"]["min_balance"] for change in page["changes"] + rest["changes"]] == [-1, -2, -3, -4, -5]
    assert rest["next"] is None


def test_an_unknown_account_is_not_found(client: Client) -> None:
    """No account, no changes."""
    assert client.get("/v1/accounts/unknown/changes").slug == "not-found"


@pytest.mark.parametrize("query", ["after=x", "after=-1", "limit=501", "limit=", "before=1", "order=desc"])
def test_refuses_a_query_it_does_not_understand(client: Client, query: str) -> None:
    """A misspelt or misplaced parameter is an error, never ignored."""
    assert client.get(f"/v1/accounts/a/changes?{query}").slug == "invalid-query"
