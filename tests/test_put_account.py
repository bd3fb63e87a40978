"""PUT /v1/accounts/{id}"""

import pytest

from tests.client import Client
from tests.conftest import Unchanged


def test_opens_an_account(client: Client) -> None:
    """A new account holds nothing, has the floor 0, and names who opened it."""
    reply = client.put("/v1/accounts/user:42", {"currency": "EUR", "metadata": {"plan": "free"}})
    created_at = reply.json["created_at"]
    assert reply.status == 201
    assert reply.json == {
        "id": "user:42",
        "currency": "EUR",
        "balance": 0,
        "held": 0,
        "available": 0,
        "min_balance": 0,
        "status": "open",
        "metadata": {"plan": "free"},
        "created_by": "development",
        "created_at": created_at,
    }


def test_the_same_again_is_answered_with_the_same(client: Client, nothing_changes: Unchanged) -> None:
    """Opening twice gives 200 and the first account."""
    first = client.put("/v1/accounts/a", {"currency": "EUR"})
    with nothing_changes():
        again = client.put("/v1/accounts/a", {"currency": "EUR", "min_balance": 0, "metadata": {}})
    assert (again.status, again.json) == (200, first.json)


def test_the_same_again_shows_the_balance_of_now(client: Client) -> None:
    """A late repeat of the opening tells what the account holds now."""
    client.open("world", min_balance=None)
    client.open("a")
    client.move("t", "world", "a", 5)
    assert client.put("/v1/accounts/a", {"currency": "EUR"}).json["balance"] == 5


@pytest.mark.promise(3)
@pytest.mark.parametrize(
    ("body", "differs"),
    [
        ({"currency": "USD"}, ["currency"]),
        ({"currency": "EUR", "min_balance": None}, ["min_balance"]),
        ({"currency": "USD", "min_balance": -1, "metadata": {"a": "b"}}, ["currency", "min_balance", "metadata"]),
    ],
)
def test_other_content_is_a_conflict(
    client: Client, nothing_changes: Unchanged, body: dict[str, object], differs: list[str]
) -> None:
    """An id stands for one account; the answer names what is not the same."""
    client.open("a")
    with nothing_changes():
        reply = client.put("/v1/accounts/a", body)
    assert (reply.status, reply.slug, reply.json["differs"]) == (409, "id-conflict", differs)


@pytest.mark.parametrize("min_balance", [1, "0", 1.5, True, -(2**53)])
def test_refuses_a_floor_it_cannot_hold(client: Client, nothing_changes: Unchanged, min_balance: object) -> None:
    """The floor of a new account is a whole number that is not above its balance of 0."""
    with nothing_changes():
        reply = client.put("/v1/accounts/a", {"currency": "EUR", "min_balance": min_balance})
    assert (reply.slug, reply.json["errors"][0]["pointer"]) == ("invalid-request", "/min_balance")


@pytest.mark.parametrize("currency", ["eur", "EU", "E" * 13, "1EU", "EUR\n", "", None, 978, ["EUR"]])
def test_refuses_what_is_no_currency(client: Client, nothing_changes: Unchanged, currency: object) -> None:
    """A currency is three to twelve capital letters and digits, and begins with a letter."""
    with nothing_changes():
        reply = client.put("/v1/accounts/a", {"currency": currency})
    assert (reply.slug, reply.json["errors"][0]["pointer"]) == ("invalid-request", "/currency")
