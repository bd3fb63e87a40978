"""The statement, the balance of the past and the feed tell one story, and never another one later."""

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st

from service.database import Connection
from service.ledger import journal, transfers
from service.wire import timestamp
from tests import broken
from tests.client import Client, item
from tests.conftest import Clock

NAMES = ("a", "b", "c", "idle")
MICROSECOND = timedelta(microseconds=1)
steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 10**6]),  # microseconds that pass before
        st.lists(st.permutations(NAMES[:3]).map(lambda three: three[:2]), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=12,
)


def follow(client: Client, path: str, name: str, **query: Any) -> list[dict[str, Any]]:
    """All rows of a list, page after page."""
    rows: list[dict[str, Any]] = []
    after = "0"
    while after:
        text = "&".join(f"{key}={value}" for key, value in {"after": after, **query}.items())
        page = client.get(f"{path}?{text}").json
        rows += page[name]
        after = page["next"]
    return rows


def past(client: Client, account: str, query: str) -> tuple[int, int]:
    """Balance and number of an account at a point."""
    answer = client.get(f"/v1/accounts/{account}/balance?{query}").json
    return answer["balance"], answer["number"]


def compare(client: Client, moments: list[datetime]) -> None:
    """Every balance at every number and moment is what feed and statement add up to."""
    feed = follow(client, "/v1/transfers", "transfers", limit=3)
    assert [row["number"] for row in feed] == list(range(1, len(feed) + 1))
    for account in NAMES:
        balances, entries = [0], []
        for row in feed:
            change = row["amount"] * ((row["to"] == account) - (row["from"] == account))
            balances.append(balances[-1] + change)
            if change:
                entries.append((row["number"], row["id"], change, balances[-1], row["created_at"]))
        keys = ("number", "transfer", "amount", "balance", "created_at")
        statement = follow(client, f"/v1/accounts/{account}/entries", "entries", limit=3)
        assert [tuple(entry[key] for key in keys) for entry in statement] == entries
        for number, balance in enumerate(balances):
            assert past(client, account, f"number={number}") == (balance, number)
        for moment in moments:
            number = sum(row["created_at"] <= timestamp(moment) for row in feed)
            assert past(client, account, f"at={timestamp(moment)}") == (balances[number], number)


def tell_a_story(client: Client, owner: psycopg.Connection[Any], story: Any, tag: str) -> None:
    """Post it while the clock stands and goes on, asking in between for the moment that was just over."""
    clock = Clock(owner)
    now = clock.stop(clock.now())
    moments: list[datetime] = []
    for number, (microseconds, pairs) in enumerate(story):
        now = clock.turn(microseconds=microseconds)
        if number % 3 == 2:
            past(client, "a", f"at={timestamp(now - MICROSECOND)}")
        client.batch(*(item(f"{tag}-{number}-{n}", x, y, n + 1) for n, (x, y) in enumerate(pairs)))
        moments += [now - MICROSECOND, now, now + MICROSECOND, now + timedelta(milliseconds=1)]
    clock.turn(seconds=1)
    compare(client, moments)


@pytest.fixture(autouse=True)
def opened(client: Client) -> None:
    client.open(*NAMES, min_balance=None)


def check_stories(client: Client, owner: psycopg.Connection[Any], **settings: Any) -> None:
    count = iter(range(10**6))

    @hypothesis.settings(deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck), **settings)
    @hypothesis.given(steps)
    def check(story: Any) -> None:
        owner.execute("DELETE FROM transfer")
        owner.execute("UPDATE account SET balance = 0")
        owner.execute("UPDATE journal SET last_number = 0")
        tell_a_story(client, owner, story, f"t{next(count)}")

    check()


def test_they_agree_at_every_point(client: Client, owner: psycopg.Connection[Any]) -> None:
    """At each number, and at, before, after and between the times of transfers, of which many are the same."""
    check_stories(client, owner, max_examples=12)


