"""Fixtures of the API tests."""

import pytest

from tests.support.client import Client


@pytest.fixture
def accounts(client: Client) -> None:
    """`world` has no lower limit, `a` has 100, `b` has 0. The only transfer is `fund`, with the number 1."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.move("fund", "world", "a", 100)


@pytest.fixture
def holds(client: Client, accounts: None) -> None:
    """The holds `h` and `g` reserve 30 and 20 of the 100 of `a` for `b`."""
    client.hold("h", "a", "b", 30)
    client.hold("g", "a", "b", 20)


@pytest.fixture
def dollars(client: Client) -> None:
    """`dollars` is an account in USD without a lower limit."""
    client.open("dollars", currency="USD", min_balance=None)


@pytest.fixture
def anonymous(client: Client) -> Client:
    """A client without a token."""
    return Client(client.application, token=None)
