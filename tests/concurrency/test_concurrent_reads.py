"""Reads of many rows while other threads write: what they show at each moment is one state of the ledger.

Each check is a function, so that it can also run on builds that are broken on purpose and must fail there.
"""

import itertools
import random
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from service.ledger import holds, transfers, trial_balance
from service.ledger.types import TrialBalance
from service.logs import format_time
from service.session import Connection
from tests.support import broken
from tests.support.client import Client
from tests.support.threads import THREADS, Call
from tests.support.waiting import attempts, wait_until

HOLDS = 48  # the amount of hold n is 2^n, so that `held` shows which holds it includes, and is at most 2^53-1
SHORT_SECONDS = 0.02  # until a hold expires: about as long as a request takes when eight threads write
TRANSFERS = 40  # of each thread


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """None of them has a lower limit."""
    client.open("world", "a", "b", "c", min_balance=None)
    client.open("mint", "miner", currency="BTC", min_balance=None)


def place_and_end(client: Client, thread: int) -> None:
    """Place a share of the holds, and capture, release or leave each of them. Some expire before or after that."""
    for n in range(thread, HOLDS, THREADS):
        soon = datetime.now(UTC) + timedelta(seconds=random.uniform(SHORT_SECONDS / 2, SHORT_SECONDS * 5))
        expires_at = random.choice([None, format_time(soon)])
        client.hold(f"h{n}", "a", "b", 2**n, expires_at=expires_at)
        end = random.choice(["capture", "release", "leave"])
        if end == "capture":
            client.capture(f"c{n}", f"h{n}", amount=1)
        elif end == "release":
            client.release(f"h{n}")


def listed(client: Client) -> int:
    """The sum of the open holds from `a`."""
    return sum(hold["amount"] for hold in client.get("/v1/accounts/a/holds").json["holds"])


def held(client: Client) -> int:
    return int(client.get("/v1/accounts/a").json["held"])


def totalled(client: Client) -> int:
    """The held amount of the trial balance of `a`."""
    return int(client.get("/v1/trial-balance?prefix=a").json["currencies"][0]["held"])


def read_while_holds_change(client: Client) -> None:
    """The list, the account and the trial balance, read in turn, show each hold from one read on until another.

    If two of them did not agree on a hold, it would appear or disappear more often.
    """
    writers = [Call(partial(place_and_end, client, thread), name=f"thread-{thread}") for thread in range(THREADS)]
    sums = [0]
    for _ in attempts("all holds are placed and ended"):
        is_last = not any(writer.is_alive() for writer in writers)
        sums += [read(client) for read in (listed, held, totalled)]
        if is_last:
            break
    for writer in writers:
        writer.result()
    for n in range(HOLDS):
        shown = [bool(total & 2**n) for total in sums]
        changes = sum(one != other for one, other in itertools.pairwise(shown))
        assert changes <= 2, f"h{n} appeared and disappeared {changes} times"
    check_an_expired_hold_at_the_end(client)


def check_an_expired_hold_at_the_end(client: Client) -> None:
    """When the account has an expired hold whose row is still open, all three leave it out."""
    for n in attempts("a hold is placed before it expires"):
        soon = format_time(datetime.now(UTC) + timedelta(seconds=(n + 1) * SHORT_SECONDS))
        if client.hold(f"last{n}", "a", "b", 2**HOLDS, expires_at=soon).status == 201:
            break
    wait_until(lambda: held(client) < 2**HOLDS, "the hold has expired")
    lasting = [client.get(f"/v1/holds/h{n}").json for n in range(HOLDS)]
    expected = sum(hold["amount"] for hold in lasting if hold["status"] == "open" and not hold["expires_at"])
    wait_until(lambda: held(client) == expected, "all holds that can expire have expired")
    assert (listed(client), totalled(client)) == (expected, expected)


@pytest.mark.promise(46)
def test_the_list_of_holds_and_the_trial_balance_agree_with_held(client: Client) -> None:
    """While holds of the account are placed, captured and released, and while they expire."""
    read_while_holds_change(client)


@pytest.mark.parametrize(
    ("module", "name", "original", "replacement"),
    [
        pytest.param(holds, "_OPEN", "(expires_at IS NULL OR expires_at > now)", "true", id="list"),
        pytest.param(trial_balance, "_TOTALS", "held - coalesce(expired, 0)", "held", id="trial balance"),
    ],
)
def test_a_build_that_includes_expired_holds_does_not_agree(
    client: Client, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, original: str, replacement: str
) -> None:
    """Broken on purpose, one of the reads."""
    broken.replace_sql(monkeypatch, module, name, original, replacement)
    with pytest.raises(AssertionError):
        read_while_holds_change(client)


def post(client: Client, thread: int) -> None:
    """Transfers of 1 in two currencies, all of them from an account without other income."""
    for n in range(TRANSFERS):
        if n % 2:
            assert client.move(f"e{thread}-{n}", "world", random.choice("abc"), 1).status == 201
        else:
            assert client.move(f"b{thread}-{n}", "mint", "miner", 1, currency="BTC").status == 201


def read_while_transfers_are_posted(client: Client) -> None:
    """In each trial balance, the balance of each currency is 0, and the credits are those of `number` transfers."""
    writers = [Call(partial(post, client, thread), name=f"thread-{thread}") for thread in range(THREADS)]
    numbers = [0]
    for _ in attempts("all transfers are posted"):
        is_last = not any(writer.is_alive() for writer in writers)
        found = client.get("/v1/trial-balance").json
        assert [(total["currency"], total["balance"]) for total in found["currencies"]] == [("BTC", "0"), ("EUR", "0")]
        assert sum(int(total["credit"]) for total in found["currencies"]) == found["number"]
        numbers.append(found["number"])
        if is_last:
            break
    for writer in writers:
        writer.result()
    assert numbers == sorted(numbers)
    assert numbers[-1] == THREADS * TRANSFERS


@pytest.mark.promise(47)
def test_a_trial_balance_is_of_one_moment(client: Client) -> None:
    """While transfers are posted, it includes all transfers up to its number and no later one."""
    read_while_transfers_are_posted(client)


def test_a_build_that_reads_the_number_in_another_snapshot_does_not_agree(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: transfers that are posted between the two reads are missing in the sums."""
    read = trial_balance.read_and_advance_time

    def read_twice(connection: Connection, prefix: str) -> TrialBalance:
        found = read(connection, prefix)
        return TrialBalance(transfers.last_number(connection), found.currencies)

    monkeypatch.setattr(trial_balance, "read_and_advance_time", read_twice)
    with pytest.raises(AssertionError):
        read_while_transfers_are_posted(client)
