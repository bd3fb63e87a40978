"""Brings a database forward: one runner at a time, one transaction for each file, and proof of the result.

The schema is compared before anything is done with what the last migration left, so that no change by hand goes unseen,
and before each COMMIT with what the seal promises. A file that cannot run in a transaction is one statement about one
index, which is dropped and made again: there is no half-done state.
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
from service.migrate.history import LOCAL, create, read_history, reconcile

LOCK_KEY = 0x6C6564676572  # "ledger"; one key for all runners of one database
LOCK_WAIT_SECONDS = 60.0
LOCK_POLL_SECONDS = 0.2  # polled, because waiting inside pg_advisory_lock deadlocks with CREATE INDEX CONCURRENTLY
TABLE_LOCK_TIMEOUT_MS = 500  # everybody's reads queue behind an ALTER TABLE that waits
TABLE_LOCK_ATTEMPTS = 10
AUTOVACUUM_LOCK_TIMEOUT_MS = 2000  # an autovacuum gives way to who waits for longer than deadlock_timeout, 1 s
TABLE_LOCK_PAUSE_SECONDS = 4.0  # the longest between two of them: all together take about a quarter of a minute
OLDEST_MAJOR = 15

# What files and the text of the schema must not depend on, whatever the login or the file before has set or left. The
# last line holds for the rest of a transaction, if this runs in one.
SESSION = SQL("""
    RESET ROLE; RESET ALL; DISCARD TEMP;
    SET search_path = public; SET default_transaction_isolation = 'read committed'; SET client_encoding = 'UTF8';
    SET standard_conforming_strings = on; SET quote_all_identifiers = off; SET extra_float_digits = 1;
    SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; SET TIME ZONE 'UTC'; SET bytea_output = 'hex';
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name LIKE '%_timeout' AND context = 'user';
    SELECT set_config('lock_timeout', {}, true)
""").format(Literal(f"{TABLE_LOCK_TIMEOUT_MS}ms"))
_UNDO = f"undo by hand what the lines show, or write it as a migration if it should stay; {LOCAL}"


def up(connection: Connection[Any], files: Sequence[Migration]) -> list[Migration]:
    """Apply what is pending and return it. Raises MigrationError or psycopg.Error.

    `connection` is the owner's, in autocommit mode; close it afterwards, which also gives the lock back.
    """
    _prepare(connection)
    with connection.transaction():  # so that a database which is refused does not even get the table
        create(connection)
        pending = _compare(connection, files)
    for migration in pending:
        try:
            duration_ms = (_apply_alone if migration.index else _apply)(connection, migration)
        except Error as error:
            raise _stopped(connection, migration, error) from error
        extra = {"event": "migration.applied", "migration": migration.name, "duration_ms": duration_ms}
        log.info("%s applied", migration.name, extra=extra)
    return pending


def verify(connection: Connection[Any], files: Sequence[Migration]) -> list[Migration]:
    """Compare files, history and live schema, and return what is pending. Touches nothing. Raises as `up` does."""
    _prepare(connection)
    return _compare(connection, files)


def _prepare(connection: Connection[Any]) -> None:
    """Make the session ours, if it is one, and wait for other runners: what they do meanwhile would look like drift."""
    asked = "SELECT pg_backend_pid(), current_setting('transaction_read_only') = 'on'"
    backend_pid, is_read_only = connection.execute(asked).fetchone() or (0, False)
    for wrong, is_so in (
        ("a standby, or default_transaction_read_only is on", is_read_only),
        ("a pooler, where the lock would not be ours alone", backend_pid != connection.info.backend_pid),
        (f"a PostgreSQL older than {OLDEST_MAJOR}", connection.info.server_version < OLDEST_MAJOR * 10000),
    ):
        if is_so:
            fix = "set MIGRATE_DATABASE_URL to a direct connection to the primary, as the owner of the tables"
            raise MigrationError(UNFIT, f"this connection leads to {wrong}", fix)
    connection.execute(SESSION)
    until = time.monotonic() + LOCK_WAIT_SECONDS
    while connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_KEY]).fetchone() != (True,):
        if time.monotonic() > until:
            wrong = f"another runner held the lock for {LOCK_WAIT_SECONDS:.0f} s: {_holders(connection, 'advisory')}"
            raise MigrationError(LOCKED, wrong, "run this again when it is done, or SELECT pg_terminate_backend(PID)")
        time.sleep(random.uniform(0.5, 1.5) * LOCK_POLL_SECONDS)


def _holders(connection: Connection[Any], kind: str) -> str:
    """Who holds locks of this kind in this database, other than on catalogs, and on what."""
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
    return "; ".join(who for (who,) in rows) or "whoever it was is gone"


def _compare(connection: Connection[Any], files: Sequence[Migration]) -> list[Migration]:
    history, live = read_history(connection), schema.read(connection)
    try:
        pending = reconcile(files, history)
    except MigrationError as error:
        if len(history) == len(files):
            error.difference = schema.difference(files[-1].snapshot, live)
        raise
    expected = history[-1].schema if history else schema.major(live)
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
    wrong = f"the schema after {migration.name} is not what its seal says"
    raise MigrationError(DRIFT, wrong, _UNDO, schema.difference(migration.snapshot, live))


def _apply(connection: Connection[Any], migration: Migration) -> int:
    """Apply a file in one transaction, if need be after those who hold a lock; the milliseconds that it took.

    It runs inside one DO … EXECUTE, where COMMIT and ROLLBACK fail, and deferred constraints are checked in its time.
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
        log.warning("%s needs a lock that others hold: %s", migration.name, holders, extra=extra)
    wrong = f"{migration.name} did not get its lock in {TABLE_LOCK_ATTEMPTS} attempts, nothing changed: {holders}"
    fix = "run up again when they are done; SELECT pg_terminate_backend(PID) ends one, an autovacuum as a superuser"
    raise MigrationError(FAILED, wrong, fix)


