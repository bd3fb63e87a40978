"""The database is away, refuses work or ends sessions: the response says so, and the service recovers by itself."""

import select
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import psycopg_pool
import pytest

from service import config, database, session
from service.contract import LIMITS
from service.http.app import Application
from service.ledger import group
from service.server import build_application
from tests.support.client import Client
from tests.support.ledger import Unchanged, Urls
from tests.support.proxy import Proxy
from tests.support.threads import Call
from tests.support.waiting import wait_until


@pytest.mark.promise(14)
def test_an_outage_is_reported_and_the_service_recovers(
    proxied_client: Client, proxy: Proxy, nothing_changes: Unchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with `not_applied` during the outage. Afterwards the same request works, at the latest when repeated once."""
    proxy.refuse_connections()
    with nothing_changes(), monkeypatch.context() as once:
        once.setattr(database, "ATTEMPTS", 1)  # saves time: each attempt waits for the pool's timeout
        reply = proxied_client.move("t", "a", "b", 5)
    assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "not_applied")
    proxy.accept_connections()
    assert proxied_client.move("t", "a", "b", 5).status in (201, 503)
    assert proxied_client.move("t", "a", "b", 5).status in (200, 201)


def test_a_session_that_the_server_ends_is_replaced(application: Application) -> None:
    """Any error of severity FATAL ends the connection, whatever its code: here 57P05, idle_session_timeout."""
    attempts: list[int] = []

    def work(connection: session.Connection) -> Any:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            connection.execute("SET idle_session_timeout = '20ms'")
            wait_until(lambda: has_ended(connection), "the server has ended the session")
        return connection.execute("SELECT 7").fetchone()

    assert application.dependencies.database.run(work) == (7,)
    assert attempts == [0, 1]


def has_ended(connection: session.Connection) -> bool:
    """Whether the server has sent something to this idle connection, which can only be its end."""
    readable, _, _ = select.select([connection.fileno()], [], [], 0)
    return bool(readable)


class TestALongOutage:
    """The pool stops trying to connect, and its queue is full of requests that no longer wait."""

    @pytest.fixture(autouse=True)
    def short_timeouts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """This takes a few seconds instead of half a minute."""
        monkeypatch.setattr(database, "RECONNECT_TIMEOUT_SECONDS", 0.1)
        for module in (database, group):
            monkeypatch.setattr(module, "LIMITS", replace(LIMITS, request_deadline_seconds=1))
        monkeypatch.setattr(database, "MAX_WAITING", 3)

    @pytest.fixture
    def pool_without_check(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the service calls when the pool stops trying to connect does nothing."""
        monkeypatch.setattr(psycopg_pool.ConnectionPool, "check", None)

    def outage(self, proxied_client: Client, proxy: Proxy) -> None:
        """Ten requests are refused; then the database is back."""
        proxy.refuse_connections()
        for n in range(10):
            reply = proxied_client.move(f"refused{n}", "a", "b", 5)
            assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "not_applied")
        proxy.accept_connections()

    def test_the_service_recovers_without_a_restart(self, proxied_client: Client, proxy: Proxy) -> None:
        """Requests succeed soon after the database is back."""
        self.outage(proxied_client, proxy)
        wait_until(lambda: proxied_client.move("t", "a", "b", 5).status == 201, "a transfer is posted")

    def test_a_build_whose_pool_stops_connecting_does_not_recover(
        self, pool_without_check: None, proxied_client: Client, proxy: Proxy
    ) -> None:
        """Broken on purpose: every later request is refused."""
        self.outage(proxied_client, proxy)
        assert {proxied_client.move("t", "a", "b", 5).status for _ in range(10)} == {503}


