"""Brings a database forward: one runner at a time, one transaction for each file."""

import random
import time
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.sql import SQL, Literal

from service import VERSION
from service.logs import log
from service.migrate.history import Migration, read_files, read_history, reconcile

LOCK_KEY = 0x6C6564676572  # "ledger"; one key for all runners of one database
LOCK_WAIT_SECONDS = 60.0
LOCK_POLL_SECONDS = 0.2  # polled, because waiting inside pg_advisory_lock deadlocks with CREATE INDEX CONCURRENTLY


class Locked(Exception):
    """Another runner held the lock all the time."""


class Failed(Exception):
    """A migration failed and was rolled back whole."""


def up(connection: Connection[Any]) -> list[Migration]:
    """Apply what is pending and return it.

    `connection` is the owner's, in autocommit mode; close it afterwards, which also gives the lock back. Raises
    IntegrityError before anything is touched, Locked, or Failed.
    """
    files = read_files()
    reconcile(files, read_history(connection))
    _lock(connection)
    _create_history(connection)
    pending = reconcile(files, read_history(connection))
    for migration in pending:
        _apply(connection, migration)
    return pending


def _lock(connection: Connection[Any]) -> None:
    until = time.monotonic() + LOCK_WAIT_SECONDS
    while connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_KEY]).fetchone() != (True,):
        if time.monotonic() > until:
            raise Locked(f"another runner held the lock for {LOCK_WAIT_SECONDS:.0f} s: wait for it, then run up again")
        time.sleep(random.uniform(0.5, 1.5) * LOCK_POLL_SECONDS)


def _create_history(connection: Connection[Any]) -> None:
    """One row is one migration as it was applied. The service's role may read it, which sql/0001 grants."""
    connection.execute(
        """
        CREATE TABLE IF NOT EXISTS schema_migration (
            version integer NOT NULL CONSTRAINT schema_migration_pkey PRIMARY KEY,
            name text NOT NULL,
            checksum text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            duration_ms integer NOT NULL,
            applied_by text NOT NULL DEFAULT current_user,
            app_version text NOT NULL
        )
        """
    )


def _apply(connection: Connection[Any], migration: Migration) -> None:
    """The file runs inside one DO … EXECUTE, where COMMIT and ROLLBACK fail: a file cannot end its own transaction."""
    started_at = time.monotonic()
    body = SQL("BEGIN EXECUTE {}; END").format(Literal(migration.statements)).as_string(connection)
    try:
        connection.execute("BEGIN")
        connection.execute(SQL("DO {}").format(Literal(body)))
        connection.execute(
            """
            INSERT INTO schema_migration (version, name, checksum, duration_ms, app_version)
            VALUES (%(version)s, %(name)s, %(checksum)s, %(duration_ms)s, %(app_version)s)
            """,
            {
                "version": migration.version,
                "name": migration.name,
                "checksum": migration.checksum,
                "duration_ms": round((time.monotonic() - started_at) * 1000),
                "app_version": VERSION,
            },
        )
        tag = connection.execute("COMMIT").statusmessage
    except psycopg.Error as error:
        connection.rollback()
        raise Failed(f"{migration.name} failed and was rolled back, nothing changed: {error}") from error
    if tag != "COMMIT":
        raise Failed(f"{migration.name} was not committed, nothing changed: run up again")
    log.info("%s applied", migration.name, extra={"event": "migration.applied", "migration": migration.name})
