"""Applies pending migrations: one runner at a time, each file in one transaction.

Before the first file, the live schema must be the one that the last migration left, so that manual changes are found.
Before each COMMIT, it must have the fingerprint of the checksum file. A file that cannot run in a transaction is one
statement about one index, which is dropped and built again, so that no incomplete state needs repair.
"""

import contextlib
import random
import time
from collections.abc import Sequence
from typing import Any

from psycopg import Connection, Error
from psycopg.errors import LockNotAvailable
from psycopg.sql import SQL, Identifier, Literal

from service import VERSION
from service.logs import log
from service.migrate import schema
from service.migrate.files import DRIFT, FAILED, INTERRUPTED, LOCKED, UNFIT, Migration, MigrationError, fingerprint
from service.migrate.history import FIX_LOCAL, create, read_history, reconcile

LOCK_KEY = 0x6C6564676572  # "ledger" in ASCII; an advisory lock is local to its database
LOCK_WAIT_SECONDS = 60.0
LOCK_POLL_SECONDS = 0.2  # polled, because waiting inside pg_advisory_lock deadlocks with CREATE INDEX CONCURRENTLY
TABLE_LOCK_TIMEOUT_MS = 500  # all reads of a table queue behind an ALTER TABLE that waits for its lock
TABLE_LOCK_ATTEMPTS = 10
TABLE_LOCK_PAUSE_SECONDS = 4.0  # the longest pause between two attempts; all attempts together take about 15 s
# PostgreSQL cancels an autovacuum for a lock request that waits longer than deadlock_timeout, 1 s by default.
AUTOVACUUM_LOCK_TIMEOUT_MS = 2000
OLDEST_MAJOR = 15

# Resets the session, so that neither the settings of the login nor the previous file affect a file or the text of the
# schema. The last line is for the transaction around this, if there is one.
SESSION = SQL("""
    RESET ROLE; RESET ALL; DISCARD TEMP;
    SET search_path = public; SET default_transaction_isolation = 'read committed'; SET client_encoding = 'UTF8';
    SET standard_conforming_strings = on; SET quote_all_identifiers = off; SET extra_float_digits = 1;
    SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; SET TIME ZONE 'UTC'; SET bytea_output = 'hex';
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name LIKE '%_timeout' AND context = 'user';
    SELECT set_config('lock_timeout', {}, true)
""").format(Literal(f"{TABLE_LOCK_TIMEOUT_MS}ms"))
_FIX_DRIFT = f"undo the change that the lines show, or write it as a migration if it should stay; {FIX_LOCAL}"


def up(connection: Connection[Any], files: Sequence[Migration]) -> list[Migration]:
    """Apply the pending migrations and return them. Raises MigrationError or psycopg.Error.

    `connection` needs the login of the owner and autocommit mode. Close it afterwards, which also releases the lock.
    """
    _prepare(connection)
    with connection.transaction():  # if the comparison fails, schema_migration is not created
        create(connection)
        pending = _compare(connection, files)
    for migration in pending:
        try:
            apply = _apply_without_transaction if migration.index else _apply_in_transaction
            duration_ms = apply(connection, migration)
        except Error as error:
            raise _migration_error(connection, migration, error) from error
        extra = {"event": "migration.applied", "migration": migration.name, "duration_ms": duration_ms}
        log.info("%s applied", migration.name, extra=extra)
    return pending


def verify(connection: Connection[Any], files: Sequence[Migration]) -> list[Migration]:
    """Compare files, history and live schema; returns the pending migrations. Writes nothing. Raises as `up` does."""
    _prepare(connection)
    return _compare(connection, files)


