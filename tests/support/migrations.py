"""Test databases for the migration runner on each PostgreSQL of this machine, and small migrations for them."""

import contextlib
import functools
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dotenv
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from dev import postgres
from service import logs
from service.migrate import __main__ as program
from service.migrate import development, files, history, runner, schema
from service.migrate.files import Migration, MigrationError
from tests.support import live
from tests.support.ledger import Urls
from tests.support.live import ROOT
from tests.support.waiting import LIMIT_SECONDS, wait_until

Connection = psycopg.Connection[Any]

UNREACHABLE = "postgresql://owner:hunter2@127.0.0.1:1/none"  # a command that connects to it ends with exit code 6
ADVISORY_LOCKS = """
    SELECT 'lock', locktype, objid
    FROM pg_locks
    JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND locktype = 'advisory'
"""

PEOPLE = """\
-- One object of each kind that the schema text covers.
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE person (
    id bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL DEFAULT 'no  body',
    age integer,
    mood mood,
    CONSTRAINT person_pkey PRIMARY KEY (id),
    CONSTRAINT person_age CHECK (age >= 0)
);
CREATE INDEX person_name ON person (name);
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- All names are in capitals.
    NEW.name := upper(NEW.name);
    RETURN NEW;
END
$$;
CREATE TRIGGER person_shouts BEFORE INSERT ON person FOR EACH ROW EXECUTE FUNCTION shout();
CREATE VIEW adult AS SELECT id, name FROM person WHERE age >= 18;
GRANT SELECT ON person, schema_migration TO ledger_service;
"""
TOWN = "ALTER TABLE person ADD COLUMN town text;\n"
INDEX = """\
-- migrate: no-transaction
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS person_town ON person (town);
"""
DROP_INDEX = """\
-- migrate: no-transaction
DROP INDEX CONCURRENTLY IF EXISTS person_name;
"""
CONTRACT = """\
-- migrate: contract-for=0002
ALTER TABLE person DROP COLUMN age CASCADE;
"""


