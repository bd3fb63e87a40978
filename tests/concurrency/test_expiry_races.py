"""A hold expires while a posting or a reader waits: no two responses contradict each other."""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from service import config
from service.ledger import clock as ledger_clock
from service.ledger import posting, rules
from service.logs import format_time
from service.server import build_application
from tests.support import broken
from tests.support.client import Client, Reply
from tests.support.ledger import Clock, Urls, empty
from tests.support.threads import Call, together
from tests.support.waiting import wait_for, wait_for_lock_waiters


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """`a` has 1000 and must not go below 0; `b` has nothing."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.move("fund", "world", "a", 1000)


def place_a_hold_that_expires_while_it_waits(client: Client, clock: Clock, urls: Urls) -> Reply:
    """The response to a hold whose `expires_at` passes while the posting waits for the journal row."""
    expires_at = format_time(clock.stop() + timedelta(seconds=1))
    with psycopg.connect(urls.owner) as other:
        other.execute("SELECT FROM journal FOR UPDATE")
        placing = Call(lambda: client.hold("h", "a", "b", 500, expires_at=expires_at))
        wait_for_lock_waiters(urls, 1)
        clock.turn(seconds=1)
    return placing.result()


@pytest.mark.promise(28)
def test_a_hold_that_expires_before_it_is_posted_is_declined(client: Client, clock: Clock, urls: Urls) -> None:
    """It is declined as if it had come after its `expires_at`, and repeats return the same."""
    reply = place_a_hold_that_expires_while_it_waits(client, clock, urls)
    assert (reply.status, reply.slug) == (422, "hold-not-open")
    assert client.get("/v1/holds/h").json["status"] == "declined"
    assert client.amounts("a") == (1000, 0, 1000)


def test_a_build_that_ignores_the_wait_accepts_an_expired_hold(
    client: Client, clock: Clock, urls: Urls, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: without the condition on the journal row, the hold is open after its `expires_at`."""
    broken.replace_sql(monkeypatch, posting, "_WRITE_TRANSFERS", "AND now < %(expires_at)s", "")
    reply = place_a_hold_that_expires_while_it_waits(client, clock, urls)
    assert (reply.status, reply.json["created_at"] >= reply.json["expires_at"]) == (201, True)
    empty(owner)


def read_while_a_capture_commits(
    client: Client, clock: Clock, urls: Urls, read: Callable[[Client], Any]
) -> tuple[Any, Reply]:
    """What a reader sees after the hold's `expires_at`, while a capture with an earlier time has not committed yet."""
    expires_at = format_time(clock.stop() + timedelta(seconds=1))
    client.hold("h", "a", "b", 500, expires_at=expires_at)
    with psycopg.connect(urls.owner) as other:
        other.execute("SELECT FROM hold FOR UPDATE")  # a capture writes this row after it has got its time
        capturing = Call(lambda: client.capture("c", "h"))
        wait_for_lock_waiters(urls, 1)
        clock.turn(seconds=1)
        reading = Call(lambda: read(client))
        wait_for_lock_waiters(urls, 2, or_end_of=reading)
    return reading.result(), capturing.result()


AMOUNTS = ("balance", "held", "available")
READS = [
    pytest.param(lambda client: client.amounts("a"), (500, 0, 500), (1000, 0, 1000), id="account"),
    pytest.param(
        lambda client: tuple(client.get("/v1/accounts?prefix=a").json["accounts"][0][name] for name in AMOUNTS),
        (500, 0, 500),
        (1000, 0, 1000),
        id="list",
    ),
    pytest.param(lambda client: client.get("/v1/holds/h").json["status"], "captured", "expired", id="hold"),
    pytest.param(
        lambda client: (client.get("/v1/accounts/a/holds").json["holds"], client.get("/v1/transfers/c").status),
        ([], 200),
        ([], 404),
        id="holds of an account",
    ),
    pytest.param(
        lambda client: client.get("/v1/trial-balance?prefix=a").json["currencies"][0]["credit"],
        "500",
        "1000",
        id="trial balance",
    ),
]


@pytest.mark.promise(27, 41)
@pytest.mark.parametrize(("read", "after_capture", "before_capture"), READS)
def test_a_reader_waits_for_a_capture_with_an_earlier_time(
    client: Client, clock: Clock, urls: Urls, read: Callable[[Client], Any], after_capture: Any, before_capture: Any
) -> None:
    """It does not report the reserved amount as available, or the hold as expired."""
    seen, captured = read_while_a_capture_commits(client, clock, urls, read)
    assert captured.status == 201
    assert seen == after_capture


