"""The feed, the statements and the past balances agree with each other, and do not change later."""

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st
from psycopg.sql import SQL

from service.ledger import clock as ledger_clock
from service.ledger import posting, transfers
from service.logs import format_time
from service.session import Connection
from tests.support import broken
from tests.support.client import Client, item
from tests.support.ledger import Clock
from tests.support.threads import Call
from tests.support.waiting import attempts

NAMES = ("a", "b", "c", "idle")
MICROSECOND = timedelta(microseconds=1)
Batch = tuple[int, list[list[str]]]  # the microseconds that pass before it, and the accounts of its transfers
BATCHES = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 10**6]),
        st.lists(st.permutations(NAMES[:3]).map(lambda three: three[:2]), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """None of them has a lower limit; `idle` gets no transfer."""
    client.open(*NAMES, min_balance=None)


def all_pages(client: Client, path: str, name: str, limit: int) -> list[dict[str, Any]]:
    """The rows of all pages of a list."""
    rows: list[dict[str, Any]] = []
    after = "0"
    while after:
        page = client.get(f"{path}?after={after}&limit={limit}").json
        rows += page[name]
        after = page["next"]
    return rows


def past_balance(client: Client, account: str, query: str) -> tuple[int, int]:
    """The balance of an account after a number or at a time, and the number."""
    body = client.get(f"/v1/accounts/{account}/balance?{query}").json
    return body["balance"], body["number"]


def check_agreement(client: Client, times: list[datetime], limit: int = 3) -> None:
    """Compare every statement, every balance at every number, and every balance at these times with the feed."""
    feed = all_pages(client, "/v1/transfers", "transfers", limit)
    assert [row["number"] for row in feed] == list(range(1, len(feed) + 1))
    for account in NAMES:
        balances, entries = [0], []
        for row in feed:
            change = row["amount"] * ((row["to"] == account) - (row["from"] == account))
            balances.append(balances[-1] + change)
            if change:
                entries.append((row["number"], row["id"], change, balances[-1], row["created_at"]))
        members = ("number", "transfer", "amount", "balance", "created_at")
        statement = all_pages(client, f"/v1/accounts/{account}/entries", "entries", limit)
        assert [tuple(entry[member] for member in members) for entry in statement] == entries
        for number, balance in enumerate(balances):
            assert past_balance(client, account, f"number={number}") == (balance, number)
        for time in times:
            number = sum(row["created_at"] <= format_time(time) for row in feed)
            assert past_balance(client, account, f"at={format_time(time)}") == (balances[number], number)


def post_and_check(client: Client, clock: Clock, batches: list[Batch], tag: str) -> None:
    """Post the batches at chosen times, read a time that has just passed before every third, and compare at the end."""
    clock.stop(clock.now())
    times: list[datetime] = []
    for index, (microseconds, pairs) in enumerate(batches):
        now = clock.turn(microseconds=microseconds)
        if index % 3 == 2:
            past_balance(client, "a", f"at={format_time(now - MICROSECOND)}")
        client.batch(*(item(f"{tag}-{index}-{n}", x, y, n + 1) for n, (x, y) in enumerate(pairs)))
        times += [now - MICROSECOND, now, now + MICROSECOND, now + timedelta(milliseconds=1)]
    clock.turn(seconds=1)
    check_agreement(client, times)


def check_examples(client: Client, owner: psycopg.Connection[Any], count: int, *, fixed: bool = False) -> None:
    """Run `post_and_check` on that many random lists of batches; with `fixed`, the same lists each time."""
    tags = (f"t{number}" for number in range(10**6))

    @hypothesis.settings(
        max_examples=count,
        derandomize=fixed,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],  # shrinking takes minutes
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(BATCHES)
    def check(batches: list[Batch]) -> None:
        owner.execute("DELETE FROM transfer")
        owner.execute("UPDATE account SET balance = 0")
        owner.execute("UPDATE journal SET last_number = 0")
        post_and_check(client, Clock(owner), batches, next(tags))

    check()


def test_feed_statements_and_past_balances_agree(client: Client, owner: psycopg.Connection[Any]) -> None:
    """At each number, and before, at, between and after the times of transfers, many of which are equal."""
    check_examples(client, owner, 12)


@pytest.mark.parametrize(
    ("function", "original", "replacement"),
    [
        pytest.param(
            ledger_clock.final_number,
            "created_at <= %(at)s",
            "created_at < %(at)s",
            id="a time without its own transfers",
        ),
        pytest.param(
            ledger_clock.final_number,
            "ORDER BY created_at DESC, number DESC",
            "ORDER BY created_at DESC, number",
            id="a time excludes some of its own transfers",
        ),
        pytest.param(transfers.list_after, '"after": after', '"after": after - 1', id="a page repeats a row"),
    ],
)
def test_a_build_with_a_wrong_read_does_not_agree(
    client: Client,
    owner: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., Any],
    original: str,
    replacement: str,
) -> None:
    """Broken on purpose, one statement each."""
    broken.build(monkeypatch, function, original, replacement)
    with pytest.raises(AssertionError):
        check_examples(client, owner, 40, fixed=True)