@pytest.mark.parametrize(
    ("function", "right", "wrong"),
    [
        (transfers.number_at, "created_at <= %(at)s", "created_at < %(at)s"),
        (transfers.number_at, "ORDER BY created_at DESC, number DESC", "ORDER BY created_at DESC, number"),
        (transfers.read_on, "number > %(after)s", "number >= %(after)s"),
    ],
)
def test_a_build_that_reads_otherwise_is_found(
    client: Client,
    owner: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., Any],
    right: str,
    wrong: str,
) -> None:
    """Broken on purpose: a moment that leaves out its own transfers, or some of them; a page that repeats a row."""
    broken.build(monkeypatch, function, right, wrong)
    with pytest.raises(AssertionError):
        check_stories(client, owner, max_examples=40, phases=[hypothesis.Phase.generate], derandomize=True)


class Posters:
    """Callers that post until they are stopped."""

    def __init__(self, client: Client) -> None:
        self.client, self.stopped = client, threading.Event()
        self.threads = [threading.Thread(target=self.post, args=[number]) for number in range(4)]

    def post(self, number: int) -> None:
        count = 0
        while not self.stopped.is_set():
            count += 1
            pairs = [random.sample(NAMES[:3], 2) for _ in range(random.randint(1, 5))]
            self.client.batch(*(item(f"p{number}-{count}-{n}", x, y, 1) for n, (x, y) in enumerate(pairs)))

    def __enter__(self) -> "Posters":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def ask_while_others_post(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers for moments just over, given while others post slowly, are given again at the end, and agree with all."""
    slow = "FROM journal_taken WHERE pg_sleep(0.005)::text IS NOT NULL;"
    monkeypatch.setattr(journal, "_WRITE_TRANSFERS", journal._WRITE_TRANSFERS.replace("FROM journal_taken;", slow))
    answers: dict[tuple[str, datetime], tuple[int, int]] = {}
    seen: list[int] = []
    with Posters(client):
        while len(answers) < 200:
            moment, account = datetime.now(UTC) - random.choice([1, 100, 3000]) * MICROSECOND, random.choice(NAMES)
            answers[account, moment] = past(client, account, f"at={timestamp(moment)}")
            page = client.get(f"/v1/transfers?after={len(seen)}&limit=500").json["transfers"]
            seen += [row["number"] for row in page]
            assert seen == list(range(1, len(seen) + 1))
    assert len(seen) > 50
    for (account, moment), answer in answers.items():
        assert past(client, account, f"at={timestamp(moment)}") == answer
    compare(client, random.sample([moment for _, moment in answers], 10))


def test_what_was_answered_stays_the_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a moment that is only just over, and for which transfers were on their way."""
    ask_while_others_post(client, monkeypatch)


def test_a_build_that_does_not_wait_for_what_is_on_its_way_is_found(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: what has its time and its COMMIT not yet is left out of the answer, and stands in the next."""

    def careless(connection: Connection, at: datetime) -> int:
        found = connection.execute("SELECT coalesce(max(number), 0) FROM transfer WHERE created_at <= %s", [at])
        (number,) = found.fetchone() or (0,)
        return int(number)

    monkeypatch.setattr(transfers, "number_at", careless)
    monkeypatch.setattr(transfers, "last_number", lambda connection: 10**9)
    with pytest.raises(AssertionError):
        ask_while_others_post(client, monkeypatch)


def turn_the_clock_back(client: Client, clock: Clock) -> None:
    """A moment that was answered for is over, even if the clock then says that it is to come."""
    clock.stop()
    moment = clock.turn(seconds=1) - MICROSECOND
    answer = past(client, "a", f"at={timestamp(moment)}")
    clock.turn(seconds=-0.5)
    assert client.move("late", "a", "b", 1).json["created_at"] > timestamp(moment)
    clock.turn(seconds=2)
    assert past(client, "a", f"at={timestamp(moment)}") == answer


def test_a_clock_that_is_set_back_changes_no_answer(client: Client, clock: Clock) -> None:
    """The question itself closes the moment."""
    turn_the_clock_back(client, clock)


def test_a_build_that_does_not_close_the_moment_is_found(
    client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: a transfer gets a time before the moment that was answered for."""
    broken.build(monkeypatch, transfers.number_at, "%(at)s + interval '1 microsecond'", "last_at")
    with pytest.raises(AssertionError):
        turn_the_clock_back(client, clock)
