"""Small migrations of our own, sealed by the code itself, and a server of every major that this machine has."""

import contextlib
import functools
import logging
import os
import secrets
import shutil
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

from service import logs
from service.migrate import __main__ as program
from service.migrate import development, files, history, runner, schema
from service.migrate.files import Migration
from tests import live, postgres
from tests.live import ROOT, Urls

Connection = psycopg.Connection[Any]

ADVISORY_LOCKS = """
    SELECT 'lock', locktype, objid
    FROM pg_locks
    JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND locktype = 'advisory'
"""
NOWHERE = "postgresql://owner:hunter2@127.0.0.1:1/none"  # who asks it gets 6

PEOPLE = """\
-- Something of everything that a schema may hold.
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
    """An empty database, and the migrations for it: `root` is a copy of this repository with a sql/ of its own."""

    urls: Urls
    scratch: Urls
    root: Path
    written: dict[str, str] = field(default_factory=dict)

    @property
    def sql(self) -> Path:
        return self.root / "sql"

    def write(self, *contents: str, seal: bool = True) -> list[Migration]:
        """Make these the next migrations; they are returned as they are read."""
        for content in contents:
            name = f"{len(self.written) + 1:04}_{'abcdefghij'[len(self.written)]}.sql"
            self.written[name] = content
            (self.sql / name).write_text(content, "utf-8", newline="")
        if seal:
            self.seal()
        return files.read_files(self.sql, unsealed=not seal)

    def seal(self) -> None:
        """As `make seal` does, in a database that is emptied before. Made once for the same files."""
        kept = {path.name: path.read_bytes() for path in self.sql.iterdir() if path.name != files.SNAPSHOT}
        for name, text in sealed(self.scratch.owner, tuple(sorted(kept.items()))).items():
            (self.sql / name).write_text(text, "utf-8")

    def connect(self, **parameters: Any) -> Connection:
        """A connection of the owner."""
        return psycopg.connect(self.urls.owner, autocommit=True, **parameters)

    def reset(self) -> None:
        """Empty the database; sessions of runners that were killed are gone afterwards."""
        with self.connect() as connection:
            empty(connection)

    def up(self) -> list[Migration]:
        """`up`, in this process."""
        with self.connect() as connection:
            return runner.up(connection, files.read_files(self.sql))

    def verify(self) -> list[Migration]:
        """`verify`, in this process."""
        with self.connect() as connection:
            return runner.verify(connection, files.read_files(self.sql))

    def execute(self, statement: str) -> None:
        """Do something by hand, as the owner."""
        with self.connect() as connection:
            connection.execute(statement.encode())

    def ask(self, query: str) -> Any:
        """The first column of the first row; None without one."""
        with self.connect() as connection:
            row = connection.execute(query.encode()).fetchone()
            return row and row[0]

    def state(self) -> tuple[list[int], str]:
        """The versions of the history, and the schema."""
        with self.connect() as connection:
            connection.execute(runner.SESSION)
            return [row.version for row in history.read_history(connection)], schema.read(connection)

    def everything(self) -> list[Any]:
        """All that the catalogs name in this database, and the history."""
        until = time.monotonic() + 1  # a session that was closed may hold its lock for a moment
        with self.connect() as connection:
            while time.monotonic() < until and connection.execute(ADVISORY_LOCKS).fetchall():
                time.sleep(0.01)
            known = connection.execute(
                "SELECT 'class', relname, oid FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL"
                " SELECT 'type', typname, oid FROM pg_type WHERE typnamespace = 'public'::regnamespace ORDER BY 1, 2"
            ).fetchall()
            locks = connection.execute(ADVISORY_LOCKS).fetchall()
            return [known, locks, history.read_history(connection)]

    def run(self, *command: str, **environment: str) -> tuple[int, list[dict[str, Any]]]:
        """`python -m service.migrate COMMAND --json` as a process of the copy: exit code and lines."""
        given = {"MIGRATE_DATABASE_URL": self.urls.owner, **environment}
        return live.run(["service.migrate", *command, "--json"], given, self.copied())

    def inside(self, *command: str, url: str = NOWHERE) -> int:
        """The same in this process, which is faster: the exit code alone."""
        with (
            logging_put_back(),
            patch.object(development, "SQL_FOLDER", self.sql),
            patch.object(files.read_files, "__defaults__", (self.sql,)),
            patch.object(sys, "argv", ["migrate", *command]),
            patch.dict(os.environ, {"MIGRATE_DATABASE_URL": url, "DATABASE_URL": ""}),
        ):
            return program.main()

    def copied(self) -> Path:
        """The copy, with the service in it."""
        if not (self.root / "service").exists():
            shutil.copytree(ROOT / "service", self.root / "service", ignore=shutil.ignore_patterns("__pycache__"))
        return self.root


@contextlib.contextmanager
def logging_put_back() -> Iterator[None]:
    """What `logs.configure` changes in this process is as before after the block."""
    kept = [logging.root, logs.log]
    levels, handlers = [logger.level for logger in kept], logging.root.handlers
    try:
        with (
            patch.multiple(sys, excepthook=sys.excepthook, unraisablehook=sys.unraisablehook),
            patch.object(threading, "excepthook", threading.excepthook),
        ):
            yield
    finally:
        logging.captureWarnings(False)
        logging.root.handlers = handlers
        for logger, level in zip(kept, levels, strict=True):
            logger.setLevel(level)


def up(url: str, sql: Path) -> None:
    """`up` in a process of its own, which may be killed at any time."""
    with psycopg.connect(url, autocommit=True) as connection:
        runner.up(connection, files.read_files(sql))


def superuser(database: Database) -> str:
    """A server that was given to us may have none that we know; then the test cannot run, and says so."""
    url = make_conninfo(database.urls.owner, user="postgres")
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError as error:
        pytest.skip(f"this takes a superuser: {error}")
    return url


def empty(connection: Connection) -> None:
    """Much faster than a new database, and the same for all that is looked at here."""
    while connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"  # autovacuum is the superuser's
    ).rowcount:
        time.sleep(0.005)
    connection.execute("DROP SCHEMA IF EXISTS other CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


@functools.cache
def sealed(url: str, contents: tuple[tuple[str, bytes], ...]) -> dict[str, str]:
    """The seal and the snapshot of a folder of migrations, which may have a seal already."""
    with psycopg.connect(url, autocommit=True) as connection, tempfile.TemporaryDirectory() as folder:
        sql = Path(folder)
        for name, content in contents:
            (sql / name).write_bytes(content)
        empty(connection)
        with patch.object(development, "SQL_FOLDER", sql), patch.object(files.read_files, "__defaults__", (sql,)):
            development.seal(connection)
        made = [sql / name for name in (files.SEAL, files.SNAPSHOT)]
        return {path.name: path.read_text("utf-8") for path in made if path.exists()}


def majors() -> list[Path | None]:
    """The installations of this machine, one for each major; None is the server that all other tests use."""
    settings = dotenv.dotenv_values(ROOT / ".env") | dict(os.environ)
    if settings.get("DATABASE_URL"):
        return [None]
    found = {postgres.major(path): path for path in reversed(postgres.installations())}
    ours = postgres.major(postgres.installations()[0]) if found else 0
    return [None, *(path for major, path in sorted(found.items(), reverse=True) if major != ours)]


def name_of(binaries: Path | None) -> str:
    return f"postgresql{postgres.major(binaries)}" if binaries else "server"


class Servers:
    """Servers that are started when they are first asked for, and stopped together."""

    def __init__(self, given: Urls, stack: contextlib.ExitStack) -> None:
        self._servers: dict[Path | None, Urls] = {None: given}
        self._databases: dict[tuple[Path | None, str], Urls] = {}
        self._stack = stack

    def get(self, binaries: Path | None) -> Urls:
        if binaries not in self._servers:
            started = self._stack.enter_context(postgres.running(binaries=binaries))
            self._servers[binaries] = Urls(started.service_url, started.owner_url)
        return self._servers[binaries]

    def _database(self, binaries: Path | None, use: str) -> Urls:
        if (binaries, use) not in self._databases:
            made = new_database(self.get(binaries))
            self._databases[binaries, use] = self._stack.enter_context(made)
        return self._databases[binaries, use]

    @contextlib.contextmanager
    def database(self, binaries: Path | None, root: Path) -> Iterator[Database]:
        """An empty database with a folder for its migrations."""
        (root / "sql").mkdir()
        database = Database(self._database(binaries, "tests"), self._database(binaries, "seals"), root)
        database.reset()
        yield database


@contextlib.contextmanager
def new_database(server: Urls) -> Iterator[Urls]:
    """An empty database; sessions of runners that were killed go with it."""
    name = f"ledger_test_{secrets.token_hex(6)}"
    with psycopg.connect(server.owner, autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield server.database(name)
        finally:
            with psycopg.connect(server.database(name).owner, autocommit=True) as last:
                empty(last)
            owner.execute(f"DROP DATABASE {name}")  # FORCE fails at an autovacuum, which this sends away
