"""Locks of other sessions: `up` waits for them, does not block readers for long, and names the sessions."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from service.migrate import files, runner
from tests.support.migrations import PEOPLE, TOWN, Connection, Database, refused, superuser_url
from tests.support.waiting import join, wait_until

BUSY = """\
CREATE TABLE busy (id integer) WITH (
    autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_cost_delay = 100
);
INSERT INTO busy SELECT generate_series(1, 100000);
"""
AUTOVACUUM = """
    SELECT pid
    FROM pg_locks
    JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND relation = 'busy'::regclass AND mode = 'ShareUpdateExclusiveLock' AND granted
"""


@contextlib.contextmanager
def committing_after(seconds: float, connection: Connection) -> Iterator[None]:
    """The open transaction of the connection is committed so many seconds after the start of the block."""
    timer = threading.Timer(seconds, connection.execute, ["COMMIT"])
    timer.start()
    yield
    join(timer)


def test_readers_do_not_queue_behind_a_waiting_migration(each: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an old reader holds the table, a new read waits for at most one attempt; the error names the old reader."""
    each.write(PEOPLE)
    each.up()
    each.write(TOWN)
    monkeypatch.setattr(runner, "TABLE_LOCK_ATTEMPTS", 3)
    durations: list[float] = []
    done = threading.Event()

    def read() -> None:
        with each.connect() as connection:
            while not done.is_set():
                started_at = time.monotonic()
                connection.execute("SELECT count(*) FROM person")
                durations.append(time.monotonic() - started_at)

    with each.connect(application_name="an old report") as reader:
        reader.execute("BEGIN; SELECT FROM person")
        other = threading.Thread(target=read)
        other.start()
        before = each.contents()
        started_at = time.monotonic()
        try:
            error = refused(each, files.FAILED)
        finally:
            all_attempts = time.monotonic() - started_at
            done.set()
            join(other)
        assert f"pid {reader.info.backend_pid} an old report of user" in str(error)
        assert "on person" in str(error)
        assert "nothing changed" in str(error)
        assert each.contents() == before
    assert 0.3 < max(durations) < 0.6 * all_attempts  # a read did wait, but only for one of three attempts


def test_all_sessions_that_hold_locks_are_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has one entry for each session, with its pid, its name and the tables that it locks."""
    database.write(PEOPLE, "CREATE TABLE other (id integer); CREATE TABLE third (id integer);\n")
    database.up()
    database.write("ALTER TABLE third ADD COLUMN name text;\n")
    monkeypatch.setattr(runner, "TABLE_LOCK_ATTEMPTS", 1)
    with contextlib.ExitStack() as stack:
        for number, table in enumerate(["person"] * 3 + ["other"] * 3 + ["third"]):
            reader = stack.enter_context(database.connect(application_name=f"reader {number}"))
            reader.execute(f"BEGIN; SELECT FROM {table}; SELECT FROM adult".encode())
        pid = reader.info.backend_pid
        entries = str(refused(database, files.FAILED)).split("; ")
    assert len(entries) == 7
    assert [
        entry for entry in entries if f"pid {pid} reader 6 of" in entry and entry.endswith(" on adult, person, third")
    ]


def test_up_waits_until_a_reader_ends(each: Database, caplog: pytest.LogCaptureFixture) -> None:
    """`up` tries again, logs which session it waits for, and succeeds after that session has ended."""
    each.write(PEOPLE)
    each.up()
    each.write(TOWN)
    with each.connect(application_name="a report") as reader, caplog.at_level("INFO", "ledger"):
        reader.execute("BEGIN; SELECT FROM person")
        with committing_after(0.8, reader):
            assert len(each.up()) == 1
    assert caplog.messages[0].startswith("0002_b.sql needs a lock that other sessions hold: pid ")
    assert [vars(record)["event"] for record in caplog.records][-1] == "migration.applied"
    assert {vars(record).get("attempt", 0) for record in caplog.records} >= {0, 1}


def test_an_autovacuum_is_interrupted(each: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that would take minutes is named after the first attempt and cancelled in the second."""
    each.write(PEOPLE, BUSY)
    each.up()
    each.write("ALTER TABLE busy ADD COLUMN name text;\n")
    with psycopg.connect(superuser_url(each), autocommit=True) as superuser:
        superuser.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        try:
            superuser.execute("SELECT pg_reload_conf()")
            each.execute("DELETE FROM busy")
            wait_until(lambda: each.query(AUTOVACUUM) is not None, "an autovacuum of the table runs")
            monkeypatch.setattr(runner, "TABLE_LOCK_ATTEMPTS", 1)
            error = refused(each, files.FAILED)
            assert re.search(r"pid [0-9]+ an autovacuum worker .*on .*busy", str(error))
            assert "an autovacuum: as superuser" in error.fix
            monkeypatch.setattr(runner, "TABLE_LOCK_ATTEMPTS", 10)
            wait_until(lambda: each.query(AUTOVACUUM) is not None, "an autovacuum of the table runs")
            assert len(each.up()) == 1
        finally:
            superuser.execute("ALTER SYSTEM RESET autovacuum_naptime")
            superuser.execute("SELECT pg_reload_conf()")


def test_a_manual_vacuum_of_another_table_does_not_block_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the same lock as an autovacuum and is not cancelled, but the file does not need its table."""
    monkeypatch.setattr(runner, "AUTOVACUUM_LOCK_TIMEOUT_MS", 50)
    database.write(PEOPLE, "CREATE TABLE other (id integer);\n")
    database.up()
    database.write("ALTER TABLE other ADD COLUMN name text;\n")
    with database.connect() as vacuum, database.connect() as reader:
        vacuum.execute("BEGIN; LOCK TABLE person IN SHARE UPDATE EXCLUSIVE MODE")
        reader.execute("BEGIN; SELECT FROM other")
        with committing_after(0.8, reader):
            assert len(database.up()) == 1
