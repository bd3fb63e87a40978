"""PUT /v1/transfers/{id} with `captures`: a transfer of what a hold has set aside."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from service.wire import timestamp
from tests.client import Client
from tests.conftest import Clock, Unchanged


@pytest.fixture(autouse=True)
def held(client: Client) -> None:
    """`a` has 100, 30 of them set aside for `b` by the hold `h`."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.move("fund", "world", "a", 100)
    client.hold("h", "a", "b", 30)


class TestPosted:
    def test_moves_what_is_held(self, client: Client) -> None:
        """Accounts and currency are the hold's; without an amount all of it moves."""
        reply = client.capture("c", "h", metadata={"order": "A-19"})
        created_at = reply.json["created_at"]
        assert reply.status == 201
        assert reply.json == {
            "id": "c",
            "number": 2,
            "status": "posted",
            "from": "a",
            "to": "b",
            "amount": 30,
            "currency": "EUR",
            "from_balance": 70,
            "to_balance": 30,
            "captures": "h",
            "reverses": None,
            "metadata": {"order": "A-19"},
            "created_by": "development",
            "created_at": created_at,
        }
        assert (client.amounts("a"), client.amounts("b")) == ((70, 0, 70), (30, 0, 30))

    @pytest.mark.promise(29)
    @pytest.mark.parametrize("amount", [1, 29, 30])
    def test_frees_the_rest(self, client: Client, amount: int) -> None:
        """What is not captured is available in the same commit; the hold holds nothing any more."""
        client.hold("other", "a", "b", 50)
        assert client.capture("c", "h", amount=amount).json["amount"] == amount
        assert client.amounts("a") == (100 - amount, 50, 50 - amount)
        assert client.get("/v1/holds/h").json["status"] == "captured"

    def test_needs_nothing_but_what_is_held(self, client: Client) -> None:
        """An account whose last money is set aside can still be captured from."""
        client.move("rest", "a", "b", 70)
        assert client.capture("c", "h").status == 201
        assert client.amounts("a") == (0, 0, 0)

    def test_stands_in_feed_and_statement(self, client: Client) -> None:
        """A capture is a transfer like any other."""
        captured = client.capture("c", "h").json
        assert client.get("/v1/transfers?after=1").json["transfers"] == [captured]
        assert client.get("/v1/transfers/c").json == captured
        (entry,) = client.get("/v1/accounts/b/entries").json["entries"]
        assert (entry["transfer"], entry["amount"], entry["balance"]) == ("c", 30, 30)

    @pytest.mark.promise(33)
    @pytest.mark.parametrize("account", ["a", "b"])
    def test_goes_on_while_an_account_is_frozen(self, client: Client, account: str) -> None:
        """The hold was decided before the account was frozen."""
        client.change(account, status="frozen")
        assert client.move("t", "a", "b", 1).slug == "account-frozen"
        assert client.capture("c", "h").status == 201

    def test_a_higher_floor_does_not_stop_it(self, client: Client) -> None:
        """What is set aside does not count towards a floor that is raised later."""
        client.change("a", min_balance=70)
        assert client.capture("c", "h").status == 201

    def test_until_the_last_microsecond(self, client: Client, clock: Clock) -> None:
        """A hold is open until its moment comes."""
        due = clock.stop() + timedelta(hours=1)
        client.hold("timed", "a", "b", 5, expires_at=timestamp(due))
        clock.stop(due - timedelta(microseconds=1))
        assert client.capture("c", "timed").status == 201


