"""PATCH /v1/accounts/{id}: floor, status and metadata, each as a whole."""

import dataclasses
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from service.wire import timestamp
from tests.client import Client
from tests.conftest import Clock, Unchanged


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    """`a` has 100, `b` has nothing."""
    client.open("world", min_balance=None)
    client.put("/v1/accounts/a", {"currency": "EUR", "metadata": {"plan": "free", "team": "x"}})
    client.open("b")
    client.move("fund", "world", "a", 100)


@pytest.mark.parametrize(
    ("members", "shown"),
    [
        ({"min_balance": -5}, {"min_balance": -5}),
        ({"min_balance": None}, {"min_balance": None}),
        ({"min_balance": 100}, {"min_balance": 100}),
        ({"status": "frozen"}, {"status": "frozen"}),
        ({"metadata": {"plan": "paid"}}, {"metadata": {"plan": "paid"}}),
        ({"metadata": {}, "min_balance": 1}, {"metadata": {}, "min_balance": 1}),
    ],
)
def test_sets_what_is_sent_and_nothing_else(client: Client, members: dict[str, Any], shown: dict[str, Any]) -> None:
    """A member that is left out stays; one that is sent replaces the whole, also of metadata."""
    before = client.get("/v1/accounts/a").json
    reply = client.change("a", **members)
    assert (reply.status, reply.json) == (200, before | shown)
    assert client.get("/v1/accounts/a").json == reply.json


@pytest.mark.parametrize("scopes", [{"read"}, {"write"}, {"read", "write"}])
def test_needs_the_scope_admin(client: Client, nothing_changes: Unchanged, scopes: set[str]) -> None:
    """Who may move money may not change its limits."""
    (known,) = client.application._callers
    caller = dataclasses.replace(known, scopes=frozenset(scopes))
    application = type(client.application)(client.application.parts, (caller,))
    with nothing_changes():
        reply = Client(application).change("a", status="frozen")
    assert (reply.status, reply.slug, reply.json["scope"]) == (403, "forbidden", "admin")


@pytest.mark.promise(36)
@pytest.mark.parametrize("members", [{"status": "open"}, {"min_balance": 0, "metadata": {"team": "x", "plan": "free"}}])
def test_what_is_so_already_is_no_change(client: Client, nothing_changes: Unchanged, members: dict[str, Any]) -> None:
    """A repeat is answered with the account, and nothing is recorded."""
    with nothing_changes():
        assert client.change("a", **members).status == 200
    assert client.get("/v1/accounts/a/changes").json["changes"] == []


class TestFloor:
    def test_holds_from_now_on(self, client: Client) -> None:
        """A floor may be above 0, and keeps that much on the account."""
        client.change("a", min_balance=60)
        assert client.move("t1", "a", "b", 41).json["available"] == 100
        assert client.move("t2", "a", "b", 40).status == 201

    def test_can_be_lowered(self, client: Client) -> None:
        """A lower floor gives credit."""
        client.change("b", min_balance=-10)
        assert client.move("t1", "b", "a", 10).status == 201
        assert client.move("t2", "b", "a", 1).slug == "insufficient-funds"

    @pytest.mark.promise(35)
    def test_is_never_above_what_is_available(self, client: Client, nothing_changes: Unchanged) -> None:
        """What a hold has set aside does not count, and a refused change changes none of its members."""
        client.hold("h", "a", "b", 30)
        with nothing_changes():
            reply = client.change("a", min_balance=71, metadata={})
        assert (reply.status, reply.slug) == (422, "insufficient-funds")
        assert (reply.json["account"], reply.json["available"]) == ("a", 70)
        assert client.change("a", min_balance=70).status == 200

    def test_counts_a_hold_that_is_due_as_free(
        self, client: Client, clock: Clock, owner: psycopg.Connection[Any]
    ) -> None:
        """From its moment on the money of a hold is available, for a floor too, and its row is written off."""
        due = clock.stop() + timedelta(seconds=1)
        client.hold("h", "a", "b", 30, expires_at=timestamp(due))
        clock.stop(due - timedelta(microseconds=1))
        assert client.change("a", min_balance=100).slug == "insufficient-funds"
        clock.stop(due)
        assert client.change("a", min_balance=100).json["available"] == 100
        assert owner.execute("SELECT status, resolved_at = expires_at FROM hold").fetchall() == [("expired", True)]

    @pytest.mark.parametrize("min_balance", [2**53, -(2**53), "0", 1.5, True, []])
    def test_is_a_whole_number_or_null(self, client: Client, nothing_changes: Unchanged, min_balance: Any) -> None:
        """Within plus and minus 2^53-1."""
        with nothing_changes():
            reply = client.change("a", min_balance=min_balance)
        assert (reply.slug, reply.json["errors"][0]["pointer"]) == ("invalid-request", "/min_balance")


