"""One throw-away database for the run, one application on it, and balanced books after every test."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dotenv
import psycopg
import pytest

from service import config, wsgi
from service.app import Application
from service.ledger import audit
from service.migrate import runner
from service.migrate.files import read_files
from tests import migrations, postgres
from tests.client import Client
from tests.live import Urls as Urls

ROOT = Path(__file__).parents[1]
DEVELOPMENT = (
    '[{"name": "development", "scopes": ["read", "write", "admin"], '
    f'"token_sha256": ["{config.DEVELOPMENT_TOKEN_SHA256}"]}}]'
)
# A block that must leave every table as it found it.
Unchanged = Callable[[], AbstractContextManager[None]]
TABLES = ("account_change", "transfer", "hold", "account")

# Stands before the database's own clock wherever the service asks for the time, and tells the true time until a test
# turns it. It comes after the migrations, so that the defaults of columns keep the true time.
CLOCK = """
    CREATE SCHEMA clock;
    CREATE TABLE clock.hands (stopped_at timestamptz, ahead interval NOT NULL DEFAULT '0');
    INSERT INTO clock.hands DEFAULT VALUES;
    CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
        AS 'SELECT coalesce(stopped_at, pg_catalog.clock_timestamp()) + ahead FROM clock.hands';
    GRANT USAGE ON SCHEMA clock TO PUBLIC;
    GRANT SELECT ON clock.hands TO PUBLIC;
    DO $$
    BEGIN
        EXECUTE format('ALTER DATABASE %I SET search_path = clock, pg_catalog, public', current_database());
    END
    $$
"""


class Clock:
    """The database's clock, as the service sees it."""

    def __init__(self, owner: psycopg.Connection[Any]) -> None:
        self._owner = owner

    def now(self) -> datetime:
        (now,) = self._owner.execute("SELECT clock.clock_timestamp()").fetchone() or (None,)
        assert isinstance(now, datetime)
        return now.astimezone(UTC)

    def stop(self, moment: datetime | None = None) -> datetime:
        """Stand still at the moment, or where it stands; returns it."""
        stopped_at = moment or self.now()
        self._owner.execute("UPDATE clock.hands SET stopped_at = %s, ahead = '0'", [stopped_at])
        return stopped_at

    def turn(self, **ahead: float) -> datetime:
        """Go on by so many hours=, seconds= or microseconds=, stopped or not; returns where it stands then."""
        self._owner.execute("UPDATE clock.hands SET ahead = ahead + %s", [timedelta(**ahead)])
        return self.now()

    def reset(self) -> None:
        """Tell the true time again."""
        self._owner.execute("UPDATE clock.hands SET stopped_at = NULL, ahead = '0'")


@pytest.fixture(scope="session")
def server() -> Iterator[Urls]:
    """DATABASE_URL and MIGRATE_DATABASE_URL of the environment or .env, else a throw-away server."""
    settings = dotenv.dotenv_values(ROOT / ".env") | dict(os.environ)
    if url := settings.get("DATABASE_URL"):
        yield Urls(url, settings.get("MIGRATE_DATABASE_URL") or url)
    else:
        with postgres.running() as started:
            yield Urls(started.service_url, started.owner_url)


@pytest.fixture(scope="session")
def new_database(server: Urls) -> Callable[[], AbstractContextManager[Urls]]:
    """Makes empty databases of our own; nothing that was there before is ever touched."""

    @contextmanager
    def make() -> Iterator[Urls]:
        name = f"ledger_test_{secrets.token_hex(6)}"
        with psycopg.connect(server.owner, autocommit=True) as owner:
            owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
            try:
                yield server.database(name)
            finally:
                drop(owner, name)

    return make


def drop(owner: psycopg.Connection[Any], name: str) -> None:
    """Sessions that were closed may take a moment to be gone; the server itself waits five seconds for them."""
    try:
        owner.execute(f"DROP DATABASE {name}")
    except psycopg.errors.ObjectInUse:
        owner.execute(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def urls(new_database: Callable[[], AbstractContextManager[Urls]]) -> Iterator[Urls]:
    """The migrated database of this run."""
    with new_database() as made:
        with psycopg.connect(made.owner, autocommit=True) as owner:
            runner.up(owner, read_files())
            owner.execute(CLOCK)
        yield made


@pytest.fixture(scope="session")
def environment(urls: Urls) -> dict[str, str]:
    """What a process of the service needs to be told."""
    return {
        "DATABASE_URL": urls.service,
        "MIGRATE_DATABASE_URL": urls.owner,
        "CALLERS": DEVELOPMENT,
        "ENVIRONMENT": "development",
        "HOST": "127.0.0.1",
        "PATH": os.environ["PATH"],
    }


@pytest.fixture(scope="session")
def application(environment: dict[str, str]) -> Iterator[Application]:
    """The application as gunicorn loads it."""
    built = wsgi.build(config.load(environment))
    yield built
    built.parts.database.close()


@pytest.fixture
def client(application: Application) -> Client:
    """The caller `development`, who has all scopes."""
    return Client(application)


@pytest.fixture(scope="session")
def owner(urls: Urls) -> Iterator[psycopg.Connection[Any]]:
    """A connection that may do more than the service: to look behind it, and to break things."""
    with psycopg.connect(urls.owner, autocommit=True) as connection:
        yield connection


@pytest.fixture
def clock(owner: psycopg.Connection[Any]) -> Clock:
    """The clock of the database, to be stopped and turned; `balanced_books` sets it right again."""
    return Clock(owner)


@pytest.fixture(autouse=True)
def balanced_books(owner: psycopg.Connection[Any]) -> Iterator[None]:
    """After every test the books must balance. Then they are emptied for the next one."""
    yield
    found = audit.run(owner).errors
    Clock(owner).reset()
    empty(owner)
    assert not found


def empty(owner: psycopg.Connection[Any]) -> None:
    """Begin the books anew. Holds and transfers name each other, so one statement deletes both."""
    owner.execute("DELETE FROM account_change")
    owner.execute("WITH emptied AS (DELETE FROM hold) DELETE FROM transfer")
    owner.execute("DELETE FROM account")
    owner.execute("UPDATE journal SET last_number = 0, last_at = clock_timestamp()")


@pytest.fixture
def nothing_changes(owner: psycopg.Connection[Any]) -> Unchanged:
    """A block that must leave every table as it found it, to the last byte."""

    def contents() -> list[Any]:
        tables = [owner.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES]
        return [*tables, owner.execute("SELECT last_number, last_at FROM journal").fetchall()]

    @contextmanager
    def block() -> Iterator[None]:
        before = contents()
        yield
        assert contents() == before

    return block


@pytest.fixture(scope="session")
def servers(server: Urls, urls: Urls) -> Iterator[migrations.Servers]:
    """The server of this run, whose roles are made by now, and those of other majors."""
    with contextlib.ExitStack() as stack:
        yield migrations.Servers(server, stack)


@pytest.fixture
def database(servers: migrations.Servers, tmp_path: Path) -> Iterator[migrations.Database]:
    """An empty database for migrations of our own, on the server of this run."""
    with servers.database(None, tmp_path) as made:
        yield made


@pytest.fixture(params=migrations.majors(), ids=migrations.name_of)
def each(request: pytest.FixtureRequest, servers: migrations.Servers, tmp_path: Path) -> Iterator[migrations.Database]:
    """The same on a server of each major."""
    with servers.database(request.param, tmp_path) as made:
        yield made
