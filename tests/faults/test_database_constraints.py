"""Builds whose rules are broken on purpose: the constraints of the database still prevent what must not happen."""

import re
from typing import Any

import psycopg
import pytest

from service.ledger import holds, rules, transfers
from tests.support import broken
from tests.support.client import Client, capture_item
from tests.support.ledger import Unchanged


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """`a` and `b` have no lower limit. `empty` has nothing and must not go below 0."""
    client.open("a", "b", min_balance=None)
    client.open("empty")


def allow_every_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "find_transfer_violation", lambda *_: None)


@pytest.mark.promise(7)
def test_a_transfer_cannot_take_an_account_below_its_floor(
    client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
) -> None:
    """Without the rules the CHECK refuses it."""
    allow_every_transfer(monkeypatch)
    with nothing_changes():
        reply = client.move("t", "empty", "b", 1)
    assert (reply.status, reply.slug) == (500, "internal-error")


def test_a_balance_cannot_leave_its_range(
    client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
) -> None:
    """A balance above 2^53-1 would not be exact in every JSON reader."""
    client.move("t1", "a", "b", 2**53 - 1)
    allow_every_transfer(monkeypatch)
    with nothing_changes():
        reply = client.move("t2", "a", "b", 1)
    assert (reply.status, reply.slug) == (500, "internal-error")


def test_an_id_cannot_be_posted_twice(
    client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
) -> None:
    """A build that does not read the ids in use is stopped by the primary key, also when it retries."""
    client.move("t", "a", "b", 5)
    select = transfers.select
    monkeypatch.setattr(transfers, "select", lambda ids: select([]))
    with nothing_changes():
        reply = client.move("t", "a", "b", 5)
    assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "not_applied")


def test_a_hold_cannot_be_placed_twice(
    client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
) -> None:
    """A build that does not read the ids in use is stopped by the primary key, also when it retries."""
    client.hold("h", "a", "b", 5)
    select = holds.select
    monkeypatch.setattr(holds, "select", lambda ids: select([]))
    with nothing_changes():
        reply = client.hold("h", "a", "b", 5)
    assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "not_applied")


@pytest.mark.promise(26)
def test_a_hold_cannot_reserve_more_than_the_floor_allows(
    client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
) -> None:
    """The CHECK of the floor counts reserved amounts."""
    monkeypatch.setattr(rules, "find_hold_violation", lambda *_: None)
    with nothing_changes():
        reply = client.hold("h", "empty", "b", 1)
    assert (reply.status, reply.slug) == (500, "internal-error")


@pytest.mark.promise(26)
def test_a_transfer_cannot_spend_what_a_hold_reserves(
    client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
) -> None:
    """The same CHECK refuses it."""
    client.move("fund", "a", "empty", 10)
    client.hold("h", "empty", "b", 6)
    allow_every_transfer(monkeypatch)
    with nothing_changes():
        reply = client.move("t", "empty", "b", 5)
    assert (reply.status, reply.slug) == (500, "internal-error")


@pytest.mark.promise(29)
def test_a_hold_cannot_be_captured_twice(
    client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
) -> None:
    """A build that treats a captured hold as open is stopped by the unique index."""
    client.hold("h", "a", "b", 5)
    client.hold("other", "a", "b", 5)
    client.capture("c1", "h")
    broken.build(monkeypatch, rules.find_transfer_violation, 'hold.status != "open"', "False")
    with nothing_changes():
        reply = client.capture("c2", "h")
    assert (reply.status, reply.slug) == (500, "internal-error")


def test_a_batch_cannot_capture_a_hold_twice(
    client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
) -> None:
    """The unique index stops the whole batch: no item is applied."""
    client.hold("h", "a", "b", 5)
    client.hold("other", "a", "b", 50)
    allow_every_transfer(monkeypatch)
    with nothing_changes():
        reply = client.batch(capture_item("c1", "h"), capture_item("c2", "h"))
    assert (reply.status, reply.slug) == (500, "internal-error")


def test_the_owner_cannot_raise_a_floor_above_the_available_amount(
    client: Client, owner: psycopg.Connection[Any], nothing_changes: Unchanged
) -> None:
    """The CHECK also refuses an UPDATE that does not come from the service."""
    client.hold("h", "a", "b", 5)
    with nothing_changes(), pytest.raises(psycopg.errors.CheckViolation, match="account_floor"):
        owner.execute("UPDATE account SET min_balance = -4 WHERE id = 'a'")


def count_violations(client: Client) -> float:
    """The value of the metric ledger_constraint_violations_total."""
    found = re.search(rb"^ledger_constraint_violations_total (\S+)$", client.get("/metrics").body, re.MULTILINE)
    assert found
    return float(found[1])


def test_a_violated_constraint_is_logged_and_counted(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a bug of the rules: the response is 500, the log names the constraint, and nothing is stored."""
    before = count_violations(client)
    with monkeypatch.context() as without_rules:
        allow_every_transfer(without_rules)
        assert client.move("t", "empty", "b", 1).status == 500
    (record,) = [record for record in caplog.records if vars(record).get("event") == "database.constraint_violated"]
    assert (record.levelname, vars(record)["constraint"]) == ("ERROR", "account_floor")
    assert count_violations(client) == before + 1
    assert client.get("/v1/transfers/t").status == 404
    assert client.move("t", "empty", "b", 1).slug == "insufficient-funds"


def test_without_the_journal_row_nothing_is_posted(
    client: Client, owner: psycopg.Connection[Any], nothing_changes: Unchanged
) -> None:
    """No posting can get a number: the response is 500."""
    owner.execute("DELETE FROM journal")
    try:
        with nothing_changes():
            assert client.move("t", "a", "b", 1).status == 500
    finally:
        owner.execute("INSERT INTO journal DEFAULT VALUES")
