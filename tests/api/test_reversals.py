"""PUT /v1/transfers/{id} with `reverses`: a transfer that reverses another one."""

import pytest

from tests.support.client import Client, posted_transfer
from tests.support.ledger import Unchanged


@pytest.fixture(autouse=True)
def transfer(client: Client, accounts: None) -> None:
    """The transfer `t` moved 30 of the 100 of `a` to `b`."""
    client.move("t", "a", "b", 30)


def test_a_reversal_moves_the_amount_back(client: Client) -> None:
    """The accounts are those of the transfer, exchanged; without an amount, the whole transfer is reversed."""
    reply = client.reverse("r", "t", metadata={"why": "broken"})
    expected = posted_transfer("r", "b", "a", 30, number=3, from_balance=0, to_balance=100, reverses="t")
    expected |= {"metadata": {"why": "broken"}, "created_at": reply.json["created_at"]}
    assert (reply.status, reply.json) == (201, expected)
    assert (client.balance("a"), client.balance("b")) == (100, 0)


def test_a_reversal_does_not_change_the_original_transfer(client: Client) -> None:
    """A read of the original transfer returns the same as before."""
    before = client.get("/v1/transfers/t").json
    client.reverse("r", "t")
    assert client.get("/v1/transfers/t").json == before


@pytest.mark.promise(31)
def test_a_transfer_can_be_reversed_in_parts(client: Client) -> None:
    """A reversal without an amount takes what the earlier reversals left."""
    assert client.reverse("r1", "t", amount=10).status == 201
    assert client.reverse("r2", "t", amount=1).status == 201
    assert client.reverse("r3", "t").json["amount"] == 19
    assert (client.balance("a"), client.balance("b")) == (100, 0)


def test_a_reversal_can_be_reversed(client: Client) -> None:
    """The original transfer cannot be reversed a second time by this; the reversal of its reversal can."""
    client.reverse("r", "t")
    assert client.reverse("rr", "r").json["reverses"] == "r"
    assert (client.balance("a"), client.balance("b")) == (70, 30)
    assert client.reverse("again", "t").slug == "reversal-exceeds-transfer"
    assert client.reverse("rrr", "rr").status == 201


def test_a_capture_can_be_reversed(client: Client) -> None:
    """The captured amount is moved back, and the hold stays captured."""
    client.hold("h", "a", "b", 20)
    client.capture("c", "h", amount=15)
    assert client.reverse("r", "c").json["amount"] == 15
    assert client.get("/v1/holds/h").json["status"] == "captured"
    assert client.amounts("a") == (70, 0, 70)


@pytest.mark.promise(31)
@pytest.mark.parametrize(("reversed_before", "amount", "left"), [(0, 31, 30), (10, 21, 20), (30, 1, 0)])
def test_a_reversal_of_more_than_is_left_is_declined(
    client: Client, reversed_before: int, amount: int, left: int
) -> None:
    """The sum of the reversals cannot exceed the transfer; the problem has the amount that is left."""
    client.move("more", "world", "b", 1000)
    if reversed_before:
        client.reverse("r1", "t", amount=reversed_before)
    reply = client.reverse("r2", "t", amount=amount)
    assert (reply.status, reply.slug, reply.json["available"]) == (422, "reversal-exceeds-transfer", left)


def test_a_reversal_without_an_amount_is_declined_if_nothing_is_left(client: Client) -> None:
    """The stored decline has the amount of the original transfer."""
    client.reverse("r1", "t")
    reply = client.reverse("r2", "t")
    assert (reply.slug, reply.json["available"]) == ("reversal-exceeds-transfer", 0)
    assert client.get("/v1/transfers/r2").json["amount"] == 30


@pytest.mark.promise(31)
@pytest.mark.parametrize("members", [{}, {"amount": 1}], ids=["all", "a part"])
def test_a_reversal_of_a_declined_transfer_is_declined(client: Client, members: dict[str, int]) -> None:
    """A declined transfer moved nothing, so nothing is left to reverse."""
    client.move("big", "a", "b", 1000)
    reply = client.reverse("r", "big", **members)
    assert (reply.slug, reply.json["available"]) == ("reversal-exceeds-transfer", 0)


def test_a_declined_reversal_does_not_count(client: Client) -> None:
    """Only posted reversals reduce what is left to reverse."""
    client.reverse("r1", "t", amount=31)
    assert client.reverse("r2", "t", amount=30).status == 201


def test_a_reversal_below_the_min_balance_is_declined(client: Client) -> None:
    """The min_balance of the account that pays the reversal applies."""
    client.move("spent", "b", "world", 20)
    reply = client.reverse("r", "t")
    assert (reply.slug, reply.json["account"], reply.json["available"]) == ("insufficient-funds", "b", 10)
    assert client.reverse("part", "t", amount=10).status == 201


def test_a_reversal_cannot_use_a_reserved_amount(client: Client) -> None:
    """The amount of an open hold is not available for a reversal."""
    client.hold("h", "b", "a", 25)
    assert client.reverse("r", "t").json["available"] == 5


def test_a_reversal_to_a_closed_account_is_declined(client: Client) -> None:
    """The problem names the account."""
    client.move("spent", "a", "world", 70)
    client.change("a", status="closed")
    reply = client.reverse("r", "t")
    assert (reply.slug, reply.json["account"]) == ("account-closed", "a")


def test_the_decline_of_a_reversal_is_permanent(client: Client, nothing_changes: Unchanged) -> None:
    """A repeat returns the same problem, even if the balance is high enough by then."""
    client.move("spent", "b", "world", 20)
    first = client.reverse("r", "t")
    client.move("more", "world", "b", 1000)
    with nothing_changes():
        again = client.reverse("r", "t")
    assert again.without_request_id == first.without_request_id


def test_a_new_transfer_cannot_reverse_itself(client: Client, nothing_changes: Unchanged) -> None:
    """Its own id does not exist yet."""
    with nothing_changes():
        assert client.reverse("r", "r").slug == "transfer-not-found"
