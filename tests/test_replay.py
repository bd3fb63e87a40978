"""An id gives one outcome, for ever."""

from typing import Any

import pytest

from tests.client import Client, item
from tests.conftest import Unchanged


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    """`a` has 100 and one posted transfer, `t`, of 10 to `b`."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.move("fund", "world", "a", 100)
    client.move("t", "a", "b", 10, metadata={"k": "v"})


def test_the_same_body_gives_the_first_result(client: Client, nothing_changes: Unchanged) -> None:
    """A repeated transfer answers 200 with the balances of the first time, and moves nothing."""
    first = client.get("/v1/transfers/t").json
    client.move("later", "a", "b", 5)
    with nothing_changes():
        again = client.move("t", "a", "b", 10, metadata={"k": "v"})
    assert (again.status, again.json) == (200, first)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"from": "world"}, ["from"]),
        ({"to": "world"}, ["to"]),
        ({"amount": 11}, ["amount"]),
        ({"currency": "USD"}, ["currency"]),
        ({"metadata": {}}, ["metadata"]),
        ({"amount": 11, "metadata": {"k": "w"}}, ["amount", "metadata"]),
        ({"to": "nobody"}, ["to"]),
    ],
)
def test_another_body_is_a_conflict(
    client: Client, nothing_changes: Unchanged, change: dict[str, Any], differs: list[str]
) -> None:
    """The answer names what differs, and nothing moves."""
    body = {"from": "a", "to": "b", "amount": 10, "currency": "EUR", "metadata": {"k": "v"}} | change
    with nothing_changes():
        reply = client.put("/v1/transfers/t", body)
    assert (reply.status, reply.slug, reply.json["differs"]) == (409, "id-conflict", differs)


def test_a_declined_id_conflicts_too(client: Client) -> None:
    """A declined transfer cannot be made to fit by asking for less."""
    assert client.move("big", "a", "b", 1000).status == 422
    assert client.move("big", "a", "b", 1).json["differs"] == ["amount"]


def test_single_and_batch_share_their_ids(client: Client, nothing_changes: Unchanged) -> None:
    """What was posted alone is replayed in a batch."""
    with nothing_changes():
        (result,) = client.batch(item("t", "a", "b", 10, metadata={"k": "v"})).json["results"]
    assert (result["status"], result["transfer"]["id"]) == (200, "t")


def test_accounts_and_transfers_do_not_share_ids(client: Client) -> None:
    """An account's id says nothing about a transfer's."""
    assert client.move("a", "a", "b", 1).status == 201
