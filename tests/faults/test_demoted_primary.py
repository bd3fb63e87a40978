"""The primary becomes read-only while another server accepts writes: the service leaves the old one.

Two servers that do not replicate are enough for this. The service has both in its URL.
"""

import contextlib
from collections.abc import Iterator
from urllib.parse import quote

import psycopg
import pytest

from dev import postgres
from dev.postgres import Server
from service import config, database
from service.migrate import runner
from service.migrate.files import read_files
from service.server import build_application
from tests.support.client import Client
from tests.support.waiting import wait_until

POOL_SIZE = 8


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """Two servers with the schema, and with the accounts `a` and `b`, which have no lower limit."""
    opening = """
        INSERT INTO account (id, currency, metadata, created_by)
        VALUES ('a', 'EUR', '{}', 'test'), ('b', 'EUR', '{}', 'test')
    """
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(postgres.running()) for _ in range(2)]
        for server in started:
            with psycopg.connect(server.owner_url, autocommit=True) as owner:
                runner.up(owner, read_files())
                owner.execute(opening)
        yield started[0], started[1]


def set_read_only(server: Server, value: str) -> None:
    """Change also the sessions that are open.

    Waits until a new session has the value: the server reloads its settings a moment later, tells the open sessions,
    and only then accepts new ones.
    """
    with psycopg.connect(server.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        superuser.execute("SELECT pg_reload_conf()")

    def is_set() -> bool:
        with psycopg.connect(server.superuser_url) as session:
            return session.execute("SHOW default_transaction_read_only").fetchone() == (value,)

    wait_until(is_set, f"new sessions have default_transaction_read_only {value}")


@pytest.fixture
def demoted(servers: tuple[Server, Server], environment: dict[str, str]) -> Iterator[Client]:
    """A client of an application that was connected to the first server, which then became read-only."""
    old, new = servers
    hosts = f"host={quote(str(old.socket_directory))},{quote(str(new.socket_directory))}&port=5432,5432"
    url = f"postgresql://ledger_service:{postgres.PASSWORD}@/ledger?{hosts}&target_session_attrs=read-write"
    set_read_only(old, "off")
    application = build_application(config.load(environment | {"DATABASE_URL": url}))
    client = Client(application)
    pool = application.dependencies.database._pool
    wait_until(lambda: pool.get_stats().get("pool_available") == POOL_SIZE, "all connections lead to this server")
    assert client.move("before").status in (200, 201)
    set_read_only(old, "on")
    yield client
    application.dependencies.database.close()
    set_read_only(old, "off")


def is_posted(server: Server, id: str) -> bool:
    with psycopg.connect(server.owner_url) as owner:
        return owner.execute("SELECT FROM transfer WHERE id = %s", [id]).rowcount == 1


def test_the_service_leaves_a_server_that_became_read_only(servers: tuple[Server, Server], demoted: Client) -> None:
    """The error 25006 makes the pool replace its connections, and the new ones lead to the other server."""
    wait_until(lambda: demoted.move("after").status in (200, 201), "the transfer is posted")
    assert [is_posted(server, "after") for server in servers] == [False, True]
    assert [is_posted(server, "before") for server in servers] == [True, False]


def test_a_build_that_keeps_its_connections_stays_there(demoted: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose: the error is retried on the connections to the same server."""
    monkeypatch.setattr(database, "SERVER_STOPPED_CODES", set())
    assert {demoted.move(f"kept{n}").status for n in range(10)} == {503}
