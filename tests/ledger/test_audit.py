"""The audit, which runs after every test: it finds each kind of error, and it finds none in a correct ledger."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL

from service.ledger import audit
from tests.support.client import Client, item

# h1 is open, h2 is captured in part by number 5, h3 is released. Numbers 6 and 7 reverse 25 of the 30 of t2.
HOLDS_AND_REVERSALS = """
    INSERT INTO hold (
        id, status, from_account, to_account, amount, currency, metadata, created_at, created_by, resolved_at
    )
    VALUES ('h1', 'open', 'a', 'b', 20, 'EUR', '{}', now(), 'x', NULL),
        ('h3', 'released', 'a', 'b', 9, 'EUR', '{}', now(), 'x', now());
    WITH captured AS (
        INSERT INTO hold (
            id, status, from_account, to_account, amount, currency, captured_by, metadata, created_at, created_by,
            resolved_at
        )
        VALUES ('h2', 'captured', 'a', 'b', 50, 'EUR', 't5', '{}', now(), 'x', now())
    )
    INSERT INTO transfer (
        id, number, status, from_account, to_account, amount, currency, from_balance, to_balance, captures, reverses,
        metadata, created_at, created_by
    )
    VALUES ('t5', 5, 'posted', 'a', 'b', 40, 'EUR', 40, 60, 'h2', NULL, '{}', clock_timestamp(), 'x'),
        ('t6', 6, 'posted', 'b', 'a', 10, 'EUR', 50, 50, NULL, 't2', '{}', clock_timestamp(), 'x'),
        ('t7', 7, 'posted', 'b', 'a', 15, 'EUR', 35, 65, NULL, 't2', '{}', clock_timestamp(), 'x');
    UPDATE account SET balance = 65, held = 20 WHERE id = 'a';
    UPDATE account SET balance = 35 WHERE id = 'b';
    UPDATE journal SET last_number = 7, last_at = clock_timestamp()
"""

Findings = set[tuple[str, str | None, int | None]]  # check, account, number


@pytest.fixture(autouse=True)
def ledger(client: Client, owner: psycopg.Connection[Any]) -> None:
    """Two currencies, seven posted transfers, a declined one, and holds of three statuses."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.open("bank", "purse", currency="USD", min_balance=None)
    client.batch(item("t1", "world", "a", 100), item("t2", "a", "b", 30), item("t3", "b", "a", 10))
    client.batch(item("t4", "bank", "purse", 5, "USD"), item("no", "b", "a", 1000))
    owner.execute(HOLDS_AND_REVERSALS)


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
    assert audit.run(owner) == audit.Report(0, 7, accounts=5, transfers=7, holds=3, errors=[])


