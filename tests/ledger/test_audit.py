"""The audit, which runs after every test: it finds each kind of error, and it finds none in a correct ledger."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL

from service.http import fields
from service.ledger import audit
from tests.support.client import Client, item
from tests.support.corruptions import CORRUPTIONS, LEDGER, Findings


@pytest.fixture(autouse=True)
def ledger(client: Client, owner: psycopg.Connection[Any]) -> None:
    """Two currencies, seven posted transfers, four declined ones, holds of three statuses, and a changed account."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.open("bank", "purse", currency="USD", min_balance=None)
    client.batch(item("t1", "world", "a", 100), item("t2", "a", "b", 30), item("t3", "b", "a", 10))
    client.batch(item("t4", "bank", "purse", 5, "USD"), item("no", "b", "a", 1000))
    owner.execute(LEDGER)


@pytest.fixture
def editor(owner: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """The owner's connection in a transaction that is rolled back after the test."""
    owner.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    yield owner
    owner.execute("ROLLBACK")


def findings(connection: psycopg.Connection[Any], since: int = 0) -> Findings:
    return {(error.check, error.account, error.number) for error in audit.run(connection, since).errors}


def test_a_correct_ledger_is_clean(owner: psycopg.Connection[Any]) -> None:
    """The report has no errors, and it counts what was read."""
    assert audit.run(owner) == audit.Report(0, 7, accounts=6, transfers=7, holds=3, errors=[])


@pytest.mark.promise(12)
@pytest.mark.parametrize(("corruption", "expected"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_a_corruption_is_found(editor: psycopg.Connection[Any], corruption: str, expected: Findings) -> None:
    """The audit reports each manual change with its account and number, and nothing else."""
    editor.execute(SQL(corruption))
    assert findings(editor) == expected


def test_every_check_finds_a_corruption() -> None:
    """The corruptions above cover all checks."""
    assert {check for _, expected in CORRUPTIONS.values() for check, _, _ in expected} == audit.CHECKS.keys()


def test_only_the_first_errors_of_a_check_are_reported(editor: psycopg.Connection[Any]) -> None:
    """If every transfer is corrupt, the report is limited, and begins with the lowest number."""
    editor.execute("UPDATE transfer SET from_balance = from_balance + 1, to_balance = to_balance + 2 WHERE number > 0")
    numbers = [error.number for error in audit.run(editor).errors]
    assert numbers == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert len(numbers) == audit.MAX_FINDINGS


@pytest.mark.parametrize(
    ("corruption", "expected"),
    [
        (
            "UPDATE transfer SET amount = 14 WHERE id = 't7'",
            {("balances", "a", 7), ("balances", "b", 7), ("reversals", "b", 7)},
        ),
        ("UPDATE transfer SET to_balance = 59 WHERE id = 't5'", {("balances", "b", 5), ("balances", "b", 6)}),
        ("UPDATE transfer SET to_balance = 81 WHERE id = 't3'", {("balances", "a", 5)}),
        (
            "UPDATE account SET balance = -99 WHERE id = 'world'",
            {("balances", "world", None), ("currencies", None, None)},
        ),
        ("UPDATE transfer SET created_at = '2020-01-01Z' WHERE id = 't5'", {("times", None, 5)}),
        ("UPDATE transfer SET number = 8 WHERE id = 't7'", {("numbers", None, 8), ("journal", None, 7)}),
        ("UPDATE hold SET amount = 39 WHERE id = 'h2'", {("captures", "a", 5)}),
        ("UPDATE account SET held = 19 WHERE id = 'a'", {("held", "a", None)}),
        ("UPDATE account SET min_balance = -2 WHERE id = 'changed'", {("changes", "changed", None)}),
        ("UPDATE transfer SET reversed_total = 24 WHERE id = 't7'", {("reversals", "b", 7)}),
        ("UPDATE transfer SET reference = 'other' WHERE id = 't5'", {("references", "a", 5)}),
        ("UPDATE hold SET reference = 'A 19' WHERE id = 'h1'", {("references", "a", None)}),
    ],
)
def test_since_finds_later_corruptions(editor: psycopg.Connection[Any], corruption: str, expected: Findings) -> None:
    """It checks the entries after the number against the last one up to it; and all balances, holds and the journal."""
    editor.execute(SQL(corruption))
    assert findings(editor, since=4) == expected


@pytest.mark.parametrize(
    "corruption",
    [
        "UPDATE transfer SET amount = 31 WHERE id = 't2'",
        "UPDATE transfer SET to_balance = 31 WHERE id = 't2'",
        "UPDATE transfer SET currency = 'USD' WHERE id = 't3'",
        "UPDATE transfer SET created_at = '2020-01-01Z' WHERE id = 't3'",
        "UPDATE transfer SET reverses = 't4' WHERE id = 't3'",
        "UPDATE transfer SET reference = 'A 19', has_own_reference = true WHERE id = 't3'",
        "UPDATE transfer SET amount = 50 WHERE id = 'd1'",
    ],
)
def test_since_trusts_earlier_transfers(editor: psycopg.Connection[Any], corruption: str) -> None:
    """It does not find what only a full run finds, as docs/operations.md says."""
    editor.execute(SQL(corruption))
    assert not findings(editor, since=4)
    assert findings(editor)


def test_a_ledger_that_ends_before_since_is_an_error(owner: psycopg.Connection[Any]) -> None:
    """The database was restored from an earlier time, and later transfers are lost."""
    assert not findings(owner, since=7)
    assert findings(owner, since=8) == {("journal", None, 7)}


def test_a_reference_is_checked_as_an_id() -> None:
    """The pattern of the check is that of the requests."""
    assert f"'^{fields.ID.pattern}$'" in audit.CHECKS["references"]
