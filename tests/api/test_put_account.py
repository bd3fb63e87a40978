"""PUT /v1/accounts/{id}"""

import pytest

from tests.support.client import Client
from tests.support.ledger import Unchanged


def test_a_new_account_is_opened_with_defaults(client: Client) -> None:
    """The amounts and min_balance are 0, and `created_by` is the caller."""
    reply = client.put("/v1/accounts/user:42", {"currency": "EUR", "metadata": {"plan": "free"}})
    assert reply.status == 201
    assert reply.json == {
        "id": "user:42",
        "currency": "EUR",
        "balance": 0,
        "held": 0,
        "available": 0,
        "min_balance": 0,
        "max_balance": None,
        "status": "open",
        "metadata": {"plan": "free"},
        "created_by": "development",
        "created_at": reply.json["created_at"],
    }


def test_a_repeat_returns_the_first_account(client: Client, nothing_changes: Unchanged) -> None:
    """The status is 200; an absent member is the same as its default."""
    first = client.put("/v1/accounts/a", {"currency": "EUR"})
    with nothing_changes():
        again = client.put("/v1/accounts/a", {"currency": "EUR", "min_balance": 0, "metadata": {}})
    assert (again.status, again.json) == (200, first.json)


def test_a_repeat_returns_the_current_balance(client: Client) -> None:
    """The balance includes the transfers since the opening."""
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
def test_a_different_body_is_a_conflict(
    client: Client, nothing_changes: Unchanged, body: dict[str, object], differs: list[str]
) -> None:
    """The response lists the members that differ, and nothing changes."""
    client.open("a")
    with nothing_changes():
        reply = client.put("/v1/accounts/a", body)
    assert (reply.status, reply.slug, reply.json["differs"]) == (409, "id-conflict", differs)


@pytest.mark.parametrize("min_balance", [1, "0", 1.5, True, -(2**53)])
def test_an_invalid_min_balance_is_refused(client: Client, nothing_changes: Unchanged, min_balance: object) -> None:
    """It is null or an integer from -(2^53-1) to 0, the balance of a new account."""
    with nothing_changes():
        reply = client.put("/v1/accounts/a", {"currency": "EUR", "min_balance": min_balance})
    assert (reply.slug, reply.pointers) == ("invalid-request", ["/min_balance"])


@pytest.mark.parametrize("currency", ["eur", "EU", "E" * 13, "1EU", "EUR\n", "", None, 978, ["EUR"]], ids=repr)
def test_an_invalid_currency_is_refused(client: Client, nothing_changes: Unchanged, currency: object) -> None:
    """It has 3 to 12 capital letters and digits and begins with a letter."""
    with nothing_changes():
        reply = client.put("/v1/accounts/a", {"currency": currency})
    assert (reply.slug, reply.pointers) == ("invalid-request", ["/currency"])
