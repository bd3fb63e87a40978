"""PUT /v1/transfers/{id}: plain transfers."""

import pytest

from tests.support.client import Client, posted_transfer
from tests.support.ledger import Unchanged

pytestmark = pytest.mark.usefixtures("accounts")


def test_a_transfer_moves_money(client: Client) -> None:
    """The posted transfer has the next number and the balances of both accounts after it."""
    reply = client.move("pay_1", "a", "b", 30, metadata={"order": "A-19"})
    expected = posted_transfer("pay_1", "a", "b", 30, number=2, from_balance=70, to_balance=30)
    expected |= {"metadata": {"order": "A-19"}, "created_at": reply.json["created_at"]}
    assert (reply.status, reply.json) == (201, expected)
    assert (client.balance("a"), client.balance("b")) == (70, 30)


@pytest.mark.parametrize("amount", [b"100", b"100.0", b"1e2", b"1E+2"])
def test_an_integer_can_be_written_with_a_fraction_or_an_exponent(client: Client, amount: bytes) -> None:
    """JSON has only one type of number: 100.0 and 1e2 are the integer 100."""
    raw = b'{"from": "a", "to": "b", "amount": %b, "currency": "EUR"}' % amount
    assert client.put("/v1/transfers/t", raw=raw).json["amount"] == 100


def test_the_whole_available_amount_can_be_transferred(client: Client) -> None:
    """The balance may become equal to min_balance."""
    assert client.move("t", "a", "b", 100).status == 201


def test_an_account_without_a_lower_limit_can_be_overdrawn(client: Client) -> None:
    """This is the meaning of min_balance null."""
    assert client.move("t", "world", "b", 10**12).json["from_balance"] == -(10**12) - 100


def test_an_overdraft_is_declined(client: Client) -> None:
    """The problem has the account and its available amount, and no balance changes."""
    reply = client.move("t", "a", "b", 101)
    assert (reply.status, reply.slug) == (422, "insufficient-funds")
    assert (reply.json["account"], reply.json["available"]) == ("a", 100)
    assert (client.balance("a"), client.balance("b")) == (100, 0)


@pytest.mark.promise(39)
def test_a_balance_out_of_range_declines_the_transfer(client: Client) -> None:
    """The balance of each of the two accounts stays within ±(2^53-1)."""
    client.open("rich", "sink", min_balance=None)
    assert client.move("t1", "world", "rich", 2**53 - 101).status == 201
    assert client.move("t2", "world", "sink", 1).json["account"] == "world"
    assert client.move("t3", "sink", "rich", 100).status == 201
    assert client.move("t4", "sink", "rich", 1).json["account"] == "rich"


def test_a_declined_transfer_has_no_number(client: Client) -> None:
    """Only posted transfers are numbered."""
    client.move("t1", "a", "b", 101)
    assert client.move("t2", "a", "b").json["number"] == 2


@pytest.mark.promise(17)
def test_all_errors_of_a_body_are_listed(client: Client, nothing_changes: Unchanged) -> None:
    """One response has every missing, unknown and invalid member."""
    with nothing_changes():
        reply = client.put("/v1/transfers/t", {"from": "-", "amount": "1", "metadata": [], "memo": "x"})
    assert set(reply.pointers) == {"/from", "/to", "/amount", "/currency", "/metadata", "/memo"}