def _interrupt_autovacuum(connection: Connection[Any]) -> None:
    """Wait for the autovacuum of any table until it gives way, which it never does within half a second.

    Neither readers nor writers wait behind this lock, and it keeps the next autovacuum away until the file is done.
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
    for (table,) in tables:  # a VACUUM by hand does not give way, but the file may not need this table
        with contextlib.suppress(LockNotAvailable), connection.transaction():
            connection.execute(SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(Identifier(table)))


def _apply_alone(connection: Connection[Any], migration: Migration) -> int:
    """Run the one statement of a file outside a transaction, after what an earlier try left; its milliseconds."""
    started_at = time.monotonic()
    connection.execute(SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(Identifier(str(migration.index))))
    connection.execute(SQL(migration.statements), prepare=True)  # prepared, which admits no second statement
    return _record(connection, migration, started_at)


def _record(connection: Connection[Any], migration: Migration, started_at: float) -> int:
    """Prove the schema and write the row of the history, in a session that the file has left no trace in."""
    connection.execute(SESSION)
    live = schema.read(connection)
    _prove(migration, live)
    duration_ms = round((time.monotonic() - started_at) * 1000)
    connection.execute(
        """
        INSERT INTO schema_migration (version, name, checksum, duration_ms, app_version, min_code, schema)
        VALUES (%(version)s, %(name)s, %(checksum)s, %(duration_ms)s, %(app_version)s, %(contract_for)s, %(schema)s)
        """,
        {**vars(migration), "duration_ms": duration_ms, "app_version": VERSION, "schema": live},
    )
    return duration_ms


def _stopped(connection: Connection[Any], migration: Migration, error: Error) -> MigrationError:
    """What became of the file, and the server's words without their CONTEXT, which repeats the file."""
    kept = "stopped on its way" if migration.index else "was rolled back, nothing changed"
    end, told = "was cut off, up will show its end" if connection.closed else kept, error.diag
    words = [told.message_primary or str(error), told.message_detail, told.message_hint]
    if told.internal_position and told.internal_query == migration.statements:
        line = migration.statements.count("\n", 0, int(told.internal_position) - 1) + 1
        words.append(f"at line {line} of the file")
    wrong = f"{migration.name} failed and {end}: {'; '.join(word for word in words if word)}"
    code = INTERRUPTED if migration.index else FAILED
    return MigrationError(code, wrong, "mend what the message names, and run up again")