def _prepare(connection: Connection[Any]) -> None:
    """Check the connection, reset the session, and take the lock: changes by another runner would look like drift."""
    query = "SELECT pg_backend_pid(), current_setting('transaction_read_only') = 'on'"
    backend_pid, is_read_only = connection.execute(query).fetchone() or (0, False)
    for is_unfit, server in (
        (is_read_only, "a standby, or a database with default_transaction_read_only = on"),
        (backend_pid != connection.info.backend_pid, "a connection pooler, where a session lock is not safe"),
        (connection.info.server_version < OLDEST_MAJOR * 10000, f"a PostgreSQL older than {OLDEST_MAJOR}"),
    ):
        if is_unfit:
            fix = "set MIGRATE_DATABASE_URL to a direct connection to the primary, with the owner of the tables"
            raise MigrationError(UNFIT, f"this connection leads to {server}", fix)
    connection.execute(SESSION)
    until = time.monotonic() + LOCK_WAIT_SECONDS
    while connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_KEY]).fetchone() != (True,):
        if time.monotonic() > until:
            message = f"another runner held the lock for {LOCK_WAIT_SECONDS:.0f} s: {_holders(connection, 'advisory')}"
            raise MigrationError(LOCKED, message, "try again later, or SELECT pg_terminate_backend(PID)")
        time.sleep(random.uniform(0.5, 1.5) * LOCK_POLL_SECONDS)


def _holders(connection: Connection[Any], kind: str) -> str:
    """The other sessions that hold locks of this kind in this database, and on which tables, except system catalogs."""
    rows = connection.execute(
        """
        SELECT concat_ws(' ', 'pid', pid, nullif(application_name, ''),
            coalesce('of user ' || usename, 'an autovacuum worker'), state, 'since ' || state_change,
            'on ' || string_agg(DISTINCT pg_class.oid::regclass::text, ', '))
        FROM pg_stat_activity
        JOIN pg_locks USING (pid)
        LEFT JOIN pg_class ON pg_class.oid = relation AND relkind NOT IN ('i', 'I')
        WHERE granted AND locktype = %(kind)s AND coalesce(relation >= 16384, true)
            AND pid <> pg_backend_pid() AND datname = current_database()
        GROUP BY pid, application_name, usename, state, state_change
        """,
        {"kind": kind},
    ).fetchall()
    return "; ".join(session for (session,) in rows) or "the session that held it has ended"


def _compare(connection: Connection[Any], files: Sequence[Migration]) -> list[Migration]:
    """Compare files, history and live schema; returns the pending migrations. Raises MigrationError."""
    history, live = read_history(connection), schema.read(connection)
    try:
        pending = reconcile(files, history)
    except MigrationError as error:
        if len(history) == len(files):
            error.difference = schema.difference(files[-1].snapshot, live)
        raise
    expected = history[-1].schema if history else schema.major(live)
    unfinished = f"index {pending[0].index} " if pending else "none"  # an interrupted run may have left or dropped it
    if difference := [line for line in schema.difference(expected, live) if not line[2:].startswith(unfinished)]:
        raise MigrationError(DRIFT, "the live schema is not the one that the migrations left", _FIX_DRIFT, difference)
    if len(history) == len(files):
        _check_fingerprint(files[-1], live)
    return pending


def _check_fingerprint(migration: Migration, live: str) -> None:
    """Raise MigrationError if the live schema has another fingerprint than the checksum file has for this migration."""
    if migration.expected_fingerprint in (None, fingerprint(live)):
        return
    if schema.major(live) != f"PostgreSQL {migration.expected_major}":
        extra = {"event": "migration.unproven", "migration": migration.name}
        log.warning("schema not compared: its fingerprint is of PostgreSQL %d", migration.expected_major, extra=extra)
        return
    message = f"the schema after {migration.name} does not have the recorded fingerprint"
    raise MigrationError(DRIFT, message, _FIX_DRIFT, schema.difference(migration.snapshot, live))


