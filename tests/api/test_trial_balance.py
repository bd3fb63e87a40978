"""GET /v1/trial-balance: the sums of all balances by currency."""

from datetime import timedelta
from typing import Any

import pytest

from service.contract import LIMITS
from service.logs import format_time
from tests.support.client import Client
from tests.support.ledger import Clock, Unchanged


def totals(currency: str, accounts: int, credit: int = 0, debit: int = 0, held: int = 0) -> dict[str, Any]:
    """One element of `currencies`."""
    sums = {"credit": credit, "debit": debit, "balance": credit - debit, "held": held}
    return {"currency": currency, "accounts": accounts, **{name: str(value) for name, value in sums.items()}}


def currencies(client: Client, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/v1/trial-balance{query}").json["currencies"]
    return found


def test_an_empty_ledger_has_no_currency(client: Client) -> None:
    """The number is 0, because no transfer is posted."""
    assert client.get("/v1/trial-balance").json == {"number": 0, "currencies": []}


@pytest.mark.promise(47)
def test_credit_and_debit_are_equal_in_each_currency(client: Client) -> None:
    """Accounts with balance 0 are counted. The currencies are sorted by their bytes."""
    client.open("world", "user:1", "user:2", "user:3", min_balance=None)
    client.open("mint", "miner", currency="A1B", min_balance=None)
    client.open("dollars", currency="USD")
    client.move("t1", "world", "user:1", 100)
    client.move("t2", "user:2", "user:1", 30)
    client.move("t3", "mint", "miner", 7, currency="A1B")
    client.hold("h", "user:1", "world", 4)
    sums = [totals("A1B", 2, 7, 7), totals("EUR", 4, 130, 130, held=4), totals("USD", 1)]
    assert client.get("/v1/trial-balance").json == {"number": 3, "currencies": sums}


def test_a_prefix_selects_the_accounts_whose_ids_begin_with_it(client: Client) -> None:
    """No character of a prefix is a wildcard. `number` is that of the whole ledger."""
    client.open("world", "user:1", "user:10", "users", min_balance=None)
    client.move("t1", "world", "user:1", 100)
    client.move("t2", "user:10", "users", 30)
    assert currencies(client, "?prefix=user:") == [totals("EUR", 2, 100, 30)]
    assert currencies(client, "?prefix=user%3A10") == [totals("EUR", 1, 0, 30)]
    assert client.get("/v1/trial-balance?prefix=x").json == {"number": 2, "currencies": []}


def test_the_holds_of_other_accounts_do_not_count(client: Client, clock: Clock) -> None:
    """With a prefix, `held` is that of the selected accounts, also if holds have expired elsewhere."""
    client.open("a", "b", min_balance=None)
    soon = format_time(clock.stop() + timedelta(seconds=1))
    for id, source, target, amount in (("h1", "a", "b", 5), ("h2", "b", "a", 70), ("h3", "b", "a", 600)):
        client.hold(id, source, target, amount, expires_at=soon if id == "h2" else None)
    clock.turn(seconds=1)
    assert currencies(client, "?prefix=a") == [totals("EUR", 1, held=5)]
    assert currencies(client, "?prefix=b") == [totals("EUR", 1, held=600)]
    assert currencies(client) == [totals("EUR", 2, held=605)]


@pytest.mark.promise(27)
def test_an_expired_hold_does_not_count_from_expires_at_on(client: Client, clock: Clock) -> None:
    """One microsecond earlier it counts. The read advances the ledger's time, so it cannot be captured any more."""
    client.open("a", "b", min_balance=None)
    due = clock.stop() + timedelta(seconds=1)
    client.hold("h", "a", "b", 30, expires_at=format_time(due))
    clock.stop(due - timedelta(microseconds=1))
    assert currencies(client) == [totals("EUR", 2, held=30)]
    clock.stop(due)
    assert currencies(client) == [totals("EUR", 2)]
    clock.stop(due - timedelta(seconds=1))
    assert client.capture("c", "h").slug == "hold-not-open"


def test_sums_can_be_larger_than_the_largest_balance(client: Client) -> None:
    """Sums are strings, so a reader of JSON that has no larger integers than 2^53-1 does not round them."""
    client.open("rich1", "rich2", "poor1", "poor2", min_balance=None)
    client.move("t1", "poor1", "rich1", LIMITS.amount_max)
    client.move("t2", "poor2", "rich2", LIMITS.amount_max)
    assert currencies(client) == [totals("EUR", 4, 18014398509481982, 18014398509481982)]
    assert currencies(client, "?prefix=poor") == [totals("EUR", 2, 0, 18014398509481982)]


def test_a_read_without_an_expired_hold_writes_nothing(client: Client, nothing_changes: Unchanged) -> None:
    """The ledger's time is advanced only if a hold is left out."""
    client.open("a", "b", min_balance=None)
    client.hold("h", expires_at="2126-12-01T00:00:00Z")
    with nothing_changes():
        assert currencies(client) == [totals("EUR", 2, held=1)]


def test_the_scope_read_is_required(client: Client) -> None:
    """A caller that may only write and change accounts does not see the sums."""
    assert client.with_scopes("write", "admin").get("/v1/trial-balance").json["scope"] == "read"
    assert client.with_scopes("read").get("/v1/trial-balance").status == 200


@pytest.mark.parametrize(
    "query", ["prefix=", "prefix=-", "prefix=a%25", "prefix=a&prefix=b", "limit=1", "currency=EUR"]
)
def test_an_invalid_query_is_refused(client: Client, query: str) -> None:
    """A prefix that cannot begin an id, and an unknown or repeated parameter, are errors."""
    assert client.get(f"/v1/trial-balance?{query}").slug == "invalid-query"
