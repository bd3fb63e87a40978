"""What a posting reads to find how much of a transfer is reversed."""

import json
from typing import Any

import psycopg
import pytest

from service.ledger import transfers
from tests.support.client import Client, reverse_item

DECLINED = 1000  # reversals of one batch
FEW_PAGES = 10  # of the table and its index: it needs 3, and 20 if it also reads the declined reversals


@pytest.fixture(autouse=True)
def declined(client: Client) -> None:
    """The transfer `t` of 1, and many declined reversals of it."""
    client.open("a", "b", min_balance=None)
    client.move("t", "a", "b", 1)
    reply = client.batch(*[reverse_item(f"r{number}", "t", amount=2) for number in range(DECLINED)])
    assert {result["status"] for result in reply.json["results"]} == {422}


@pytest.mark.parametrize("posted", [0, 1])
def test_the_reversals_in_a_batch_of_one_transfer_read_its_sum_once(
    client: Client, owner: psycopg.Connection[Any], posted: int
) -> None:
    """The sum has one row, also if 1,000 commands need it, and no declined reversal is read for it."""
    if posted:
        assert client.reverse("posted", "t").status == 201
    text, parameters, _ = transfers.sum_reversals(["t"] * DECLINED)
    assert isinstance(text, str)
    owner.execute("SET enable_seqscan = off")  # as in a session of the service
    try:
        assert owner.execute(text, parameters).fetchall() == [("t", posted)]
        row = owner.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}".encode(), parameters).fetchone()
    finally:
        owner.execute("RESET enable_seqscan")
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    assert plan[0]["Plan"]["Shared Hit Blocks"] <= FEW_PAGES
