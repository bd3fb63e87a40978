"""With a synchronous standby, a success is sent only after a commit that the standby has.

The standby of these tests does not exist, so every COMMIT waits until it is cancelled, until its session ends, or until
the standby is no longer required, which has the effect of its return.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from dev import postgres
from service import config, database, session
from service.contract import LIMITS
from service.ledger import audit, group, replication
from service.migrate import runner
from service.migrate.files import read_files
from service.server import build_application
from service.session import Connection
from tests.support import broken
from tests.support.client import Client, Reply, item
from tests.support.groups import post_as_group
from tests.support.threads import Call
from tests.support.waiting import wait_until

WAITS = "wait_event = 'SyncRep' AND usename = 'ledger_service'"
LATE, UNKNOWN = "deadline-exceeded", "unknown"
POOL_SIZE = 8


class Standby:
    """The standby that the server requires, and the sessions that wait for it."""

    def __init__(self, superuser: psycopg.Connection[Any]) -> None:
        self._superuser = superuser

    def require(self) -> None:
        self._set("away")

    def release(self) -> None:
        """From now on no COMMIT waits."""
        self._set("")

    def _set(self, names: str) -> None:
        self._superuser.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self._superuser.execute("SELECT pg_reload_conf()")
        is_set = "SELECT current_setting('synchronous_standby_names')"
        wait_until(lambda: self._superuser.execute(is_set).fetchone() == (names,), "the setting is loaded")

    def end_one_wait(self, function: str) -> None:
        """Cancel or terminate one session that waits for the standby: `function` is that of PostgreSQL."""
        statement = f"SELECT {function}(pid) FROM pg_stat_activity WHERE {WAITS} LIMIT 1"
        wait_until(lambda: self._superuser.execute(statement).rowcount == 1, "a COMMIT waits for the standby")

    def sessions(self) -> int:
        """The number of sessions of the service."""
        counted = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ledger_service'"
        (count,) = self._superuser.execute(counted).fetchone() or (0,)
        return int(count)


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A server of this module, because the settings of replication are those of a whole server."""
    with postgres.running() as started, psycopg.connect(started.owner_url, autocommit=True) as owner:
        runner.up(owner, read_files())
        yield started


@pytest.fixture
def standby(server: postgres.Server) -> Iterator[Standby]:
    """The standby. It is not required yet."""
    with psycopg.connect(server.superuser_url, autocommit=True) as superuser:
        superuser.execute("ALTER DATABASE ledger SET synchronous_commit = on")
        standby = Standby(superuser)
        standby.release()
        yield standby
        standby.release()
        superuser.execute("DELETE FROM account_change")
        superuser.execute("WITH emptied AS (DELETE FROM hold) DELETE FROM transfer")
        superuser.execute("DELETE FROM account")
        superuser.execute("UPDATE journal SET last_number = 0, last_at = clock_timestamp()")