def test_a_request_whose_session_is_terminated_is_retried(client: Client, urls: Urls) -> None:
    """An administrator ends the session while it waits for a lock; the request succeeds."""
    client.open("a", "b", min_balance=None)
    terminating = """
        SELECT pg_terminate_backend(pid)
        FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database() AND backend_type = 'client backend'
    """
    with psycopg.connect(urls.owner) as blocker, psycopg.connect(urls.service, autocommit=True) as same_role:
        blocker.execute("SELECT FROM account WHERE id = 'a' FOR UPDATE")
        posting = Call(lambda: client.move("t", "a", "b", 5))
        wait_until(lambda: same_role.execute(terminating).rowcount > 0, "a session is terminated")
        blocker.rollback()
    assert posting.result().status == 201


@pytest.mark.promise(14)
def test_a_request_that_waits_too_long_for_a_lock_is_refused(
    client: Client, urls: Urls, nothing_changes: Unchanged
) -> None:
    """lock_timeout returns 503, and nothing was applied."""
    client.open("a", "b", min_balance=None)
    with nothing_changes(), psycopg.connect(urls.owner) as blocker:
        blocker.execute("SELECT FROM account WHERE id = 'a' FOR UPDATE")
        reply = client.move("t", "a", "b", 5)
    assert (reply.slug, reply.json["outcome"]) == ("deadline-exceeded", "not_applied")


@pytest.fixture
def read_only_client(client: Client, urls: Urls, environment: dict[str, str]) -> Iterator[Client]:
    """A client of an application whose sessions cannot write, as on a demoted primary."""
    client.open("a", "b", min_balance=None)
    with psycopg.connect(urls.owner, autocommit=True) as owner:
        name = owner.info.dbname
        owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        application = build_application(config.load(environment))
        try:
            yield Client(application)
        finally:
            application.dependencies.database.close()
            owner.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


def test_a_database_that_accepts_no_writes_is_unavailable(read_only_client: Client) -> None:
    """Writes return 503 (SQLSTATE 25006), and /ready names the reason."""
    reply = read_only_client.move("t", "a", "b", 5)
    assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "not_applied")
    ready = read_only_client.get("/ready")
    assert (ready.status, ready.json["checks"]["writable"]) == (503, False)


@pytest.fixture
def lost_connections(
    client: Client, proxy: Proxy, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """A client of an application whose three connections are lost, and whose next three never respond to a statement.

    The pool opens connections in three threads.
    """
    client.open("a", "b", min_balance=None)
    monkeypatch.setattr(session, "CONFIGURE_SECONDS", 0.5)
    for module in (database, group):
        monkeypatch.setattr(module, "LIMITS", replace(LIMITS, request_deadline_seconds=1))
    application = build_application(config.load(environment | {"DATABASE_URL": proxy.url, "POOL_SIZE": "3"}))
    lost = Client(application)
    pool = application.dependencies.database._pool
    wait_until(lambda: pool.get_stats().get("pool_available") == 3, "all connections are open")
    proxy.lose, proxy.losses = b"SET ROLE", 3
    proxy.cut_all()
    assert lost.move("refused", "a", "b", 5).json["outcome"] == "not_applied"
    yield lost
    proxy.cut_all()  # else closing the pool waits for them
    application.dependencies.database.close()


def test_connections_that_authenticate_and_then_hang_are_replaced(lost_connections: Client) -> None:
    """The settings of a new connection have a deadline."""
    wait_until(lambda: lost_connections.move("t", "a", "b", 5).status == 201, "a transfer is posted")


def test_a_build_without_that_deadline_does_not_recover(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Broken on purpose: the pool waits for these three connections, and /ready notices that it has none."""
    monkeypatch.setattr(session, "configure_in_time", session.configure)
    lost: Client = request.getfixturevalue("lost_connections")
    assert {lost.move(f"t{n}", "a", "b", 5).status for n in range(5)} == {503}
    assert not lost.application.dependencies.database.has_connection()


def test_a_check_of_the_pool_keeps_connections_that_respond(proxied_client: Client) -> None:
    """The deadline of the last request on a connection does not limit the check."""
    pool = proxied_client.application.dependencies.database._pool
    with pool.connection() as connection:
        pid = connection.info.backend_pid
        connection.deadline = 0
    pool.check()
    with pool.connection() as connection:
        assert connection.info.backend_pid == pid
