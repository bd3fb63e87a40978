"""The feed, the statements, their periods and the past balances agree with each other, and do not change later."""

import itertools
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
MIN_READS = 40
MIN_POSTED = 50
Batch = tuple[int, list[list[str]]]  # the microseconds that pass before it, and the accounts of its transfers
Read = Callable[[Client, str, datetime], Any]  # of an account at a time
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


def balance_at(client: Client, account: str, time: datetime) -> tuple[int, int]:
    """The balance of an account at a time, and the number of the last transfer up to it."""
    return past_balance(client, account, f"at={format_time(time)}")


def statement_before(client: Client, account: str, time: datetime) -> list[int]:
    """The numbers of the five newest entries of an account before a time, newest first."""
    page = client.get(f"/v1/accounts/{account}/entries?until={format_time(time)}&order=desc&limit=5").json
    return [entry["number"] for entry in page["entries"]]


def both(client: Client, account: str, time: datetime) -> Any:
    """What both of them return."""
    return balance_at(client, account, time), statement_before(client, account, time)


READS = [pytest.param(balance_at, id="balance"), pytest.param(statement_before, id="statement")]


def check_periods(client: Client, account: str, entries: list[dict[str, Any]], times: list[datetime]) -> None:
    """Compare the statement of the period between each two of these times with all entries of the account."""
    for start, end in itertools.pairwise(sorted(times)):
        period = f"/v1/accounts/{account}/entries?from={format_time(start)}&until={format_time(end)}"
        found = [row for page in client.pages(period, limit=500) for row in page["entries"]]
        assert found == [row for row in entries if format_time(start) <= row["created_at"] < format_time(end)]


def check_agreement(client: Client, times: list[datetime], limit: int = 3) -> None:
    """Compare every statement, and every balance at every number and at these times, with the feed."""
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
        check_periods(client, account, statement, times)
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


@pytest.mark.parametrize(
    ("original", "replacement"),
    [
        pytest.param("created_at < %(earliest)s", "created_at <= %(earliest)s", id="a period excludes its start"),
        pytest.param("created_at >= %(until)s", "created_at > %(until)s", id="a period includes its end"),
        pytest.param(
            "created_at DESC, number DESC", "created_at DESC, number", id="a period includes an earlier entry"
        ),
    ],
)
def test_a_build_with_a_wrong_period_does_not_agree(
    client: Client, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, original: str, replacement: str
) -> None:
    """Broken on purpose, in the statement of the entries."""
    broken.replace_sql(monkeypatch, transfers, "_OLDEST_ENTRIES", original, replacement)
    with pytest.raises(AssertionError):
        check_examples(client, owner, 40, fixed=True)


def post_until(stop: threading.Event, client: Client, name: str) -> None:
    """Post batches of random transfers until the event is set."""
    for number in attempts("the posting is stopped"):
        if stop.is_set():
            break
        pairs = [random.sample(NAMES[:3], 2) for _ in range(random.randint(1, 3))]
        client.batch(*(item(f"{name}-{number}-{n}", x, y, 1) for n, (x, y) in enumerate(pairs)))


def read_recent_times(client: Client, read: Read) -> dict[tuple[str, datetime], Any]:
    """What `read` returns at MIN_READS times at least that have just passed, while others post MIN_POSTED transfers."""
    found: dict[tuple[str, datetime], Any] = {}
    seen: list[int] = []
    for _ in attempts("enough reads and transfers"):
        time, account = datetime.now(UTC) - random.choice([1, 100, 3000]) * MICROSECOND, random.choice(NAMES)
        found[account, time] = read(client, account, time)
        page = client.get(f"/v1/transfers?after={len(seen)}&limit=500").json["transfers"]
        seen += [row["number"] for row in page]
        assert seen == list(range(1, len(seen) + 1))
        if len(found) >= MIN_READS and len(seen) >= MIN_POSTED:
            break
    return found


def read_while_others_post(client: Client, monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    """What is read while postings are slow must be the same when it is read again at the end."""
    slow = SQL("SELECT number_before, last_at FROM journal_taken WHERE pg_sleep(0.02)::text IS NOT NULL;")
    monkeypatch.setattr(posting, "_RETURN_NUMBERS", slow)
    stop = threading.Event()
    posters = [Call(partial(post_until, stop, client, name)) for name in ("p0", "p1", "p2", "p3")]
    try:
        found = read_recent_times(client, read)
    finally:
        stop.set()
        for poster in posters:
            poster.result()
    for (account, time), first in found.items():
        assert read(client, account, time) == first
    check_agreement(client, random.sample([time for _, time in found], 10), limit=100)


@pytest.mark.promise(38, 48)
def test_the_past_does_not_change_later(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes a time that has just passed, while transfers with an earlier time are still committing."""
    read_while_others_post(client, monkeypatch, both)


def break_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read without advancing the ledger's time, and so without waiting for a commit in progress."""

    def find_number(connection: Connection, at: datetime) -> int:
        found = connection.execute("SELECT coalesce(max(number), 0) FROM transfer WHERE created_at <= %s", [at])
        (number,) = found.fetchone() or (0,)
        return int(number)

    monkeypatch.setattr(ledger_clock, "advance_past", find_number)
    for name in ("_OLDEST_ENTRIES", "_NEWEST_ENTRIES"):
        broken.replace_sql(monkeypatch, transfers, name, "WHERE last_at >= %(until)s", "")


@pytest.mark.parametrize("read", READS)
def test_a_build_that_does_not_wait_for_commits_in_progress_changes_the_past(
    client: Client, monkeypatch: pytest.MonkeyPatch, read: Read
) -> None:
    """Broken on purpose: a transfer that has its time but is not committed is missing in the first response."""
    break_the_past(monkeypatch)
    with pytest.raises(AssertionError):
        read_while_others_post(client, monkeypatch, read)


def set_the_clock_back(client: Client, clock: Clock, read: Read) -> None:
    """After the past before a time was read, no transfer gets an earlier time."""
    clock.stop()
    time = clock.turn(seconds=1) - MICROSECOND
    first = read(client, "a", time)
    clock.turn(seconds=-0.5)
    assert client.move("late", "a", "b", 1).json["created_at"] >= format_time(time)
    clock.turn(seconds=2)
    assert read(client, "a", time) == first


@pytest.mark.parametrize("read", READS)
def test_a_clock_that_is_set_back_does_not_change_the_past(client: Client, clock: Clock, read: Read) -> None:
    """The read itself advances the ledger's time."""
    set_the_clock_back(client, clock, read)


@pytest.mark.parametrize("read", READS)
def test_a_build_that_does_not_advance_the_time_changes_the_past(
    client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch, read: Read
) -> None:
    """Broken on purpose: a later transfer gets a time before the time that was read."""
    break_the_past(monkeypatch)
    with pytest.raises(AssertionError):
        set_the_clock_back(client, clock, read)