@pytest.mark.parametrize(
    "path",
    [
        *("accounts/a", "accounts", "holds/h", "accounts/a/holds?after=a", "trial-balance"),
        *("accounts/a/balance?at={at}", "accounts/a/entries?until={at}"),
    ],
)
def test_a_read_writes_nothing_if_the_time_is_past_the_hold(
    client: Client, clock: Clock, urls: Urls, environment: dict[str, str], path: str
) -> None:
    """After one read has advanced the time, the same read succeeds on a database that accepts no writes."""
    at = format_time(clock.stop() + timedelta(seconds=1))
    client.hold("h", "a", "b", 500, expires_at=at)
    clock.turn(seconds=2)
    first = client.get(f"/v1/{path.format(at=at)}")
    read_only_url = make_conninfo(urls.service, options="-c default_transaction_read_only=on")
    application = build_application(config.load(environment | {"DATABASE_URL": read_only_url}))
    second = Client(application).get(f"/v1/{path.format(at=at)}")
    application.dependencies.database.close()
    assert (second.status, second.json) == (200, first.json)


@pytest.mark.parametrize(("read", "after_capture", "before_capture"), READS)
def test_a_build_that_does_not_advance_the_time_shows_the_state_before_the_capture(
    client: Client,
    clock: Clock,
    urls: Urls,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Client], Any],
    after_capture: Any,
    before_capture: Any,
) -> None:
    """Broken on purpose: the reader sees the hold as expired and 1000 available, and then 500 of it is captured."""
    monkeypatch.setattr(ledger_clock, "advance_past", lambda connection, at: 0)
    monkeypatch.setattr(ledger_clock, "read_without_expired_holds", lambda connection, read: read(False)[0])
    seen, captured = read_while_a_capture_commits(client, clock, urls, read)
    assert captured.status == 201
    assert seen == before_capture


@pytest.mark.promise(41)
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda client: client.capture("c", "h"), id="capture"),
        pytest.param(lambda client: client.release("h"), id="release"),
    ],
)
def test_a_hold_that_was_shown_as_expired_stays_expired(
    client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch, end: Callable[[Client], Reply]
) -> None:
    """It expires between the decision and the writing of a capture or release, which is then too late."""
    decided, seen = threading.Event(), threading.Event()
    decide = rules.decide

    def decide_and_wait(*arguments: Any, **options: Any) -> Any:
        decision = decide(*arguments, **options)
        decided.set()
        wait_for(seen)
        return decision

    expires_at = format_time(clock.stop() + timedelta(seconds=1))
    client.hold("h", "a", "b", 5, expires_at=expires_at)
    monkeypatch.setattr(rules, "decide", decide_and_wait)
    ending = Call(lambda: end(client))
    wait_for(decided)
    clock.turn(seconds=1)
    shown = client.get("/v1/holds/h").json
    seen.set()
    reply = ending.result()
    assert (shown["status"], client.get("/v1/holds/h").json) == ("expired", shown)
    assert reply.slug == "hold-not-open" or reply.json == shown
    assert client.amounts("a") == (1000, 0, 1000)


@pytest.mark.promise(41)
def test_a_hold_ends_once(client: Client, clock: Clock) -> None:
    """Captures, a release, reads and the expiry race: all responses show the same end."""

    def work(id: str, thread: int) -> list[str]:
        if thread == 0:
            clock.turn(seconds=1)
        shown = [client.get(f"/v1/holds/{id}").json["status"]]
        if thread % 4 == 1 and client.capture(f"c-{id}-{thread}", id).status == 201:
            shown.append("captured")
        if thread == 2 and (released := client.release(id)).status == 200:
            shown.append(released.json["status"])
        return [*shown, client.get(f"/v1/holds/{id}").json["status"]]

    for id in [f"h{n}" for n in range(20)]:
        client.hold(id, "a", "b", 1, expires_at=format_time(clock.stop() + timedelta(seconds=1)))
        shown = together(partial(work, id))
        assert len({*shown, client.get(f"/v1/holds/{id}").json["status"]} - {"open"}) == 1, shown
    assert client.amounts("a")[1] == 0