class TestDeclined:
    @pytest.mark.promise(29)
    def test_once_only(self, client: Client) -> None:
        """A hold is captured once, even if the first capture left something of it."""
        client.capture("c1", "h", amount=10)
        reply = client.capture("c2", "h", amount=10)
        assert (reply.status, reply.slug) == (422, "hold-not-open")
        assert client.amounts("a") == (90, 0, 90)

    @pytest.mark.promise(29)
    def test_never_more_than_is_held(self, client: Client) -> None:
        """However much the account has; the hold stays open for a capture under another id."""
        reply = client.capture("c1", "h", amount=31)
        assert (reply.slug, reply.json["available"]) == ("capture-exceeds-hold", 30)
        assert client.amounts("a") == (100, 30, 70)
        assert client.capture("c2", "h", amount=30).status == 201

    def test_a_released_hold(self, client: Client) -> None:
        """What was freed cannot be captured."""
        client.release("h")
        assert client.capture("c", "h").slug == "hold-not-open"

    @pytest.mark.parametrize("late", [0, 1])
    def test_a_hold_that_is_due(self, client: Client, clock: Clock, owner: psycopg.Connection[Any], late: int) -> None:
        """From its moment on a hold is expired, and the declined capture writes that down."""
        due = clock.stop() + timedelta(hours=1)
        client.hold("timed", "a", "b", 5, expires_at=timestamp(due))
        clock.stop(due + timedelta(microseconds=late))
        assert client.capture("c", "timed").slug == "hold-not-open"
        assert owner.execute("SELECT status FROM hold WHERE id = 'timed'").fetchone() == ("expired",)
        assert client.amounts("a") == (100, 30, 70)

    def test_a_declined_hold(self, client: Client) -> None:
        """A hold that was refused holds nothing."""
        client.hold("big", "a", "b", 1000)
        assert client.capture("c", "big").slug == "hold-not-open"

    @pytest.mark.promise(34)
    def test_a_closed_account(self, client: Client) -> None:
        """A closed account receives nothing; the hold for it stays open and can be released."""
        client.change("b", status="closed")
        reply = client.capture("c", "h")
        assert (reply.slug, reply.json["account"]) == ("account-closed", "b")
        assert client.amounts("a") == (100, 30, 70)
        assert client.release("h").status == 200

    def test_a_balance_beyond_exact_numbers(self, client: Client) -> None:
        """The receiver's balance stays within 2^53-1."""
        client.move("t", "world", "b", 2**53 - 1 - 100)
        client.open("other", min_balance=None)
        client.move("t2", "other", "b", 71)
        assert client.capture("c", "h").json["account"] == "b"

    def test_is_shown_with_what_was_asked(self, client: Client) -> None:
        """A declined capture has the accounts of its hold, the amount asked, and what there was."""
        client.capture("c", "h", amount=31)
        declined = client.get("/v1/transfers/c").json
        assert (declined["from"], declined["to"], declined["amount"]) == ("a", "b", 31)
        assert (declined["captures"], declined["reason"], declined["available"]) == ("h", "capture-exceeds-hold", 30)


class TestRefused:
    def test_an_unknown_hold_is_not_remembered(self, client: Client, nothing_changes: Unchanged) -> None:
        """The caller may place the hold and send the same again."""
        with nothing_changes():
            reply = client.capture("c", "later")
        assert (reply.status, reply.slug) == (422, "hold-not-found")
        client.hold("later", "a", "b", 5)
        assert client.capture("c", "later").status == 201

    def test_a_transfer_is_no_hold(self, client: Client, nothing_changes: Unchanged) -> None:
        """Only what was set aside can be captured."""
        with nothing_changes():
            assert client.capture("c", "fund").slug == "hold-not-found"

    @pytest.mark.parametrize("amount", [0, -5, 10.5, 2**53, True, "5", None])
    def test_what_is_no_amount(self, client: Client, nothing_changes: Unchanged, amount: Any) -> None:
        """The amount may be left out; null is not left out."""
        with nothing_changes():
            reply = client.capture("c", "h", amount=amount)
        assert (reply.slug, reply.json["errors"][0]["pointer"]) == ("invalid-request", "/amount")

    @pytest.mark.parametrize("hold", ["", "-a", "x" * 65, None, 5, ["h"]])
    def test_what_is_no_id(self, client: Client, nothing_changes: Unchanged, hold: Any) -> None:
        """`captures` is the id of a hold."""
        with nothing_changes():
            reply = client.put("/v1/transfers/c", {"captures": hold})
        assert (reply.slug, reply.json["errors"][0]["pointer"]) == ("invalid-request", "/captures")