@dataclass
class Database:
    """A test database and the migrations for it: `root` is the folder of a repository with its own sql/.

    `scratch` is the database in which checksums are made.
    """

    urls: Urls
    scratch: Urls
    root: Path
    written: dict[str, str] = field(default_factory=dict)

    @property
    def sql(self) -> Path:
        return self.root / "sql"

    def write(self, *contents: str, seal: bool = True) -> list[Migration]:
        """Write these as the next migrations, with checksums if `seal`; returns all migrations as they are read."""
        for content in contents:
            name = f"{len(self.written) + 1:04}_{'abcdefghij'[len(self.written)]}.sql"
            self.written[name] = content
            (self.sql / name).write_text(content, "utf-8", newline="")
        if seal:
            self.seal()
        return self.read(allow_new=not seal)

    def read(self, *, allow_new: bool = True) -> list[Migration]:
        """The migrations; `allow_new` accepts files without a checksum."""
        return files.read_files(self.sql, allow_new=allow_new)

    def seal(self) -> None:
        """Run `seal` on an empty database. The result is cached for files with the same content."""
        contents = {path.name: path.read_bytes() for path in self.sql.iterdir() if path.name != files.SNAPSHOT}
        for name, text in run_seal(self.scratch.owner, tuple(sorted(contents.items()))).items():
            (self.sql / name).write_text(text, "utf-8")

    def connect(self, **parameters: Any) -> Connection:
        """A connection of the owner."""
        return psycopg.connect(self.urls.owner, autocommit=True, **parameters)

    def reset(self) -> None:
        """Empty the database, and end all other sessions."""
        with self.connect() as connection:
            empty(connection)

    def up(self, *, allow_new: bool = False) -> list[Migration]:
        """Run `up` in this process."""
        with self.connect() as connection:
            return runner.up(connection, self.read(allow_new=allow_new))

    def verify(self) -> list[Migration]:
        """Run `verify` in this process."""
        with self.connect() as connection:
            return runner.verify(connection, self.read(allow_new=False))

    def execute(self, statement: str) -> None:
        """Execute a statement as the owner, outside any migration."""
        with self.connect() as connection:
            connection.execute(statement.encode())

    def query(self, query: str) -> Any:
        """The first column of the first row; None if there is no row."""
        with self.connect() as connection:
            row = connection.execute(query.encode()).fetchone()
            return row and row[0]

    def state(self) -> tuple[list[int], str]:
        """The versions of the history, and the schema."""
        with self.connect() as connection:
            connection.execute(runner.SESSION)
            return [row.version for row in history.read_history(connection)], schema.read(connection)

    def contents(self) -> list[Any]:
        """All relations and types of the schema public, the advisory locks, and the history."""
        until = time.monotonic() + 1  # a closed session may hold its lock a little longer
        with self.connect() as connection:
            while time.monotonic() < until and connection.execute(ADVISORY_LOCKS).fetchall():
                time.sleep(0.01)
            objects = connection.execute(
                "SELECT 'class', relname, oid FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL"
                " SELECT 'type', typname, oid FROM pg_type WHERE typnamespace = 'public'::regnamespace ORDER BY 1, 2"
            ).fetchall()
            locks = connection.execute(ADVISORY_LOCKS).fetchall()
            return [objects, locks, history.read_history(connection)]

    def run(self, *command: str, **environment: str) -> tuple[int, list[dict[str, Any]]]:
        """`python -m service.migrate COMMAND --json` as a process in `root`: exit code and printed lines."""
        variables = {"MIGRATE_DATABASE_URL": self.urls.owner, **environment}
        return live.run(["service.migrate", *command, "--json"], variables, self.copy_service())

    def run_text(self, *command: str) -> tuple[int, str]:
        """The same without --json: exit code and printed text."""
        environment = {"MIGRATE_DATABASE_URL": self.urls.owner}
        with tempfile.TemporaryFile() as printed:
            process = live.start(["service.migrate", *command], environment, printed, self.copy_service())
            code = process.wait(LIMIT_SECONDS)
            printed.seek(0)
            return code, printed.read().decode()

    def run_here(self, *command: str, url: str = UNREACHABLE) -> int:
        """`python -m service.migrate COMMAND` in this process, which is faster; returns the exit code."""
        with (
            logging_restored(),
            patch.object(files, "SQL_FOLDER", self.sql),
            patch.object(sys, "argv", ["migrate", *command]),
            patch.dict(os.environ, {"MIGRATE_DATABASE_URL": url, "DATABASE_URL": ""}),
        ):
            return program.main()

    def copy_service(self) -> Path:
        """Copy service/ to `root`, and return `root`."""
        if not (self.root / "service").exists():
            shutil.copytree(ROOT / "service", self.root / "service", ignore=shutil.ignore_patterns("__pycache__"))
        return self.root


@contextlib.contextmanager
def logging_restored() -> Iterator[None]:
    """Restores after the block what `logs.configure` changes in this process."""
    loggers = [logging.root, logs.log]
    levels, handlers = [logger.level for logger in loggers], logging.root.handlers
    try:
        with (
            patch.multiple(sys, excepthook=sys.excepthook, unraisablehook=sys.unraisablehook),
            patch.object(threading, "excepthook", threading.excepthook),
        ):
            yield
    finally:
        logging.captureWarnings(False)
        logging.root.handlers = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def up(url: str, sql: Path) -> None:
    """Run `up`, as the target of a process that may be killed."""
    with psycopg.connect(url, autocommit=True) as connection:
        runner.up(connection, files.read_files(sql))


def refused(database: Database, code: int, *, verify: bool = False, allow_new: bool = False) -> MigrationError:
    """The error of `up`, or of `verify`, which must have this exit code and a fix."""
    with pytest.raises(MigrationError) as caught:
        database.verify() if verify else database.up(allow_new=allow_new)
    assert (caught.value.exit_code, caught.value.fix != "") == (code, True)
    return caught.value


