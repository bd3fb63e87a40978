"""`max_balance`: the ceiling of an account."""

from typing import Any

import pytest

from service.contract import LIMITS
from tests.support.client import Client
from tests.support.ledger import Unchanged


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """`capped` has 40 and can receive 60 more; `world` has no limits."""
    client.open("world", min_balance=None)
    client.put("/v1/accounts/capped", {"currency": "EUR", "max_balance": 100})
    client.move("fund", "world", "capped", 40)


def test_a_transfer_up_to_the_ceiling_is_posted_and_one_above_it_is_declined(client: Client) -> None:
    """The problem has the account and the amount that it can still receive. It is stored under the id."""
    reply = client.move("above", "world", "capped", 61)
    assert (reply.status, reply.slug) == (422, "max-balance-exceeded")
    assert (reply.json["account"], reply.json["available"]) == ("capped", 60)
    stored = client.get("/v1/transfers/above").json
    assert (stored["status"], stored["reason"], stored["available"]) == ("declined", "max-balance-exceeded", 60)
    assert client.move("up-to", "world", "capped", 60).status == 201
    assert client.move("above", "world", "capped", 61).without_request_id == reply.without_request_id


def test_a_hold_for_the_account_does_not_count_and_its_capture_does(client: Client) -> None:
    """The hold is placed, the capture is declined, and a capture of less is posted."""
    assert client.hold("h", "world", "capped", 100).status == 201
    assert client.move("t", "world", "capped", 10).status == 201
    reply = client.capture("c1", "h")
    assert (reply.slug, reply.json["available"]) == ("max-balance-exceeded", 50)
    assert client.get("/v1/holds/h").json["status"] == "open"
    assert client.capture("c2", "h", amount=50).status == 201


def test_a_reversal_does_not_take_the_account_above_its_ceiling(client: Client) -> None:
    """The account that paid receives the amount back, so its ceiling applies."""
    client.move("spend", "capped", "world", 40)
    client.move("again", "world", "capped", 100)
    reply = client.reverse("r", "spend")
    assert (reply.slug, reply.json["available"]) == ("max-balance-exceeded", 0)


def test_an_account_without_a_ceiling_shows_null(client: Client) -> None:
    """Null is the default, and the same as absent."""
    assert client.put("/v1/accounts/a", {"currency": "EUR"}).json["max_balance"] is None
    assert client.put("/v1/accounts/a", {"currency": "EUR", "max_balance": None}).status == 200


@pytest.mark.promise(3)
def test_an_opening_with_another_ceiling_is_a_conflict(client: Client, nothing_changes: Unchanged) -> None:
    """The ceiling is compared with that of the opening, also after a change."""
    client.change("capped", max_balance=200)
    with nothing_changes():
        assert client.put("/v1/accounts/capped", {"currency": "EUR", "max_balance": 100}).json["max_balance"] == 200
        for ceiling in (200, None):
            reply = client.put("/v1/accounts/capped", {"currency": "EUR", "max_balance": ceiling})
            assert (reply.status, reply.json["differs"]) == (409, ["max_balance"])


@pytest.mark.parametrize("ceiling", [40, 41, LIMITS.amount_max, None])
def test_a_ceiling_can_be_changed(client: Client, ceiling: int | None) -> None:
    """To any value from the balance on. The change is recorded."""
    assert client.change("capped", max_balance=ceiling).json["max_balance"] == ceiling
    [change] = client.get("/v1/accounts/capped/changes").json["changes"]
    assert (change["before"], change["after"]) == ({"max_balance": 100}, {"max_balance": ceiling})


@pytest.mark.promise(45)
def test_a_ceiling_below_the_balance_is_refused(client: Client, nothing_changes: Unchanged) -> None:
    """The balance counts, not the available amount."""
    client.hold("h", "capped", "world", 30)
    with nothing_changes():
        reply = client.change("capped", max_balance=39, metadata={"k": "v"})
    assert (reply.status, reply.slug) == (422, "max-balance-exceeded")
    assert (reply.json["account"], reply.json["available"]) == ("capped", 0)


def test_a_ceiling_can_be_below_zero(client: Client) -> None:
    """An account that may only owe: its balance stays at or below the ceiling."""
    assert client.change("world", max_balance=-40).status == 200
    assert client.move("back", "capped", "world", 1).json["available"] == 0
    assert client.change("world", max_balance=-41).slug == "max-balance-exceeded"


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, LIMITS.amount_max + 1])
def test_an_invalid_ceiling_of_a_new_account_is_refused(client: Client, nothing_changes: Unchanged, value: Any) -> None:
    """A new account has the balance 0, so a ceiling below it is refused as well."""
    with nothing_changes():
        reply = client.put("/v1/accounts/new", {"currency": "EUR", "max_balance": value})
    assert (reply.slug, reply.pointers) == ("invalid-request", ["/max_balance"])


def test_the_range_of_a_ceiling_is_that_of_a_balance(client: Client) -> None:
    """One more or one less is refused."""
    assert client.change("capped", max_balance=LIMITS.amount_max + 1).status == 400
    assert client.change("capped", max_balance=-LIMITS.amount_max - 1).status == 400
    client.open("debtor", min_balance=None)
    client.move("lend", "debtor", "world", LIMITS.amount_max - 40)
    client.move("lend-more", "debtor", "world", 40)
    assert client.change("debtor", max_balance=-LIMITS.amount_max).status == 200
