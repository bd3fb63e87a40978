"""PATCH /v1/accounts/{id}: min_balance, status and metadata."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from service.logs import format_time
from tests.support.client import Client
from tests.support.ledger import Clock, Unchanged


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """`world` has no lower limit, `a` has 100 and metadata, `b` has 0."""
    client.open("world", min_balance=None)
    client.put("/v1/accounts/a", {"currency": "EUR", "metadata": {"plan": "free", "team": "x"}})
    client.open("b")
    client.move("fund", "world", "a", 100)


@pytest.mark.parametrize(
    "members",
    [
        {"min_balance": -5},
        {"min_balance": None},
        {"min_balance": 100},
        {"status": "frozen"},
        {"metadata": {"plan": "paid"}},
        {"metadata": {}, "min_balance": 1},
    ],
    ids=str,
)
def test_a_change_replaces_only_the_members_that_are_sent(client: Client, members: dict[str, Any]) -> None:
    """An absent member keeps its value; `metadata` is replaced as a whole."""
    before = client.get("/v1/accounts/a").json
    reply = client.change("a", **members)
    assert (reply.status, reply.json) == (200, before | members)
    assert client.get("/v1/accounts/a").json == reply.json


@pytest.mark.parametrize("scopes", [["read"], ["write"], ["read", "write"]], ids=" and ".join)
def test_a_change_requires_the_scope_admin(client: Client, nothing_changes: Unchanged, scopes: list[str]) -> None:
    """The scope that allows transfers does not allow a change of an account."""
    with nothing_changes():
        reply = client.with_scopes(*scopes).change("a", status="frozen")
    assert (reply.status, reply.slug, reply.json["scope"]) == (403, "forbidden", "admin")


@pytest.mark.promise(36)
@pytest.mark.parametrize(
    "members", [{"status": "open"}, {"min_balance": 0, "metadata": {"team": "x", "plan": "free"}}], ids=str
)
def test_the_current_values_are_not_a_change(
    client: Client, nothing_changes: Unchanged, members: dict[str, Any]
) -> None:
    """The response is 200, and nothing is recorded."""
    with nothing_changes():
        assert client.change("a", **members).status == 200
    assert client.get("/v1/accounts/a/changes").json["changes"] == []


def test_a_min_balance_above_0_reserves_this_amount(client: Client) -> None:
    """It applies to all later transfers."""
    client.change("a", min_balance=60)
    assert client.move("t1", "a", "b", 41).json["available"] == 100
    assert client.move("t2", "a", "b", 40).status == 201


def test_a_min_balance_below_0_allows_an_overdraft(client: Client) -> None:
    """The overdraft is limited to this amount."""
    client.change("b", min_balance=-10)
    assert client.move("t1", "b", "a", 10).status == 201
    assert client.move("t2", "b", "a", 1).slug == "insufficient-funds"


@pytest.mark.promise(35)
def test_a_min_balance_above_the_available_amount_is_refused(client: Client, nothing_changes: Unchanged) -> None:
    """The amount of an open hold is not available, and a refused change changes no member."""
    client.hold("h", "a", "b", 30)
    with nothing_changes():
        reply = client.change("a", min_balance=71, metadata={})
    assert (reply.status, reply.slug) == (422, "insufficient-funds")
    assert (reply.json["account"], reply.json["available"]) == ("a", 70)
    assert client.change("a", min_balance=70).status == 200


def test_the_amount_of_an_expired_hold_is_available_for_a_min_balance(
    client: Client, clock: Clock, owner: psycopg.Connection[Any]
) -> None:
    """The change stores the expiry; one microsecond earlier the amount is still reserved."""
    due = clock.stop() + timedelta(seconds=1)
    client.hold("h", "a", "b", 30, expires_at=format_time(due))
    clock.stop(due - timedelta(microseconds=1))
    assert client.change("a", min_balance=100).slug == "insufficient-funds"
    clock.stop(due)
    assert client.change("a", min_balance=100).json["available"] == 100
    assert owner.execute("SELECT status, resolved_at = expires_at FROM hold").fetchall() == [("expired", True)]


@pytest.mark.parametrize("min_balance", [2**53, -(2**53), "0", 1.5, True, []])
def test_an_invalid_min_balance_is_refused(client: Client, nothing_changes: Unchanged, min_balance: Any) -> None:
    """It is null or an integer from -(2^53-1) to 2^53-1."""
    with nothing_changes():
        reply = client.change("a", min_balance=min_balance)
    assert (reply.slug, reply.pointers) == ("invalid-request", ["/min_balance"])


@pytest.mark.promise(33)
def test_a_frozen_account_declines_new_transfers_and_holds(client: Client) -> None:
    """This applies to both directions, until the account is open again."""
    client.change("a", status="frozen")
    replies = [client.move("t1", "a", "b"), client.move("t2", "world", "a")]
    replies += [client.hold("h1", "a", "b"), client.hold("h2", "world", "a")]
    assert [(reply.slug, reply.json["account"]) for reply in replies] == [("account-frozen", "a")] * 4
    client.change("a", status="open")
    assert client.move("t3", "a", "b").status == 201


@pytest.mark.promise(34)
def test_a_closed_account_declines_transfers_holds_and_reversals(client: Client) -> None:
    """The problem names the account."""
    client.move("t", "a", "world", 100)
    client.change("a", status="closed")
    replies = [client.move("t1", "world", "a"), client.hold("h1", "world", "a"), client.reverse("r1", "t")]
    assert [(reply.slug, reply.json["account"]) for reply in replies] == [("account-closed", "a")] * 3


@pytest.mark.promise(34)
@pytest.mark.parametrize("id", ["a", "world"])
def test_an_account_with_a_balance_cannot_be_closed(client: Client, nothing_changes: Unchanged, id: str) -> None:
    """A positive and a negative balance are both refused, and no other member is changed."""
    with nothing_changes():
        reply = client.change(id, status="closed", metadata={"gone": "yes"})
    assert (reply.status, reply.slug, reply.json["account"]) == (422, "account-not-empty", id)


@pytest.mark.promise(34)
def test_an_account_with_an_open_hold_cannot_be_closed(client: Client, nothing_changes: Unchanged) -> None:
    """It can be closed after the release."""
    client.change("b", min_balance=-10)
    client.hold("h", "b", "a", 10)
    with nothing_changes():
        assert client.change("b", status="closed").slug == "account-not-empty"
    client.release("h")
    assert client.change("b", status="closed").json["status"] == "closed"


def test_an_account_with_an_expired_hold_can_be_closed(
    client: Client, clock: Clock, owner: psycopg.Connection[Any]
) -> None:
    """The rows of the account and of the hold show that nothing is held."""
    due = clock.stop() + timedelta(seconds=1)
    client.change("b", min_balance=-10)
    client.hold("h", "b", "a", 10, expires_at=format_time(due))
    clock.stop(due)
    assert client.change("b", status="closed").json["held"] == 0
    assert owner.execute("SELECT held, status FROM account WHERE id = 'b'").fetchone() == (0, "closed")
    assert owner.execute("SELECT status FROM hold").fetchall() == [("expired",)]


def test_a_closed_account_can_be_opened_again(client: Client) -> None:
    """After that it accepts transfers."""
    client.change("b", status="closed")
    client.change("b", status="open")
    assert client.move("t", "a", "b").status == 201


@pytest.mark.parametrize("status", ["Open", "", "shut", None, 1, ["open"], {"open": 1}], ids=str)
def test_an_invalid_status_is_refused(client: Client, nothing_changes: Unchanged, status: Any) -> None:
    """It is `open`, `frozen` or `closed`."""
    with nothing_changes():
        reply = client.change("a", status=status)
    assert (reply.slug, reply.pointers) == ("invalid-request", ["/status"])


@pytest.mark.promise(37)
def test_the_opening_can_be_repeated_after_a_change(client: Client, nothing_changes: Unchanged) -> None:
    """PUT compares the body with the values at the opening and returns the account as it is now."""
    client.change("a", min_balance=-7, metadata={})
    client.change("a", min_balance=None, metadata={"plan": "paid"})
    with nothing_changes():
        reply = client.put("/v1/accounts/a", {"currency": "EUR", "metadata": {"plan": "free", "team": "x"}})
    assert (reply.status, reply.json["min_balance"]) == (200, None)
    assert reply.json["metadata"] == {"plan": "paid"}


def test_the_opening_without_a_min_balance_can_be_repeated_after_a_change(client: Client) -> None:
    """Null at the opening is compared too."""
    client.change("world", min_balance=-1000)
    assert client.put("/v1/accounts/world", {"currency": "EUR", "min_balance": None}).status == 200
    reply = client.put("/v1/accounts/world", {"currency": "EUR", "min_balance": -1000})
    assert reply.json["differs"] == ["min_balance"]


def test_an_opening_with_the_changed_values_is_a_conflict(client: Client, nothing_changes: Unchanged) -> None:
    """The current values are not the values at the opening."""
    client.change("a", min_balance=-7, metadata={"plan": "paid"})
    with nothing_changes():
        reply = client.put("/v1/accounts/a", {"currency": "EUR", "min_balance": -7, "metadata": {"plan": "paid"}})
    assert (reply.status, reply.json["differs"]) == (409, ["min_balance", "metadata"])


@pytest.mark.parametrize("raw", [b"{}", b"[]", b"null", b'"open"', b"5"])
def test_a_body_without_a_member_is_refused(client: Client, nothing_changes: Unchanged, raw: bytes) -> None:
    """The body is an object with at least one member."""
    with nothing_changes():
        reply = client.request("PATCH", "/v1/accounts/a", raw=raw)
    assert (reply.slug, reply.pointers[0]) == ("invalid-request", "")


@pytest.mark.parametrize("name", ["currency", "balance", "held", "id", "created_by"])
def test_no_other_member_can_be_changed(client: Client, nothing_changes: Unchanged, name: str) -> None:
    """Every other member is unknown in a PATCH."""
    with nothing_changes():
        reply = client.change("a", status="frozen", **{name: "USD"})
    assert reply.pointers == [f"/{name}"]
