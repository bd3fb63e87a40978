"""An account that can pay more than it has received is opened with the scope admin only.

test_post_batches.py has the same for batches.
"""

import pytest

from tests.support.client import Client
from tests.support.ledger import Unchanged

NEEDS_ADMIN = [None, -1, -(2**53 - 1)]


@pytest.mark.promise(44)
@pytest.mark.parametrize("min_balance", NEEDS_ADMIN)
def test_a_floor_below_zero_needs_the_scope_admin(
    client: Client, nothing_changes: Unchanged, min_balance: int | None
) -> None:
    """Without it the opening is refused."""
    writer = client.with_scopes("read", "write")
    with nothing_changes():
        reply = writer.put("/v1/accounts/a", {"currency": "EUR", "min_balance": min_balance})
    assert (reply.status, reply.slug, reply.json["scope"]) == (403, "forbidden", "admin")


@pytest.mark.parametrize("min_balance", NEEDS_ADMIN)
def test_the_scope_admin_opens_it_together_with_write(client: Client, min_balance: int | None) -> None:
    """Scopes do not contain each other, so `write` is needed too."""
    body = {"currency": "EUR", "min_balance": min_balance}
    assert client.with_scopes("admin").put("/v1/accounts/a", body).json["scope"] == "write"
    assert client.with_scopes("write", "admin").put("/v1/accounts/a", body).status == 201


def test_a_floor_of_zero_needs_write_only(client: Client) -> None:
    """Zero is the default."""
    writer = client.with_scopes("write")
    assert writer.put("/v1/accounts/a", {"currency": "EUR"}).status == 201
    assert writer.put("/v1/accounts/b", {"currency": "EUR", "min_balance": 0}).status == 201
    assert writer.put("/v1/accounts/c", {"currency": "EUR", "max_balance": 10}).status == 201


def test_a_repeat_needs_the_scope_too(client: Client) -> None:
    """The scope depends on the request alone, so the response says nothing about the account to a caller without it."""
    body = {"currency": "EUR", "min_balance": None}
    assert client.put("/v1/accounts/a", body).status == 201
    assert client.with_scopes("read", "write").put("/v1/accounts/a", body).status == 403


def test_an_invalid_body_is_reported_first(client: Client) -> None:
    """The members are checked before the scope that they need."""
    reply = client.with_scopes("write").put("/v1/accounts/a", {"currency": "x", "min_balance": None})
    assert (reply.status, reply.pointers) == (400, ["/currency"])