def post_until(stop: threading.Event, client: Client, name: str) -> None:
    """Post batches of random transfers until the event is set."""
    for number in attempts("the posting is stopped"):
        if stop.is_set():
            break
        pairs = [random.sample(NAMES[:3], 2) for _ in range(random.randint(1, 3))]
        client.batch(*(item(f"{name}-{number}-{n}", x, y, 1) for n, (x, y) in enumerate(pairs)))


def read_recent_times(client: Client) -> dict[tuple[str, datetime], tuple[int, int]]:
    """At least 200 balances at times that have just passed, read while the feed grows past number 50."""
    balances: dict[tuple[str, datetime], tuple[int, int]] = {}
    seen: list[int] = []
    for _ in attempts("200 balances and 50 transfers"):
        time, account = datetime.now(UTC) - random.choice([1, 100, 3000]) * MICROSECOND, random.choice(NAMES)
        balances[account, time] = past_balance(client, account, f"at={format_time(time)}")
        page = client.get(f"/v1/transfers?after={len(seen)}&limit=500").json["transfers"]
        seen += [row["number"] for row in page]
        assert seen == list(range(1, len(seen) + 1))
        if len(balances) >= 200 and len(seen) > 50:
            break
    return balances


def read_while_others_post(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Balances that are read while postings are slow must be the same when they are read again at the end."""
    slow = SQL("SELECT number_before, last_at FROM journal_taken WHERE pg_sleep(0.005)::text IS NOT NULL;")
    monkeypatch.setattr(posting, "_RETURN_NUMBERS", slow)
    stop = threading.Event()
    posters = [Call(partial(post_until, stop, client, name)) for name in ("p0", "p1", "p2", "p3")]
    try:
        balances = read_recent_times(client)
    finally:
        stop.set()
        for poster in posters:
            poster.result()
    for (account, time), balance in balances.items():
        assert past_balance(client, account, f"at={format_time(time)}") == balance
    check_agreement(client, random.sample([time for _, time in balances], 10), limit=100)


def test_a_past_balance_does_not_change_later(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes a time that has just passed, while transfers with an earlier time are still committing."""
    read_while_others_post(client, monkeypatch)


def break_advance_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the number without advancing the ledger's time, and so without waiting for a commit in progress."""

    def find_number(connection: Connection, at: datetime) -> int:
        found = connection.execute("SELECT coalesce(max(number), 0) FROM transfer WHERE created_at <= %s", [at])
        (number,) = found.fetchone() or (0,)
        return int(number)

    monkeypatch.setattr(ledger_clock, "advance_past", find_number)


def test_a_build_that_does_not_wait_for_commits_in_progress_changes_past_balances(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: a transfer that has its time but is not committed is missing in the first response."""
    break_advance_past(monkeypatch)
    with pytest.raises(AssertionError):
        read_while_others_post(client, monkeypatch)


def set_the_clock_back(client: Client, clock: Clock) -> None:
    """After a balance at a time was read, no transfer gets that time or an earlier one."""
    clock.stop()
    time = clock.turn(seconds=1) - MICROSECOND
    balance = past_balance(client, "a", f"at={format_time(time)}")
    clock.turn(seconds=-0.5)
    assert client.move("late", "a", "b", 1).json["created_at"] > format_time(time)
    clock.turn(seconds=2)
    assert past_balance(client, "a", f"at={format_time(time)}") == balance


def test_a_clock_that_is_set_back_does_not_change_past_balances(client: Client, clock: Clock) -> None:
    """The read itself advances the ledger's time."""
    set_the_clock_back(client, clock)


def test_a_build_that_does_not_advance_the_time_changes_past_balances(
    client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: a later transfer gets a time before the time that was read."""
    break_advance_past(monkeypatch)
    with pytest.raises(AssertionError):
        set_the_clock_back(client, clock)
