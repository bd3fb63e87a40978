"""Brings a database forward: one runner at a time, one transaction for each file, and proof of the result.

The schema is compared twice: before anything is done with what the last migration left, so that no change by hand goes
unseen; and before each COMMIT with what the seal promises. There is no half-done state: a file that cannot run in a
transaction holds one statement about one index, which is dropped and made again.
"""

import random
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.sql import SQL, Identifier, Literal

from service import VERSION
from service.logs import log
from service.migrate import schema
from service.migrate.files import DRIFT, FAILED, INTERRUPTED, LOCKED, UNFIT, Migration, MigrationError, fingerprint
from service.migrate.history import LOCAL, create, read_history, reconcile

LOCK_KEY = 0x6C6564676572  # "ledger"; one key for all runners of one database
LOCK_WAIT_SECONDS = 60.0
LOCK_POLL_SECONDS = 0.2  # polled, because waiting inside pg_advisory_lock deadlocks with CREATE INDEX CONCURRENTLY
TABLE_LOCK_TIMEOUT_MS = 500  # everybody's reads queue behind an ALTER TABLE that waits
TABLE_LOCK_ATTEMPTS = 10
TABLE_LOCK_PAUSE_SECONDS = 4.0  # the longest between two of them: all together take about a quarter of a minute
OLDEST_MAJOR = 15

# What files and the text of the schema must not depend on, whatever the login or the file before has set.
SESSION = """
    RESET ALL;
    SET search_path = public;
    SET default_transaction_isolation = 'read committed';
    SET lock_timeout = 0;
    SET statement_timeout = 0;
    SET quote_all_identifiers = off;
    SET DateStyle = 'ISO, MDY';
    SET TIME ZONE 'UTC'
"""
_UNDO = f"undo by hand what the lines show, or write it as a migration if it should stay; {LOCAL}"


def up(connection: Connection[Any], files: Sequence[Migration]) -> list[Migration]:
    """Apply what is pending and return it. Raises MigrationError or psycopg.Error.

    `connection` is the owner's, in autocommit mode; close it afterwards, which also gives the lock back.
    """
    _prepare(connection)
    _lock(connection)
    with connection.transaction():  # so that a database which is refused does not even get the table
        create(connection)
        pending = _compare(connection, files)
    for migration in pending:
        started_at = time.monotonic()
        apply = _apply_alone if migration.index else _apply
        apply(connection, migration, started_at)
        extra = {"event": "migration.applied", "migration": migration.name}
        log.info("%s applied", migration.name, extra={**extra, "duration_ms": _milliseconds_since(started_at)})
    return pending


def verify(connection: Connection[Any], files: Sequence[Migration]) -> list[Migration]:
    """Compare files, history and live schema, and return what is pending. Touches nothing. Raises MigrationError."""
    _prepare(connection)
    return _compare(connection, files)


def _prepare(connection: Connection[Any]) -> None:
    """Make the session ours, if it is a session."""
    row = connection.execute("SELECT pg_backend_pid(), pg_is_in_recovery()").fetchone() or (0, False)
    for wrong, is_so in (
        ("a standby, which cannot be written to", row[1]),
        ("a pooler, where the lock would not be ours alone", row[0] != connection.info.backend_pid),
        (f"a PostgreSQL older than {OLDEST_MAJOR}", connection.info.server_version < OLDEST_MAJOR * 10000),
    ):
        if is_so:
            fix = "set MIGRATE_DATABASE_URL to a direct connection to the primary, as the owner of the tables"
            raise MigrationError(UNFIT, f"this connection leads to {wrong}", fix)
    connection.execute(SESSION)


def _lock(connection: Connection[Any]) -> None:
    until = time.monotonic() + LOCK_WAIT_SECONDS
    while connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_KEY]).fetchone() != (True,):
        if time.monotonic() > until:
            wrong = f"another runner held the lock for {LOCK_WAIT_SECONDS:.0f} s: {_holders(connection, 'advisory')}"
            raise MigrationError(LOCKED, wrong, "run up again when it is done, or SELECT pg_terminate_backend(PID)")
        time.sleep(random.uniform(0.5, 1.5) * LOCK_POLL_SECONDS)


def _holders(connection: Connection[Any], kind: str) -> str:
    """Who holds locks of this kind in this database, other than on catalogs, the oldest transaction first."""
    rows = connection.execute(
        """
        SELECT concat_ws(' ', 'pid', pid, application_name, 'of user', usename, state, 'since ' || state_change)
        FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND datname = current_database() AND pid IN (
            SELECT pid FROM pg_locks WHERE granted AND locktype = %(kind)s AND coalesce(relation >= 16384, true)
        )
        ORDER BY xact_start
        LIMIT 3
        """,
        {"kind": kind},
    ).fetchall()
    return "; ".join(who for (who,) in rows) or "whoever it was is gone"