class TestStatus:
    @pytest.mark.promise(33)
    def test_frozen_is_left_out_of_everything_new(self, client: Client) -> None:
        """No transfer and no hold, neither out nor in, until it is open again."""
        client.change("a", status="frozen")
        replies = [client.move("t1", "a", "b", 1), client.move("t2", "world", "a", 1)]
        replies += [client.hold("h1", "a", "b", 1), client.hold("h2", "world", "a", 1)]
        assert [(reply.slug, reply.json["account"]) for reply in replies] == [("account-frozen", "a")] * 4
        client.change("a", status="open")
        assert client.move("t3", "a", "b", 1).status == 201

    @pytest.mark.promise(34)
    def test_closed_is_left_out_of_everything(self, client: Client) -> None:
        """No transfer, no hold, no reversal."""
        client.move("t", "a", "world", 100)
        client.change("a", status="closed")
        replies = [client.move("t1", "world", "a", 1), client.hold("h1", "world", "a", 1), client.reverse("r1", "t")]
        assert [(reply.slug, reply.json["account"]) for reply in replies] == [("account-closed", "a")] * 3

    @pytest.mark.promise(34)
    def test_an_account_with_money_cannot_be_closed(self, client: Client, nothing_changes: Unchanged) -> None:
        """Only balance 0 can be closed, above or below, and no other member is changed with it."""
        for id in ("a", "world"):
            with nothing_changes():
                reply = client.change(id, status="closed", metadata={"gone": "yes"})
            assert (reply.status, reply.slug, reply.json["account"]) == (422, "account-not-empty", id)

    @pytest.mark.promise(34)
    def test_an_account_with_a_hold_cannot_be_closed(self, client: Client, nothing_changes: Unchanged) -> None:
        """Also at balance 0 something may still be set aside."""
        client.change("b", min_balance=-10)
        client.hold("h", "b", "a", 10)
        with nothing_changes():
            assert client.change("b", status="closed").slug == "account-not-empty"
        client.release("h")
        assert client.change("b", status="closed").json["status"] == "closed"

    def test_a_hold_that_is_due_does_not_count(
        self, client: Client, clock: Clock, owner: psycopg.Connection[Any]
    ) -> None:
        """A closed account has nothing held, in its row neither."""
        due = clock.stop() + timedelta(seconds=1)
        client.change("b", min_balance=-10)
        client.hold("h", "b", "a", 10, expires_at=timestamp(due))
        clock.stop(due)
        assert client.change("b", status="closed").json["held"] == 0
        assert owner.execute("SELECT held, status FROM account WHERE id = 'b'").fetchone() == (0, "closed")
        assert owner.execute("SELECT status FROM hold").fetchall() == [("expired",)]

    def test_a_closed_account_can_be_opened_again(self, client: Client) -> None:
        """A mistake can be mended."""
        client.change("b", status="closed")
        client.change("b", status="open")
        assert client.move("t", "a", "b", 1).status == 201

    @pytest.mark.parametrize("status", ["Open", "", "shut", None, 1, ["open"], {"open": 1}])
    def test_is_one_of_three(self, client: Client, nothing_changes: Unchanged, status: Any) -> None:
        """Open, frozen or closed."""
        with nothing_changes():
            reply = client.change("a", status=status)
        assert (reply.slug, reply.json["errors"][0]["pointer"]) == ("invalid-request", "/status")


class TestOpenedBefore:
    @pytest.mark.promise(37)
    def test_the_opening_can_still_be_repeated(self, client: Client, nothing_changes: Unchanged) -> None:
        """PUT compares with what the account was opened with, and answers how it stands now."""
        client.change("a", min_balance=-7, metadata={})
        client.change("a", min_balance=None, metadata={"plan": "paid"})
        with nothing_changes():
            reply = client.put("/v1/accounts/a", {"currency": "EUR", "metadata": {"plan": "free", "team": "x"}})
        assert (reply.status, reply.json["min_balance"]) == (200, None)
        assert reply.json["metadata"] == {"plan": "paid"}

    def test_a_floor_that_was_none_at_first(self, client: Client) -> None:
        """Also null is remembered as what it was opened with."""
        client.change("world", min_balance=-1000)
        assert client.put("/v1/accounts/world", {"currency": "EUR", "min_balance": None}).status == 200
        assert client.put("/v1/accounts/world", {"currency": "EUR", "min_balance": -1000}).json["differs"] == [
            "min_balance"
        ]

    def test_what_it_was_changed_to_conflicts(self, client: Client, nothing_changes: Unchanged) -> None:
        """An opening with today's content is another opening."""
        client.change("a", min_balance=-7, metadata={"plan": "paid"})
        with nothing_changes():
            reply = client.put("/v1/accounts/a", {"currency": "EUR", "min_balance": -7, "metadata": {"plan": "paid"}})
        assert (reply.status, reply.json["differs"]) == (409, ["min_balance", "metadata"])


class TestRefused:
    @pytest.mark.parametrize("body", [{}, [], None, "open", 5])
    def test_nothing_to_change(self, client: Client, nothing_changes: Unchanged, body: Any) -> None:
        """At least one member is needed."""
        with nothing_changes():
            reply = client.request("PATCH", "/v1/accounts/a", raw=b"null" if body is None else None, body=body)
        assert (reply.slug, reply.json["errors"][0]["pointer"]) == ("invalid-request", "")

    @pytest.mark.parametrize("name", ["currency", "balance", "held", "id", "created_by"])
    def test_what_never_changes(self, client: Client, nothing_changes: Unchanged, name: str) -> None:
        """Every other member is unknown here."""
        with nothing_changes():
            reply = client.change("a", status="frozen", **{name: "USD"})
        assert [error["pointer"] for error in reply.json["errors"]] == [f"/{name}"]

    @pytest.mark.parametrize("id", ["unknown", "caf%C3%A9", "x" * 65, "-a"])
    def test_what_is_not_there(self, client: Client, nothing_changes: Unchanged, id: str) -> None:
        """An id that nobody used and one that nobody can use get the same answer."""
        with nothing_changes():
            reply = client.change(id, status="frozen")
        assert (reply.status, reply.slug) == (404, "not-found")
