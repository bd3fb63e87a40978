"""The audit, which ends every test: it finds what is wrong, so that its silence means something."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL

from service.ledger import audit
from tests.client import Client, item

# What is behind HTTP: h1 is open, h2 is captured in part by number 5, h3 is released, 6 and 7 give back 25 of 30.
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

Found = set[tuple[str, str | None, int | None]]


@pytest.fixture(autouse=True)
def books(client: Client, owner: psycopg.Connection[Any]) -> None:
    """Two currencies, seven transfers, a decline, and a hold of each kind."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.open("bank", "purse", currency="USD", min_balance=None)
    client.batch(item("t1", "world", "a", 100), item("t2", "a", "b", 30), item("t3", "b", "a", 10))
    client.batch(item("t4", "bank", "purse", 5, "USD"), item("no", "b", "a", 1000))
    owner.execute(HOLDS_AND_REVERSALS)


@pytest.fixture
def editor(owner: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """The owner in a transaction that is rolled back: whatever is done to the books, they are whole again after it."""
    owner.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    yield owner
    owner.execute("ROLLBACK")


def found(connection: psycopg.Connection[Any], since: int = 0) -> Found:
    return {(error.check, error.account, error.number) for error in audit.run(connection, since).errors}


def test_good_books_are_clean(owner: psycopg.Connection[Any]) -> None:
    """What the service wrote is in order, and the report counts what was read."""
    assert audit.run(owner) == audit.Report(0, 7, accounts=5, transfers=7, holds=3, errors=[])


CORRUPTIONS: dict[str, tuple[str, Found]] = {
    "a balance": (
        "UPDATE account SET balance = balance + 1 WHERE id = 'b'",
        {("balances", "b", None), ("currencies", None, None)},
    ),
    "two balances whose sum stays": (
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
    "accounts that are swapped": (
        "UPDATE transfer SET from_account = to_account, to_account = from_account WHERE id = 't3'",
        {("balances", account, number) for account in "ab" for number in (3, 5)},
    ),
    "an entry that is moved to another account": (
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
    "an open hold of nobody": (
        "ALTER TABLE hold DROP CONSTRAINT hold_from_account_fkey;"
        " UPDATE hold SET from_account = 'nobody' WHERE id = 'h1'; UPDATE account SET held = 0 WHERE id = 'a'",
        {("currencies", "nobody", None)},
    ),
    "an amount that goes the other way": (
        "ALTER TABLE transfer DROP CONSTRAINT transfer_amount_range; UPDATE transfer SET from_account = to_account,"
        " to_account = from_account, from_balance = to_balance, to_balance = from_balance, amount = -amount"
        " WHERE id = 't3'",
        {("numbers", None, 3)},
    ),
    "the sum that is held": ("UPDATE account SET held = 19 WHERE id = 'a'", {("held", "a", None)}),
    "an open hold deleted": ("DELETE FROM hold WHERE id = 'h1'", {("held", "a", None)}),
    "an open hold released, and its money not": (
        "UPDATE hold SET status = 'released', resolved_at = now() WHERE id = 'h1'",
        {("held", "a", None)},
    ),
    "a floor": (
        "ALTER TABLE account DROP CONSTRAINT account_floor; UPDATE account SET min_balance = 46 WHERE id = 'a'",
        {("floors", "a", None)},
    ),
    "a gap in the numbers": (
        "UPDATE transfer SET number = 9 WHERE id = 't7'; UPDATE journal SET last_number = 9",
        {("numbers", None, 9)},
    ),
    "a number that stands twice": (
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
    "a time that runs backwards": (
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
    "a capture of a hold that is released": (
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
    "more given back than there was": (
        "UPDATE transfer SET amount = 24 WHERE id = 't2'",
        {("balances", "a", 2), ("balances", "b", 2), ("reversals", "b", 7)},
    ),
    "a decline given back": ("UPDATE transfer SET reverses = 'no' WHERE id = 't6'", {("reversals", "b", 6)}),
    "a transfer of others given back": ("UPDATE transfer SET reverses = 't1' WHERE id = 't6'", {("reversals", "b", 6)}),
    "a later transfer given back": ("UPDATE transfer SET reverses = 't7' WHERE id = 't2'", {("reversals", "a", 2)}),
}


@pytest.mark.promise(12)
@pytest.mark.parametrize(("corruption", "expected"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_finds_a_corruption(editor: psycopg.Connection[Any], corruption: str, expected: Found) -> None:
    """Whatever is changed by hand behind the service shows, with its account and number, and nothing else does."""
    editor.execute(SQL(corruption))
    assert found(editor) == expected


def test_every_check_can_fail() -> None:
    """No check is without a corruption that only it, or it first of all, is there to find."""
    assert {check for _, expected in CORRUPTIONS.values() for check, _, _ in expected} == audit.CHECKS.keys()


def test_names_only_the_first_errors_of_a_check(editor: psycopg.Connection[Any]) -> None:
    """Books that are wrong everywhere do not fill the memory of whoever asks, and show where it began."""
    editor.execute("UPDATE transfer SET from_balance = from_balance + 1, to_balance = to_balance + 2 WHERE number > 0")
    numbers = [error.number for error in audit.run(editor).errors]
    assert numbers == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert len(numbers) == audit.MOST_ERRORS


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
def test_since_finds_what_is_after(editor: psycopg.Connection[Any], corruption: str, expected: Found) -> None:
    """Chains go on from each account's last entry up to the number; balances, holds and journal are read whole."""
    editor.execute(SQL(corruption))
    assert found(editor, since=4) == expected


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
def test_since_believes_what_is_before(editor: psycopg.Connection[Any], corruption: str) -> None:
    """What operations.md says a quick run does not prove, it does not find; the whole run does."""
    editor.execute(SQL(corruption))
    assert not found(editor, since=4)
    assert found(editor)


def test_books_that_end_before_the_number_are_wrong(owner: psycopg.Connection[Any]) -> None:
    """A database that was restored from before the number has lost what was proven."""
    assert not found(owner, since=7)
    assert found(owner, since=8) == {("journal", None, 7)}