@pytest.fixture
def replicated(
    server: postgres.Server, standby: Standby, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """A client of an application on this server, with a deadline of one second.

    It has a transfer `old`, a declined transfer `poor`, holds `h` and `g`, and `g` is released. `a` and `b` have no
    lower limit. After the test, the ledger must be consistent.
    """
    for module in (database, group):
        monkeypatch.setattr(module, "LIMITS", dataclasses.replace(LIMITS, request_deadline_seconds=1))
    application = build_application(config.load(environment | {"DATABASE_URL": server.service_url}))
    client = Client(application)
    wait_until(lambda: client.get("/v1/transfers").status == 200, "the application is connected")
    client.open("a", "b", min_balance=None)
    client.open("empty")
    assert client.move("old", amount=3).status == 201
    assert client.move("poor", "empty").status == 422
    assert [client.hold(id).status for id in ("h", "g")] == [201, 201]
    assert client.release("g").status == 200
    yield client
    standby.release()
    application.dependencies.database.close()
    with psycopg.connect(server.owner_url) as owner:
        assert not audit.run(owner).errors


WRITES: dict[str, Callable[[Client], Reply]] = {
    "a transfer": lambda client: client.move("t"),
    "a capture": lambda client: client.capture("c", "h"),
    "a reversal": lambda client: client.reverse("r", "old"),
    "a declined transfer": lambda client: client.move("declined", "empty"),
    "a hold": lambda client: client.hold("new"),
    "a release": lambda client: client.release("h"),
    "a batch": lambda client: client.batch(item("t1"), item("t2"), atomic=True),
    "an opening": lambda client: client.put("/v1/accounts/new", {"currency": "EUR"}),
    "a change": lambda client: client.change("a", min_balance=-10),
}
SUCCESS = (200, 201, 422)


def is_unknown(reply: Reply) -> bool:
    return reply.status == 503 and reply.json["outcome"] == UNKNOWN and "Retry-After" in reply.headers


def cancel_its_commit(client: Client, standby: Standby, write: Callable[[Client], Reply]) -> Reply:
    """Send a write, and cancel the wait of its COMMIT: the server confirms it with a warning."""
    standby.require()
    call = Call(partial(write, client))
    standby.end_one_wait("pg_cancel_backend")
    return call.result()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_commit_whose_wait_is_cancelled_is_unknown(
    replicated: Client, standby: Standby, write: Callable[[Client], Reply]
) -> None:
    """The server confirms it with a warning. The service repeats the request, and waits for the standby."""
    assert is_unknown(cancel_its_commit(replicated, standby, write))
    standby.release()
    assert write(replicated).status in SUCCESS


def test_a_commit_whose_session_is_terminated_is_unknown(replicated: Client, standby: Standby) -> None:
    """The transfer is visible to the retry of the service, and not replicated."""
    standby.require()
    call = Call(partial(replicated.move, "t"))
    standby.end_one_wait("pg_terminate_backend")
    assert is_unknown(call.result())
    assert replicated.get("/v1/transfers/t").json["status"] == "posted"
    assert is_unknown(replicated.move("t"))
    standby.release()
    assert replicated.move("t").status == 200


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_repeat_is_acknowledged_after_a_commit_of_its_own(
    replicated: Client, standby: Standby, write: Callable[[Client], Reply]
) -> None:
    """The row is visible, and it may not be replicated. A repeat is unknown until the standby has it."""
    first = write(replicated)
    assert first.status in SUCCESS
    standby.require()
    assert is_unknown(write(replicated))
    standby.release()
    assert write(replicated).status in SUCCESS


def test_a_role_that_gets_no_warnings_changes_nothing(
    server: postgres.Server, replicated: Client, standby: Standby
) -> None:
    """A setting of the role would hide the warning. The service sets it for its sessions."""
    with psycopg.connect(server.superuser_url, autocommit=True) as superuser:
        superuser.execute("ALTER ROLE ledger_service SET client_min_messages = error")
        try:
            replicated.application.dependencies.database._pool.drain()
            assert is_unknown(cancel_its_commit(replicated, standby, WRITES["a transfer"]))
        finally:
            standby.release()  # this connection would wait too
            superuser.execute("ALTER ROLE ledger_service RESET client_min_messages")


def test_repeats_of_a_group_are_unknown(replicated: Client, standby: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of repeats, posted and declined, changes nothing, and waits for the standby too."""
    standby_is_required = iter([True])

    def require_after_the_first(post: Any) -> Any:
        def post_while_away(*arguments: Any, **options: Any) -> Any:
            if next(standby_is_required, False):
                standby.require()
            return post(*arguments, **options)

        return post_while_away

    requests = [partial(replicated.move, "old", amount=3), partial(replicated.move, "poor", "empty")]
    replies = post_as_group(replicated, monkeypatch, *requests, deadline_seconds=1, post_group=require_after_the_first)
    assert [is_unknown(reply) for reply in replies] == [True, True]


def test_a_build_that_ignores_the_warning_acknowledges_what_a_failover_loses(
    replicated: Client, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose."""
    broken.build(monkeypatch, Connection.execute_and_commit, "if self._has_warned", "if False")
    assert cancel_its_commit(replicated, standby, WRITES["a transfer"]).status == 201


@pytest.mark.parametrize("name", ["a transfer", "a release", "a batch", "a change", "an opening"])
def test_a_build_whose_repeats_do_not_wait_acknowledges_what_a_failover_loses(
    replicated: Client, standby: Standby, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Broken on purpose: the retry of the service ends with ROLLBACK, which waits for nothing."""
    broken.build(monkeypatch, replication.confirm, "if is_replicated", "if False")
    assert cancel_its_commit(replicated, standby, WRITES[name]).status in SUCCESS


ROUNDS = 3


@pytest.fixture
def repeats(replicated: Client, standby: Standby) -> Callable[[], None]:
    """A function that sends eight repeats, on other accounts each time, which wait for the standby in vain."""
    ids = [f"account{n}" for n in range(8 * ROUNDS)]
    replicated.open(*ids, *(f"to-{id}" for id in ids), min_balance=None)
    for id in ids:
        assert replicated.move(id, id, f"to-{id}").status == 201
    standby.require()
    groups = iter([ids[n : n + 8] for n in range(0, len(ids), 8)])

    def send() -> None:
        calls = [Call(partial(replicated.batch, item(id, id, f"to-{id}"))) for id in next(groups)]
        assert all(is_unknown(call.result()) or call.result().slug == LATE for call in calls)

    return send


def test_sessions_that_wait_for_the_standby_end_with_their_requests(
    replicated: Client, standby: Standby, repeats: Callable[[], None]
) -> None:
    """The number of sessions stays that of the pool, and requests succeed when the standby is back."""
    for _ in range(ROUNDS):
        repeats()
    wait_until(lambda: standby.sessions() <= POOL_SIZE, "the sessions have ended")
    standby.release()
    wait_until(lambda: replicated.move("later").status in SUCCESS, "the service has recovered")


def test_a_build_that_does_not_cancel_leaves_sessions_behind(
    standby: Standby, repeats: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: a session that waits for the standby does not notice that its client is gone."""
    monkeypatch.setattr(session, "_send_cancel", lambda cancel: cancel.finish())
    for _ in range(ROUNDS):
        repeats()
    wait_until(lambda: standby.sessions() > POOL_SIZE + 3, "the pool has new connections, and the old sessions stay")
