"""PUT /v1/transfers/{id} with `reverses`: a transfer that gives another one back."""

from typing import Any

import pytest

from tests.client import Client
from tests.conftest import Unchanged


@pytest.fixture(autouse=True)
def moved(client: Client) -> None:
    """`t` moved 30 of the 100 of `a` to `b`."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.move("fund", "world", "a", 100)
    client.move("t", "a", "b", 30)


class TestPosted:
    def test_gives_all_of_it_back(self, client: Client) -> None:
        """The accounts are the original's, turned round; without an amount all of it moves."""
        reply = client.reverse("r", "t", metadata={"why": "broken"})
        created_at = reply.json["created_at"]
        assert reply.status == 201
        assert reply.json == {
            "id": "r",
            "number": 3,
            "status": "posted",
            "from": "b",
            "to": "a",
            "amount": 30,
            "currency": "EUR",
            "from_balance": 0,
            "to_balance": 100,
            "captures": None,
            "reverses": "t",
            "metadata": {"why": "broken"},
            "created_by": "development",
            "created_at": created_at,
        }
        assert (client.balance("a"), client.balance("b")) == (100, 0)

    def test_leaves_the_original_as_it_is(self, client: Client) -> None:
        """A posted transfer never changes."""
        before = client.get("/v1/transfers/t").json
        client.reverse("r", "t")
        assert client.get("/v1/transfers/t").json == before

    @pytest.mark.promise(31)
    def test_in_parts(self, client: Client) -> None:
        """Parts add up; without an amount the last one takes what is left."""
        assert client.reverse("r1", "t", amount=10).status == 201
        assert client.reverse("r2", "t", amount=1).status == 201
        assert client.reverse("r3", "t").json["amount"] == 19
        assert (client.balance("a"), client.balance("b")) == (100, 0)

    def test_of_a_reversal(self, client: Client) -> None:
        """A reversal is a transfer, so it can be given back itself; the original has no more left for that."""
        client.reverse("r", "t")
        assert client.reverse("rr", "r").json["reverses"] == "r"
        assert (client.balance("a"), client.balance("b")) == (70, 30)
        assert client.reverse("again", "t").slug == "reversal-exceeds-transfer"
        assert client.reverse("rrr", "rr").status == 201

    def test_of_a_capture(self, client: Client) -> None:
        """What was captured can be given back; the hold stays captured."""
        client.hold("h", "a", "b", 20)
        client.capture("c", "h", amount=15)
        assert client.reverse("r", "c").json["amount"] == 15
        assert client.get("/v1/holds/h").json["status"] == "captured"
        assert client.amounts("a") == (70, 0, 70)

    @pytest.mark.promise(33)
    @pytest.mark.parametrize("account", ["a", "b"])
    def test_goes_on_while_an_account_is_frozen(self, client: Client, account: str) -> None:
        """The transfer was decided before the account was frozen."""
        client.change(account, status="frozen")
        assert client.move("u", "a", "b", 1).slug == "account-frozen"
        assert client.reverse("r", "t").status == 201


class TestDeclined:
    @pytest.mark.promise(31)
    @pytest.mark.parametrize(("given", "asked", "left"), [(0, 31, 30), (10, 21, 20), (30, 1, 0)])
    def test_never_more_than_was_moved(self, client: Client, given: int, asked: int, left: int) -> None:
        """The sum of the reversals stays within the original, and the answer says what is left."""
        client.move("more", "world", "b", 1000)
        if given:
            client.reverse("r1", "t", amount=given)
        reply = client.reverse("r2", "t", amount=asked)
        assert (reply.status, reply.slug, reply.json["available"]) == (422, "reversal-exceeds-transfer", left)

    def test_when_nothing_is_left(self, client: Client) -> None:
        """Without an amount too; the declined row shows the original's amount."""
        client.reverse("r1", "t")
        reply = client.reverse("r2", "t")
        assert (reply.slug, reply.json["available"]) == ("reversal-exceeds-transfer", 0)
        assert client.get("/v1/transfers/r2").json["amount"] == 30

    @pytest.mark.promise(31)
    @pytest.mark.parametrize("more", [{}, {"amount": 1}])
    def test_of_a_declined_transfer(self, client: Client, more: dict[str, int]) -> None:
        """Nothing moved, so nothing is left to give back."""
        client.move("big", "a", "b", 1000)
        reply = client.reverse("r", "big", **more)
        assert (reply.slug, reply.json["available"]) == ("reversal-exceeds-transfer", 0)

    def test_a_declined_reversal_takes_nothing(self, client: Client) -> None:
        """Only posted reversals count."""
        client.reverse("r1", "t", amount=31)
        assert client.reverse("r2", "t", amount=30).status == 201

    def test_what_was_spent(self, client: Client) -> None:
        """A reversal respects the floor of whoever has to give back."""
        client.move("spent", "b", "world", 20)
        reply = client.reverse("r", "t")
        assert (reply.slug, reply.json["account"], reply.json["available"]) == ("insufficient-funds", "b", 10)
        assert client.reverse("part", "t", amount=10).status == 201

    def test_what_is_set_aside(self, client: Client) -> None:
        """Money that a hold has set aside is not there to be given back."""
        client.hold("h", "b", "a", 25)
        assert client.reverse("r", "t").json["available"] == 5

    def test_a_closed_account(self, client: Client) -> None:
        """A closed account takes part in nothing."""
        client.move("spent", "a", "world", 70)
        client.change("a", status="closed")
        reply = client.reverse("r", "t")
        assert (reply.slug, reply.json["account"]) == ("account-closed", "a")

    def test_is_remembered_for_ever(self, client: Client, nothing_changes: Unchanged) -> None:
        """A reversal that was declined for want of money stays declined when it comes."""
        client.move("spent", "b", "world", 20)
        first = client.reverse("r", "t")
        client.move("more", "world", "b", 1000)
        with nothing_changes():
            again = client.reverse("r", "t")
        assert {**again.json, "request_id": ""} == {**first.json, "request_id": ""}


class TestRefused:
    def test_an_unknown_transfer_is_not_remembered(self, client: Client, nothing_changes: Unchanged) -> None:
        """The caller may post the transfer and send the same again."""
        with nothing_changes():
            reply = client.reverse("r", "later")
        assert (reply.status, reply.slug) == (422, "transfer-not-found")
        client.move("later", "a", "b", 5)
        assert client.reverse("r", "later").status == 201

    def test_itself(self, client: Client, nothing_changes: Unchanged) -> None:
        """A transfer that is not there yet cannot be given back, not even by itself."""
        with nothing_changes():
            assert client.reverse("r", "r").slug == "transfer-not-found"

    @pytest.mark.parametrize("amount", [0, -5, 10.5, 2**53, True, "5", None])
    def test_what_is_no_amount(self, client: Client, nothing_changes: Unchanged, amount: Any) -> None:
        """The amount may be left out; null is not left out."""
        with nothing_changes():
            reply = client.reverse("r", "t", amount=amount)
        assert (reply.slug, reply.json["errors"][0]["pointer"]) == ("invalid-request", "/amount")