CORRUPTIONS: dict[str, tuple[str, Findings]] = {
    "a balance": (
        "UPDATE account SET balance = balance + 1 WHERE id = 'b'",
        {("balances", "b", None), ("currencies", None, None)},
    ),
    "two balances with the same sum": (
        "UPDATE account SET balance = balance + CASE id WHEN 'a' THEN 1 ELSE -1 END WHERE id IN ('a', 'b')",
        {("balances", "a", None), ("balances", "b", None)},
    ),
    "a balance after an entry": (
        "UPDATE transfer SET to_balance = 31 WHERE id = 't2'",
        {("balances", "b", 2), ("balances", "b", 3)},
    ),
    "the first balance after an entry": (
        "UPDATE transfer SET from_balance = -99 WHERE id = 't1'",
        {("balances", "world", 1), ("balances", "world", None)},
    ),
    "an amount": ("UPDATE transfer SET amount = 31 WHERE id = 't2'", {("balances", "a", 2), ("balances", "b", 2)}),
    "the accounts swapped": (
        "UPDATE transfer SET from_account = to_account, to_account = from_account WHERE id = 't3'",
        {("balances", account, number) for account in "ab" for number in (3, 5)},
    ),
    "another account of a transfer": (
        "UPDATE transfer SET to_account = 'world' WHERE id = 't3'",
        {("balances", "world", 3), ("balances", "world", None), ("balances", "a", 5)},
    ),
    "a deleted transfer": (
        "DELETE FROM transfer WHERE id = 't3'",
        {("balances", "a", 5), ("balances", "b", 5), ("numbers", None, 4)},
    ),
    "the last transfer deleted": (
        "DELETE FROM transfer WHERE id = 't7'",
        {("balances", "a", None), ("balances", "b", None), ("journal", None, 7)},
    ),
    "an account deleted": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_from_account_fkey; DELETE FROM account WHERE id = 'world'",
        {("currencies", "world", 1), ("currencies", None, None)},
    ),
    "the currency of a transfer": (
        "UPDATE transfer SET currency = 'USD' WHERE id = 't3'",
        {("currencies", "a", 3), ("currencies", "b", 3)},
    ),
    "the currency of an account": (
        "UPDATE account SET currency = 'EUR' WHERE id = 'purse'",
        {("currencies", "purse", 4), ("currencies", None, None)},
    ),
    "the currency of an open hold": ("UPDATE hold SET currency = 'USD' WHERE id = 'h1'", {("currencies", "a", None)}),
    "an open hold of an unknown account": (
        "ALTER TABLE hold DROP CONSTRAINT hold_from_account_fkey;"
        " UPDATE hold SET from_account = 'unknown' WHERE id = 'h1'; UPDATE account SET held = 0 WHERE id = 'a'",
        {("currencies", "unknown", None)},
    ),
    "a negative amount": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_amount_range; UPDATE transfer SET from_account = to_account,"
        " to_account = from_account, from_balance = to_balance, to_balance = from_balance, amount = -amount"
        " WHERE id = 't3'",
        {("numbers", None, 3)},
    ),
    "the held amount": ("UPDATE account SET held = 19 WHERE id = 'a'", {("held", "a", None)}),
    "an open hold deleted": ("DELETE FROM hold WHERE id = 'h1'", {("held", "a", None)}),
    "an open hold released without its amount": (
        "UPDATE hold SET status = 'released', resolved_at = now() WHERE id = 'h1'",
        {("held", "a", None)},
    ),
    "an available amount below min_balance": (
        "ALTER TABLE account DROP CONSTRAINT account_floor; UPDATE account SET min_balance = 46 WHERE id = 'a'",
        {("floors", "a", None)},
    ),
    "a gap in the numbers": (
        "UPDATE transfer SET number = 9 WHERE id = 't7'; UPDATE journal SET last_number = 9",
        {("numbers", None, 9)},
    ),
    "a number that is used twice": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_number_key;"
        " UPDATE transfer SET number = 5 WHERE id = 't4'; UPDATE transfer SET created_at = '2020-01-01Z'",
        {("numbers", None, 5)},
    ),
    "a posted transfer without a number": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_posted_or_declined;"
        " UPDATE transfer SET status = 'posted' WHERE id = 'no'",
        {("numbers", None, None)},
    ),
    "a declined transfer with a number": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_posted_or_declined;"
        " UPDATE transfer SET status = 'declined' WHERE id = 't3'",
        {("numbers", None, 3)},
    ),
    "a time before the previous one": (
        "UPDATE transfer SET created_at = created_at - interval '1 day' WHERE id = 't6'",
        {("times", None, 6)},
    ),
    "the last number of the journal": ("UPDATE journal SET last_number = 8", {("journal", None, 8)}),
    "the last time of the journal": ("UPDATE journal SET last_at = last_at - interval '1 day'", {("journal", None, 7)}),
    "the journal deleted": ("DELETE FROM journal", {("journal", None, None)}),
    "a capture larger than its hold": ("UPDATE hold SET amount = 39 WHERE id = 'h2'", {("captures", "a", 5)}),
    "a capture from another account": (
        "UPDATE hold SET from_account = 'b', to_account = 'a' WHERE id = 'h2'",
        {("captures", "a", 5)},
    ),
    "a capture of a released hold": (
        "UPDATE hold SET status = 'released', captured_by = NULL WHERE id = 'h2'",
        {("captures", "a", 5)},
    ),
    "a captured hold deleted": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_captures_fkey; DELETE FROM hold WHERE id = 'h2'",
        {("captures", "a", 5)},
    ),
    "a hold captured by another transfer": (
        "UPDATE hold SET captured_by = 't1' WHERE id = 'h2'",
        {("captures", "a", 5)},
    ),
    "a hold captured without a capture": (
        "UPDATE transfer SET captures = NULL WHERE id = 't5'",
        {("captures", "a", None)},
    ),
    "a hold captured twice": (
        "DROP INDEX transfer_captures; UPDATE transfer SET captures = 'h2' WHERE id = 't2'",
        {("captures", "a", 2)},
    ),
    "reversals of more than the amount": (
        "UPDATE transfer SET amount = 24 WHERE id = 't2'",
        {("balances", "a", 2), ("balances", "b", 2), ("reversals", "b", 7)},
    ),
    "a reversal of a declined transfer": (
        "UPDATE transfer SET reverses = 'no' WHERE id = 't6'",
        {("reversals", "b", 6)},
    ),
    "a reversal between other accounts": (
        "UPDATE transfer SET reverses = 't1' WHERE id = 't6'",
        {("reversals", "b", 6)},
    ),
    "a reversal of a later transfer": ("UPDATE transfer SET reverses = 't7' WHERE id = 't2'", {("reversals", "a", 2)}),
}


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
        ("UPDATE transfer SET amount = 14 WHERE id = 't7'", {("balances", "a", 7), ("balances", "b", 7)}),
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
