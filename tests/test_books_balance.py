"""The check that ends every test: it finds what is wrong, so that its silence means something."""

from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL

from tests import books
from tests.client import Client, item


@pytest.fixture(autouse=True)
def some_books(client: Client) -> None:
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.batch(item("t1", "world", "a", 100), item("t2", "a", "b", 30), item("t3", "b", "a", 10))


def test_good_books_have_no_faults(owner: psycopg.Connection[Any]) -> None:
    """What the service wrote is in order."""
    assert books.faults(owner) == []


@pytest.mark.parametrize(
    ("corruption", "mending"),
    [
        (
            "UPDATE account SET balance = balance + 1 WHERE id = 'a'",
            "UPDATE account SET balance = balance - 1 WHERE id = 'a'",
        ),
        ("UPDATE transfer SET amount = 31 WHERE id = 't2'", "UPDATE transfer SET amount = 30 WHERE id = 't2'"),
        ("UPDATE transfer SET to_balance = 31 WHERE id = 't2'", "UPDATE transfer SET to_balance = 30 WHERE id = 't2'"),
        ("UPDATE transfer SET number = 9 WHERE id = 't3'", "UPDATE transfer SET number = 3 WHERE id = 't3'"),
        ("UPDATE journal SET last_number = 4", "UPDATE journal SET last_number = 3"),
        (
            "UPDATE transfer SET created_at = created_at + interval '1 day' WHERE id = 't1'",
            "UPDATE transfer SET created_at = created_at - interval '1 day' WHERE id = 't1'",
        ),
        ("UPDATE account SET currency = 'USD' WHERE id = 'b'", "UPDATE account SET currency = 'EUR' WHERE id = 'b'"),
    ],
)
def test_finds_a_corruption(owner: psycopg.Connection[Any], corruption: str, mending: str) -> None:
    """Whatever is changed by hand behind the service shows."""
    owner.execute(SQL(corruption))
    assert books.faults(owner)
    owner.execute(SQL(mending))
    assert not books.faults(owner)