def _apply_in_transaction(connection: Connection[Any], migration: Migration) -> int:
    """Apply a file in one transaction, and try again if it does not get a lock; returns the milliseconds.

    The file runs inside one DO … EXECUTE, where COMMIT and ROLLBACK fail. Deferred constraints are checked before the
    end of the DO, so that statement_timeout also limits them.
    """
    started_at = time.monotonic()
    body = SQL("BEGIN EXECUTE {}; SET CONSTRAINTS ALL IMMEDIATE; END").format(Literal(migration.statements))
    for attempt in range(TABLE_LOCK_ATTEMPTS):
        time.sleep(random.uniform(0, TABLE_LOCK_PAUSE_SECONDS) * attempt / TABLE_LOCK_ATTEMPTS)
        try:
            with connection.transaction():
                if attempt:
                    _interrupt_autovacuum(connection)
                connection.execute(SESSION)
                connection.execute("SELECT set_config('statement_timeout', %s, true)", [migration.statement_timeout])
                connection.execute(SQL("DO {}").format(Literal(body.as_string(connection))))
                return _record(connection, migration, started_at)
        except LockNotAvailable:
            holders = _holders(connection, "relation")
        extra = {"event": "migration.waits", "migration": migration.name, "attempt": attempt + 1}
        log.warning("%s needs a lock that other sessions hold: %s", migration.name, holders, extra=extra)
    message = f"{migration.name} did not get its lock in {TABLE_LOCK_ATTEMPTS} attempts, nothing changed: {holders}"
    fix = "run up again when they have ended; SELECT pg_terminate_backend(PID) ends one (an autovacuum: as superuser)"
    raise MigrationError(FAILED, message, fix)


def _interrupt_autovacuum(connection: Connection[Any]) -> None:
    """Wait for the lock of each running autovacuum, long enough that PostgreSQL cancels the autovacuum.

    TABLE_LOCK_TIMEOUT_MS is too short for that. Reads and writes do not queue behind this lock, and it keeps the next
    autovacuum from starting on the table until the transaction ends.
    """
    tables = connection.execute(
        """
        SELECT relname
        FROM pg_locks
        JOIN pg_class ON pg_class.oid = relation AND relnamespace = 'public'::regnamespace AND relkind = 'r'
        JOIN pg_database ON pg_database.oid = database AND datname = current_database()
        WHERE granted AND mode = 'ShareUpdateExclusiveLock' AND pg_has_role(relowner, 'USAGE')
        """
    ).fetchall()
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{AUTOVACUUM_LOCK_TIMEOUT_MS}ms"])
    for (table,) in tables:  # a manual VACUUM is not cancelled, but the file may not need this table
        with contextlib.suppress(LockNotAvailable), connection.transaction():
            connection.execute(SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(Identifier(table)))


def _apply_without_transaction(connection: Connection[Any], migration: Migration) -> int:
    """Drop the index, which an interrupted run may have left, and run the only statement; returns the milliseconds."""
    started_at = time.monotonic()
    connection.execute(SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(Identifier(str(migration.index))))
    connection.execute(SQL(migration.statements), prepare=True)  # a prepared statement is only one statement
    return _record(connection, migration, started_at)


def _record(connection: Connection[Any], migration: Migration, started_at: float) -> int:
    """Reset the session, check the schema and insert the row of schema_migration; returns the milliseconds."""
    connection.execute(SESSION)
    live = schema.read(connection)
    _check_fingerprint(migration, live)
    duration_ms = round((time.monotonic() - started_at) * 1000)
    connection.execute(
        """
        INSERT INTO schema_migration (version, name, checksum, duration_ms, app_version, min_code, schema)
        VALUES (%(version)s, %(name)s, %(checksum)s, %(duration_ms)s, %(app_version)s, %(contract_for)s, %(schema)s)
        """,
        {**vars(migration), "duration_ms": duration_ms, "app_version": VERSION, "schema": live},
    )
    return duration_ms


def _migration_error(connection: Connection[Any], migration: Migration, error: Error) -> MigrationError:
    """The error of a failed file: whether it was rolled back, and the server's message.

    The server's CONTEXT is left out, because it repeats the whole file.
    """
    end = "was interrupted" if migration.index else "was rolled back, nothing changed"
    end = "lost its connection; run up to see whether it was applied" if connection.closed else end
    parts = [error.diag.message_primary or str(error), error.diag.message_detail, error.diag.message_hint]
    if error.diag.internal_position and error.diag.internal_query == migration.statements:
        line = migration.statements.count("\n", 0, int(error.diag.internal_position) - 1) + 1
        parts.append(f"at line {line} of the file")
    message = f"{migration.name} failed and {end}: {'; '.join(part for part in parts if part)}"
    code = INTERRUPTED if migration.index else FAILED
    return MigrationError(code, message, "correct the cause, and run up again")
