"""Fixtures for all tests: a database for each pytest process, an application on it, and an audit after every test."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dotenv
import psycopg
import pytest

from dev import postgres
from service import config, session
from service.http.app import Application
from service.ledger import audit
from service.migrate import runner
from service.migrate.files import read_files
from service.server import build_application
from tests.support import migrations
from tests.support.client import Client
from tests.support.ledger import CLOCK, DEVELOPMENT, TABLES, Clock, Unchanged, Urls, drop, empty

ROOT = Path(__file__).parents[1]
CENTURIES_SECONDS = 3 * 10**10


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Urls]:
    """DATABASE_URL and MIGRATE_DATABASE_URL of the environment or .env; without them, a temporary server."""
    settings = dotenv.dotenv_values(ROOT / ".env") | dict(os.environ)
    if url := settings.get("DATABASE_URL"):
        yield Urls(url, settings.get("MIGRATE_DATABASE_URL") or url)
    else:
        with postgres.running() as started:
            yield Urls(started.service_url, started.owner_url)


@pytest.fixture(scope="session")
def new_database(postgres_server: Urls) -> Callable[[], AbstractContextManager[Urls]]:
    """A function that creates an empty database for a block. Existing databases are never changed."""

    @contextmanager
    def create() -> Iterator[Urls]:
        name = f"ledger_test_{secrets.token_hex(6)}"
        with psycopg.connect(postgres_server.owner, autocommit=True) as owner:
            owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
            try:
                yield postgres_server.database(name)
            finally:
                drop(owner, name)

    return create


@pytest.fixture(scope="session")
def urls(new_database: Callable[[], AbstractContextManager[Urls]]) -> Iterator[Urls]:
    """The migrated database of this pytest process."""
    with new_database() as created:
        with psycopg.connect(created.owner, autocommit=True) as owner:
            runner.up(owner, read_files())
            owner.execute(CLOCK)
        yield created


@pytest.fixture(scope="session")
def environment(urls: Urls) -> dict[str, str]:
    """The environment variables of a service process."""
    return {
        "DATABASE_URL": urls.service,
        "MIGRATE_DATABASE_URL": urls.owner,
        "CALLERS": DEVELOPMENT,
        "ENVIRONMENT": "development",
        "HOST": "127.0.0.1",
        "DRAIN_SECONDS": "0",
        "PATH": os.environ["PATH"],
    }


@pytest.fixture(scope="session")
def application(environment: dict[str, str]) -> Iterator[Application]:
    """The application as gunicorn loads it."""
    built = build_application(config.load(environment))
    yield built
    built.dependencies.database.close()


@pytest.fixture
def client(application: Application) -> Client:
    """The caller `development`, which has all scopes."""
    return Client(application)


@pytest.fixture(scope="session")
def owner(urls: Urls) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the tables' owner, which may read and change more than the service."""
    with psycopg.connect(urls.owner, autocommit=True) as connection:
        yield connection


@pytest.fixture
def clock(owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the database. After the test it returns to the real time. The service's clock does not limit it."""
    monkeypatch.setattr(session, "CLOCK_MAX_AHEAD_SECONDS", CENTURIES_SECONDS)
    return Clock(owner)


@pytest.fixture(autouse=True)
def balanced_books(owner: psycopg.Connection[Any]) -> Iterator[None]:
    """After every test: audit the ledger, then empty it."""
    yield
    errors = audit.run(owner).errors
    Clock(owner).reset()
    empty(owner)
    assert not errors


@pytest.fixture
def nothing_changes(owner: psycopg.Connection[Any]) -> Unchanged:
    """A block that must not change any row."""

    def read_all() -> list[Any]:
        tables = [owner.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES]
        return [*tables, owner.execute("SELECT last_number, last_at FROM journal").fetchall()]

    @contextmanager
    def block() -> Iterator[None]:
        before = read_all()
        yield
        assert read_all() == before

    return block


@pytest.fixture(scope="session")
def servers(postgres_server: Urls, urls: Urls) -> Iterator[migrations.Servers]:
    """The server of this pytest process, on which the roles exist, and servers of other PostgreSQL majors."""
    with contextlib.ExitStack() as stack:
        yield migrations.Servers(postgres_server, stack)


@pytest.fixture
def database(servers: migrations.Servers, tmp_path: Path) -> Iterator[migrations.Database]:
    """An empty database for other migrations, on the server of this pytest process."""
    with servers.database(None, tmp_path) as created:
        yield created


@pytest.fixture(params=migrations.majors(), ids=migrations.name_of)
def each(request: pytest.FixtureRequest, servers: migrations.Servers, tmp_path: Path) -> Iterator[migrations.Database]:
    """An empty database for other migrations, on a server of each PostgreSQL major."""
    with servers.database(request.param, tmp_path) as created:
        yield created