def superuser_url(database: Database) -> str:
    """The URL for the superuser postgres; skips the test if the server does not accept it."""
    url = make_conninfo(database.urls.owner, user="postgres")
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError as error:
        pytest.skip(f"this test needs a superuser: {error}")
    return url


def git(folder: Path, *arguments: str) -> str:
    """Run git in the folder, without the variables of a surrounding git hook; returns what it prints."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.check_output(["git", *identity, *arguments], cwd=folder, env=environment, text=True)


def empty(connection: Connection) -> None:
    """Empty the database. Much faster than a new database, and the same for what the tests compare."""
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"  # the owner may not end an autovacuum
    )
    wait_until(lambda: connection.execute(others).rowcount == 0, "all other sessions have ended")
    connection.execute("DROP SCHEMA IF EXISTS other CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


@functools.cache
def run_seal(url: str, contents: tuple[tuple[str, bytes], ...]) -> dict[str, str]:
    """The checksum file and the snapshot that `seal` writes for a folder, which may already have a checksum file."""
    with psycopg.connect(url, autocommit=True) as connection, tempfile.TemporaryDirectory() as folder:
        sql = Path(folder)
        for name, content in contents:
            (sql / name).write_bytes(content)
        empty(connection)
        with patch.object(files, "SQL_FOLDER", sql):
            development.seal(connection)
        paths = [sql / name for name in (files.CHECKSUMS, files.SNAPSHOT)]
        return {path.name: path.read_text("utf-8") for path in paths if path.exists()}


def majors() -> list[Any]:
    """Parameters for a fixture: None is the server of all other tests, then an installation of each other major."""
    settings = dotenv.dotenv_values(ROOT / ".env") | dict(os.environ)
    if settings.get("DATABASE_URL"):
        return [None]
    found = {postgres.major(path): path for path in reversed(postgres.installations())}
    used = postgres.major(postgres.installations()[0]) if found else 0
    others = [path for major, path in sorted(found.items(), reverse=True) if major != used]
    return [None, *(pytest.param(path, marks=pytest.mark.slow) for path in others)]


def name_of(binaries: Path | None) -> str:
    return f"postgresql{postgres.major(binaries)}" if binaries else "server"


class Servers:
    """One server for each installation, started when a test first uses it, and stopped when `stack` is closed."""

    def __init__(self, given: Urls, stack: contextlib.ExitStack) -> None:
        self._servers: dict[Path | None, Urls] = {None: given}
        self._databases: dict[tuple[Path | None, str], Urls] = {}
        self._stack = stack

    def get(self, binaries: Path | None) -> Urls:
        """The URLs of the server with these binaries."""
        if binaries not in self._servers:
            started = self._stack.enter_context(postgres.running(binaries=binaries))
            self._servers[binaries] = Urls(started.service_url, started.owner_url)
        return self._servers[binaries]

    def _database(self, binaries: Path | None, use: str) -> Urls:
        if (binaries, use) not in self._databases:
            created = new_database(self.get(binaries))
            self._databases[binaries, use] = self._stack.enter_context(created)
        return self._databases[binaries, use]

    @contextlib.contextmanager
    def database(self, binaries: Path | None, root: Path) -> Iterator[Database]:
        """An empty database with a folder for its migrations."""
        (root / "sql").mkdir()
        database = Database(self._database(binaries, "tests"), self._database(binaries, "scratch"), root)
        database.reset()
        yield database


@contextlib.contextmanager
def new_database(server: Urls) -> Iterator[Urls]:
    """A new database, dropped after the block; sessions of killed runners are ended first."""
    name = f"ledger_test_{secrets.token_hex(6)}"
    with psycopg.connect(server.owner, autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield server.database(name)
        finally:
            with psycopg.connect(server.database(name).owner, autocommit=True) as last:
                empty(last)
            owner.execute(f"DROP DATABASE {name}")  # WITH (FORCE) fails if an autovacuum runs; this cancels it