def _compare(connection: Connection[Any], files: Sequence[Migration]) -> list[Migration]:
    history, live = read_history(connection), schema.read(connection)
    try:
        pending = reconcile(files, history)
    except MigrationError as error:
        if len(history) == len(files) and (snapshot := files[-1].snapshot):
            error.difference = schema.difference(snapshot, live)
        raise
    expected = history[-1].schema if history else schema.major(live)
    if expected and schema.major(expected) == schema.major(live):
        unfinished = f"index {pending[0].index} " if pending else "none"  # an earlier try may have left or dropped it
        if difference := [line for line in schema.difference(expected, live) if not line[2:].startswith(unfinished)]:
            raise MigrationError(DRIFT, "the live schema is not what the migrations left", _UNDO, difference)
    if len(history) == len(files):
        _prove(files[-1], live)
    return pending


def _prove(migration: Migration, live: str) -> None:
    """The schema after a migration is the one that was sealed with it."""
    if migration.sealed_fingerprint in (None, fingerprint(live)):
        return
    if schema.major(live) != f"PostgreSQL {migration.sealed_major}":
        extra = {"event": "migration.unproven", "migration": migration.name}
        log.warning("not compared: sealed with PostgreSQL %d", migration.sealed_major, extra=extra)
        return
    difference = schema.difference(migration.snapshot, live) if migration.snapshot else []
    raise MigrationError(DRIFT, f"the schema after {migration.name} is not what its seal says", _UNDO, difference)


def _apply(connection: Connection[Any], migration: Migration, started_at: float) -> None:
    """Apply a file in one transaction; when another session holds a lock that it needs, again after a pause."""
    for attempt in range(TABLE_LOCK_ATTEMPTS):
        time.sleep(random.uniform(0, TABLE_LOCK_PAUSE_SECONDS) * attempt / TABLE_LOCK_ATTEMPTS)
        try:
            return _apply_once(connection, migration, started_at)
        except psycopg.errors.LockNotAvailable:
            holders = _holders(connection, "relation")
        except psycopg.Error as error:
            end = "was cut off, up will show its end" if connection.closed else "was rolled back, nothing changed"
            wrong = f"{migration.name} failed and {end}: {error}"
            raise MigrationError(FAILED, wrong, "mend what the message names, and run up again") from error
        extra = {"event": "migration.waits", "migration": migration.name, "attempt": attempt + 1}
        log.warning("%s needs a lock that others hold: %s", migration.name, holders, extra=extra)
    wrong = f"{migration.name} did not get its lock in {TABLE_LOCK_ATTEMPTS} attempts, nothing changed: {holders}"
    raise MigrationError(FAILED, wrong, "run up again when they are done, or SELECT pg_terminate_backend(PID)")


def _apply_once(connection: Connection[Any], migration: Migration, started_at: float) -> None:
    """The file runs inside one DO … EXECUTE, where COMMIT and ROLLBACK fail: a file cannot end its own transaction."""
    body = SQL("BEGIN EXECUTE {}; END").format(Literal(migration.statements)).as_string(connection)
    connection.execute(SESSION)
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{TABLE_LOCK_TIMEOUT_MS}ms"])
        connection.execute("SELECT set_config('statement_timeout', %s, true)", [migration.statement_timeout])
        connection.execute(SQL("DO {}").format(Literal(body)))
        _record(connection, migration, started_at)


def _apply_alone(connection: Connection[Any], migration: Migration, started_at: float) -> None:
    """Run the one statement of a file outside a transaction; what an earlier try left INVALID goes first."""
    connection.execute(SESSION)
    invalid = "SELECT FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid"
    try:
        if connection.execute(invalid, [migration.index]).fetchone() is not None:
            connection.execute(SQL("DROP INDEX CONCURRENTLY {}").format(Identifier(str(migration.index))))
        connection.execute(SQL(migration.statements), prepare=True)  # prepared, which admits no second statement
    except psycopg.Error as error:
        wrong = f"{migration.name} stopped on its way: {error}"
        raise MigrationError(
            INTERRUPTED, wrong, "mend what the message names and run up again: it begins anew"
        ) from error
    _record(connection, migration, started_at)


def _record(connection: Connection[Any], migration: Migration, started_at: float) -> None:
    """Prove the schema and write the row of the history."""
    live = schema.read(connection)
    _prove(migration, live)
    connection.execute(
        """
        INSERT INTO schema_migration (version, name, checksum, duration_ms, app_version, min_code, schema)
        VALUES (%(version)s, %(name)s, %(checksum)s, %(duration_ms)s, %(app_version)s, %(contract_for)s, %(schema)s)
        """,
        {**vars(migration), "duration_ms": _milliseconds_since(started_at), "app_version": VERSION, "schema": live},
    )


def _milliseconds_since(started_at: float) -> int:
    return round((time.monotonic() - started_at) * 1000)
