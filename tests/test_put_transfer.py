"""PUT /v1/transfers/{id}"""

from typing import Any

import psycopg
import pytest

from tests.client import Client
from tests.conftest import Unchanged


@pytest.fixture
def accounts(client: Client) -> None:
    """`world` may go below zero, `a` has 100, `b` has nothing, `dollars` holds another currency."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.open("dollars", currency="USD", min_balance=None)
    client.move("fund", "world", "a", 100)


@pytest.mark.usefixtures("accounts")
class TestPosted:
    def test_moves_money(self, client: Client) -> None:
        """A posted transfer has the next number and both balances after it."""
        reply = client.move("pay_1", "a", "b", 30, metadata={"order": "A-19"})
        created_at = reply.json["created_at"]
        assert reply.status == 201
        assert reply.json == {
            "id": "pay_1",
            "number": 2,
            "status": "posted",
            "from": "a",
            "to": "b",
            "amount": 30,
            "currency": "EUR",
            "from_balance": 70,
            "to_balance": 30,
            "captures": None,
            "reverses": None,
            "metadata": {"order": "A-19"},
            "created_by": "development",
            "created_at": created_at,
        }
        assert (client.balance("a"), client.balance("b")) == (70, 30)

    @pytest.mark.parametrize("amount", [b"100", b"100.0", b"1e2", b"1E+2"])
    def test_takes_whole_numbers_in_every_spelling(self, client: Client, amount: bytes) -> None:
        """JSON has one kind of number: 100.0 and 1e2 are the integer 100."""
        raw = b'{"from": "a", "to": "b", "amount": %b, "currency": "EUR"}' % amount
        assert client.put("/v1/transfers/t", raw=raw).json["amount"] == 100

    def test_may_use_all_that_is_available(self, client: Client) -> None:
        """The floor itself may be reached."""
        assert client.move("t", "a", "b", 100).status == 201

    def test_no_floor_means_no_floor(self, client: Client) -> None:
        """An account with min_balance null goes below zero."""
        assert client.move("t", "world", "b", 10**12).json["from_balance"] == -(10**12) - 100


@pytest.mark.usefixtures("accounts")
class TestDeclined:
    def test_too_little_available(self, client: Client) -> None:
        """The problem names the account and what it had."""
        reply = client.move("t", "a", "b", 101)
        assert (reply.status, reply.slug) == (422, "insufficient-funds")
        assert (reply.json["account"], reply.json["available"]) == ("a", 100)
        assert (client.balance("a"), client.balance("b")) == (100, 0)

    @pytest.mark.parametrize(("source", "target"), [("a", "dollars"), ("dollars", "a")])
    def test_another_currency(self, client: Client, source: str, target: str) -> None:
        """Both accounts must hold the currency of the transfer."""
        reply = client.move("t", source, target, 1)
        assert (reply.slug, reply.json["account"]) == ("currency-mismatch", "dollars")

    @pytest.mark.parametrize("status", ["frozen", "closed"])
    @pytest.mark.parametrize("account", ["a", "b"])
    def test_an_account_out_of_use(
        self, client: Client, owner: psycopg.Connection[Any], status: str, account: str
    ) -> None:
        """A frozen or closed account neither gives nor takes."""
        owner.execute("UPDATE account SET status = %s WHERE id = %s", [status, account])
        reply = client.move("t", "a", "b", 1)
        assert (reply.status, reply.slug, reply.json["account"]) == (422, f"account-{status}", account)

    @pytest.mark.promise(39)
    def test_a_balance_beyond_exact_numbers(self, client: Client) -> None:
        """Balances stay within plus and minus 2^53-1, on either side."""
        client.open("rich", "sink", min_balance=None)
        assert client.move("t1", "world", "rich", 2**53 - 101).status == 201
        assert client.move("t2", "world", "sink", 1).json["account"] == "world"
        assert client.move("t3", "sink", "rich", 100).status == 201
        assert client.move("t4", "sink", "rich", 1).json["account"] == "rich"

    @pytest.mark.promise(4)
    def test_is_remembered_for_ever(self, client: Client, nothing_changes: Unchanged) -> None:
        """A declined id stays declined with the same words, however much money comes in later."""
        first = client.move("t", "a", "b", 101)
        client.move("more", "world", "a", 1000)
        with nothing_changes():
            again = client.move("t", "a", "b", 101)
        assert {**again.json, "request_id": ""} == {**first.json, "request_id": ""}

    def test_takes_no_number(self, client: Client) -> None:
        """The journal counts posted transfers only."""
        client.move("t1", "a", "b", 101)
        assert client.move("t2", "a", "b", 1).json["number"] == 2


@pytest.mark.usefixtures("accounts")
class TestRefused:
    @pytest.mark.promise(5)
    @pytest.mark.parametrize(("source", "target"), [("a", "nobody"), ("nobody", "a")])
    def test_an_unknown_account_is_not_remembered(
        self, client: Client, nothing_changes: Unchanged, source: str, target: str
    ) -> None:
        """The caller may open the account and send the same again."""
        with nothing_changes():
            reply = client.move("t", source, target, 1)
        assert (reply.status, reply.slug, reply.json["account"]) == (422, "account-not-found", "nobody")
        client.open("nobody", min_balance=None)
        assert client.move("t", source, target, 1).status == 201

    @pytest.mark.parametrize("amount", [0, -5, 10.5, 2**53, True, "5", None, [], {}])
    def test_what_is_no_amount(self, client: Client, nothing_changes: Unchanged, amount: Any) -> None:
        """An amount is a whole number from 1 to 2^53-1."""
        with nothing_changes():
            reply = client.move("t", "a", "b", amount)
        assert (reply.slug, reply.json["errors"][0]["pointer"]) == ("invalid-request", "/amount")

    def test_an_account_to_itself(self, client: Client, nothing_changes: Unchanged) -> None:
        """Money moves between two accounts."""
        with nothing_changes():
            assert client.move("t", "a", "a", 1).json["errors"][0]["pointer"] == "/to"

    @pytest.mark.promise(17)
    def test_all_faults_are_named_at_once(self, client: Client, nothing_changes: Unchanged) -> None:
        """Whoever mends a request learns everything in one go."""
        with nothing_changes():
            reply = client.put("/v1/transfers/t", {"from": "-", "amount": "1", "metadata": [], "memo": "x"})
        pointers = {error["pointer"] for error in reply.json["errors"]}
        assert pointers == {"/from", "/to", "/amount", "/currency", "/metadata", "/memo"}

    @pytest.mark.parametrize("id", ["x" * 65, "caf%C3%A9", "-a", "a%20b", "a,b", "a%0A"])
    def test_what_is_no_id(self, client: Client, nothing_changes: Unchanged, id: str) -> None:
        """A new id has to follow the rule for ids."""
        with nothing_changes():
            reply = client.move(id, "a", "b", 1)
        assert (reply.status, reply.slug) == (400, "invalid-request")
