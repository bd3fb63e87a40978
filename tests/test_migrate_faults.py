"""Whatever dies or stands in the way, a migration is applied whole or not at all, and `up` again goes on."""

import contextlib
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

import psycopg
import pytest

from service.migrate import files, runner
from service.migrate.files import MigrationError
from service.migrate.history import Applied, read_history
from tests import migrations
from tests.migrations import DROP_INDEX, INDEX, PEOPLE, TOWN, Database, superuser
from tests.proxy import Proxy

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.migrations"])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here waits for long."""
    monkeypatch.setattr(runner, "LOCK_POLL_SECONDS", 0.02)
    monkeypatch.setattr(runner, "TABLE_LOCK_PAUSE_SECONDS", 0.2)


@pytest.fixture
def wire(each: Database) -> Iterator[Proxy]:
    """A way to the database on which messages can be counted."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        proxy = Proxy(Path(folder), each.urls.owner)
        yield proxy
        proxy.close()


def failed(database: Database, code: int) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        database.up()
    assert caught.value.exit_code == code
    assert caught.value.fix
    return caught.value


def eventually(holds: Callable[[], object]) -> None:
    """It is so within half a minute, which no healthy run needs."""
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_eight_runners_at_once(each: Database) -> None:
    """Ten times: one of them applies all files, the others find nothing to do, and each version has one row."""
    each.write(PEOPLE, TOWN, INDEX)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            applied = [len(done) for done in pool.map(lambda _: each.up(), range(8))]
            assert sorted(applied) == [0] * 7 + [3]
            assert each.state()[0] == [1, 2, 3]
            each.reset()


def test_kill_9_at_every_step(each: Database, wire: Proxy, request: pytest.FixtureRequest) -> None:
    """The process is killed before each of its messages to the server in turn; the next `up` ends as if undisturbed."""
    step = 1 if "[server]" in request.node.name else 4  # for older ones now and then is enough
    each.write(PEOPLE, TOWN, INDEX, DROP_INDEX, "INSERT INTO person (name) VALUES ('x');\n")
    each.up()
    whole = each.state()
    number, exit_code = 0, -signal.SIGKILL
    while exit_code == -signal.SIGKILL:
        number += step
        each.reset()
        exit_code = killed_before(number, each, wire)
        each.up()
        assert (each.state(), each.ask("SELECT count(*) FROM person")) == (whole, 1)
    assert exit_code == 0
    assert number > 30


def killed_before(number: int, database: Database, wire: Proxy) -> int:
    """The exit code of a runner which is killed when its message of this number is about to go on."""
    process: BaseProcess = PROCESSES.Process(target=migrations.up, args=(wire.url, database.sql))
    passed = 0

    def watch(data: bytes) -> bool:
        nonlocal passed
        passed += 1
        if passed == number:
            os.kill(int(process.pid or 0), signal.SIGKILL)
        return passed == number

    wire.cut_to_server, wire.cuts = watch, 1
    process.start()
    process.join()
    return process.exitcode or 0


@pytest.mark.parametrize(
    "statement",
    ["COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT here", "END", "ABORT", "START TRANSACTION", "COMMIT AND CHAIN",
     "PREPARE TRANSACTION 'x'", "DO 'BEGIN COMMIT; END'", "CALL ending()", "SELECT 1 / 0", "no such thing",
     "INSERT INTO deferred VALUES (1)", "VACUUM", "CREATE INDEX CONCURRENTLY ON three (id)"],
)  # fmt: skip
def test_a_failing_file_leaves_nothing(database: Database, statement: str) -> None:
    """8: what would end the transaction fails as a mistake does, first or last in the file, and all is as before."""
    nothing_stays(database, statement)


def test_a_failing_file_leaves_nothing_on_any_postgresql(each: Database) -> None:
    """The commands that end a transaction fail on every one."""
    for statement in ("COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT here", "SELECT 1 / 0"):
        nothing_stays(each, statement)
        each.reset()
        each.written.clear()
        for path in each.sql.iterdir():
            path.unlink()


def nothing_stays(database: Database, statement: str) -> None:
    prelude = "CREATE PROCEDURE ending() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';\n"
    prelude += "CREATE TABLE deferred (id bigint REFERENCES person DEFERRABLE INITIALLY DEFERRED);\n"
    database.write(PEOPLE, prelude)
    database.up()
    before = database.everything()
    for content in (f"{statement};", f"CREATE TABLE three (id integer);\n{statement};\nDROP VIEW adult;"):
        (database.sql / "0003_c.sql").write_text(f"{content}\nCREATE TABLE four (id integer);\n{statement};\n")
        with database.connect() as connection, pytest.raises(MigrationError) as caught:
            runner.up(connection, files.read_files(database.sql, unsealed=True))
        assert (caught.value.exit_code, "nothing changed" in str(caught.value)) == (files.FAILED, True)
        assert database.everything() == before


def test_the_reason_is_told_without_the_file(each: Database) -> None:
    """The server repeats a long file in the context of each error; who reads it wants the reason and the line."""
    each.write(PEOPLE)
    each.up()
    many = "INSERT INTO person (name) VALUES ('Köln');\n" * 1000
    for statement, words in (
        ("SELECT nothing FROM person;", ['column "nothing" does not exist', "at line 1001 of the file"]),
        ("SELECT 1 / 0;", ["division by zero"]),
        ("DO 'BEGIN PERFORM 1 +; END';", ["syntax error"]),
        ("DO $$ BEGIN RAISE 'one' USING DETAIL = 'two', HINT = 'three'; END $$;", ["one; two; three"]),
    ):
        (each.sql / "0002_b.sql").write_text(f"{many}{statement}\n")
        with each.connect() as connection, pytest.raises(MigrationError) as caught:
            runner.up(connection, files.read_files(each.sql, unsealed=True))
        assert str(caught.value).startswith("0002_b.sql failed and was rolled back, nothing changed: ")
        assert all(word in str(caught.value) for word in words)
        assert len(str(caught.value)) < 300
        assert ("line" in str(caught.value)) == ("line" in words[-1])


def test_a_deferred_constraint_has_the_time_of_its_file(database: Database) -> None:
    """It is checked before the end, while the file's limit holds, and not in a COMMIT without one."""
    slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(9); RETURN NULL; END';\n"
    slow += "CREATE CONSTRAINT TRIGGER person_slow AFTER INSERT ON person DEFERRABLE INITIALLY DEFERRED"
    database.write(PEOPLE, f"{slow} FOR EACH ROW EXECUTE FUNCTION slow();\n")
    database.up()
    database.write("-- migrate: statement-timeout=100ms\nINSERT INTO person (name) VALUES ('x');\n", seal=False)
    with database.connect() as connection, pytest.raises(MigrationError, match="statement timeout"):
        runner.up(connection, files.read_files(database.sql, unsealed=True))


def test_verify_waits_for_up(each: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another runner has applied since the history was read is no drift."""
    each.write(PEOPLE, *[f"SELECT pg_sleep(0.05);\nALTER TABLE person ADD COLUMN c{n} text;\n" for n in range(5)])

    def slowly(connection: migrations.Connection) -> list[Applied]:
        rows = read_history(connection)
        time.sleep(0.05 * (threading.current_thread() is threading.main_thread()))
        return rows

    monkeypatch.setattr(runner, "read_history", slowly)
    with ThreadPoolExecutor(1) as pool:
        applied = pool.submit(each.up)
        left = {len(each.verify()) for _ in iter(applied.done, True)} | {len(each.verify())}
    assert (len(applied.result()), 0 in left) == (6, True)


def test_a_file_has_the_time_that_it_asks_for(each: Database) -> None:
    """8 when its statement-timeout is over; a longer one is enough, and without one it is a minute."""
    each.write(PEOPLE)
    each.up()
    for limit, code in (("100ms", files.FAILED), ("1h", 0)):
        (each.sql / "0002_b.sql").write_text(f"-- migrate: statement-timeout={limit}\nSELECT pg_sleep(0.3);\n")
        each.seal() if not code else None
        pending = files.read_files(each.sql, unsealed=True)
        with each.connect() as connection:
            if code:
                with pytest.raises(MigrationError, match="statement timeout") as caught:
                    runner.up(connection, pending)
                assert caught.value.exit_code == code
            else:
                runner.up(connection, pending)
    assert each.state()[0] == [1, 2]
    assert pending[0].statement_timeout == "1min"


def test_readers_do_not_queue_behind_a_waiting_migration(each: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an old reader holds the table, others read it within a second, and the last word names who holds it."""
    each.write(PEOPLE)
    each.up()
    each.write(TOWN)
    monkeypatch.setattr(runner, "TABLE_LOCK_ATTEMPTS", 2)
    waited: list[float] = []
    done = threading.Event()

    def read() -> None:
        with each.connect() as connection:
            while not done.is_set():
                started_at = time.monotonic()
                connection.execute("SELECT count(*) FROM person")
                waited.append(time.monotonic() - started_at)

    with each.connect(application_name="an old report") as reader:
        reader.execute("BEGIN; SELECT FROM person")
        other = threading.Thread(target=read)
        other.start()
        before = each.everything()
        error = failed(each, files.FAILED)
        done.set()
        other.join()
        assert f"pid {reader.info.backend_pid} an old report of user" in str(error)
        assert "on person" in str(error)
        assert "nothing changed" in str(error)
        assert each.everything() == before
    assert 0.3 < max(waited) < 1  # some did wait for the migration, and the migration did not wait for long


def test_whoever_stands_in_the_way_is_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many others hold locks on other tables, and for how much longer."""
    database.write(PEOPLE, "CREATE TABLE other (id integer); CREATE TABLE third (id integer);\n")
    database.up()
    database.write("ALTER TABLE third ADD COLUMN name text;\n")
    monkeypatch.setattr(runner, "TABLE_LOCK_ATTEMPTS", 1)
    with contextlib.ExitStack() as stack:
        for number, table in enumerate(["person"] * 3 + ["other"] * 3 + ["third"]):
            reader = stack.enter_context(database.connect(application_name=f"reader {number}"))
            reader.execute(f"BEGIN; SELECT FROM {table}; SELECT FROM adult".encode())
        pid = reader.info.backend_pid
        told = str(failed(database, files.FAILED)).split("; ")
    assert len(told) == 7
    assert [line for line in told if f"pid {pid} reader 6 of" in line and line.endswith(" on adult, person, third")]


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
    WHERE relation = 'busy'::regclass AND mode = 'ShareUpdateExclusiveLock' AND granted
"""


def test_an_autovacuum_gives_way(each: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that would take minutes is named at the first attempt and interrupted at the second."""
    each.write(PEOPLE, BUSY)
    each.up()
    each.write("ALTER TABLE busy ADD COLUMN name text;\n")
    with psycopg.connect(superuser(each), autocommit=True) as server:
        server.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        try:
            server.execute("SELECT pg_reload_conf()")
            each.execute("DELETE FROM busy")
            eventually(lambda: each.ask(AUTOVACUUM))
            monkeypatch.setattr(runner, "TABLE_LOCK_ATTEMPTS", 1)
            error = failed(each, files.FAILED)
            assert re.search(r"pid [0-9]+ an autovacuum worker .*on .*busy", str(error))
            assert "an autovacuum as a superuser" in error.fix
            monkeypatch.setattr(runner, "TABLE_LOCK_ATTEMPTS", 10)
            eventually(lambda: each.ask(AUTOVACUUM))
            assert len(each.up()) == 1
        finally:
            server.execute("ALTER SYSTEM RESET autovacuum_naptime")
            server.execute("SELECT pg_reload_conf()")


def test_a_vacuum_by_hand_elsewhere_does_not_matter(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the same lock as an autovacuum and does not give way; a file that leaves its table alone is applied."""
    monkeypatch.setattr(runner, "AUTOVACUUM_LOCK_TIMEOUT_MS", 50)
    database.write(PEOPLE, "CREATE TABLE other (id integer);\n")
    database.up()
    database.write("ALTER TABLE other ADD COLUMN name text;\n")
    with database.connect() as vacuum, database.connect() as reader:
        vacuum.execute("BEGIN; LOCK TABLE person IN SHARE UPDATE EXCLUSIVE MODE")
        reader.execute("BEGIN; SELECT FROM other")
        threading.Timer(0.8, reader.execute, ["COMMIT"]).start()
        assert len(database.up()) == 1


def test_a_reader_that_ends_is_waited_for(
    each: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`up` tries again, says whom it waits for, and succeeds when the reader has ended."""
    each.write(PEOPLE)
    each.up()
    each.write(TOWN)
    with each.connect(application_name="a report") as reader, caplog.at_level("INFO", "ledger"):
        reader.execute("BEGIN; SELECT FROM person")
        threading.Timer(0.8, reader.execute, ["COMMIT"]).start()
        assert len(each.up()) == 1
    assert caplog.messages[0].startswith("0002_b.sql needs a lock that others hold: pid ")
    assert [vars(record)["event"] for record in caplog.records][-1] == "migration.applied"
    assert {vars(record).get("attempt", 0) for record in caplog.records} >= {0, 1}


@pytest.mark.parametrize(("content", "index"), [(INDEX, "person_town"), (DROP_INDEX, "person_name")])
@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_an_interrupted_index_is_begun_anew(each: Database, content: str, index: str, how: str) -> None:
    """CREATE and DROP INDEX CONCURRENTLY, cut off while they wait for an old transaction: `up` again finishes them."""
    each.write(PEOPLE, TOWN)
    each.up()
    each.write(content)
    with each.connect() as old:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM person")
        process = PROCESSES.Process(target=migrations.up, args=(each.urls.owner, each.sql))
        process.start()
        invalid = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{index}')"
        eventually(lambda: each.ask(invalid) is False)
        if how == "terminate":
            each.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        else:
            process.kill()
        process.join()
        assert process.exitcode != 0
        assert (each.state()[0], each.ask(invalid)) == ([1, 2], False)
    assert len(each.up()) == 1
    assert each.ask(invalid) is (True if content == INDEX else None)
    assert (each.state()[0], each.verify()) == ([1, 2, 3], [])


def test_an_index_over_duplicates(each: Database) -> None:
    """9 with the reason, each time that it is tried, until the duplicate is gone; then it is built."""
    each.write(PEOPLE, TOWN)
    each.up()
    each.execute("INSERT INTO person (town) VALUES ('Köln'), ('Köln')")
    each.write(INDEX)
    for _ in range(2):
        error = failed(each, files.INTERRUPTED)
        assert "(town)=(Köln) is duplicated" in str(error)
        assert not each.ask("SELECT indisvalid FROM pg_index WHERE indexrelid = 'person_town'::regclass")
    each.execute("DELETE FROM person WHERE id = 1")
    assert len(each.up()) == 1
    assert each.verify() == []


def test_an_index_of_that_name_made_by_hand(each: Database) -> None:
    """It goes, whatever it was, and the one that the seal promises is made."""
    each.write(PEOPLE, TOWN, INDEX)
    each.up()
    whole = each.state()
    for index in ("CREATE INDEX person_town ON person (mood)", "CREATE UNIQUE INDEX person_town ON person (town)"):
        each.execute(f"DROP INDEX person_town; DELETE FROM schema_migration WHERE version = 3; {index}")
        assert len(each.up()) == 1
        assert (each.state(), each.verify()) == (whole, [])


def test_an_index_of_that_name_on_a_postgresql_of_another_major(each: Database) -> None:
    """There the seal proves nothing about the result, and yet it is the index that the file makes."""
    each.write(PEOPLE, TOWN, INDEX)
    seal, snapshot = each.sql / files.SEAL, each.sql / files.SNAPSHOT
    snapshot.write_text(snapshot.read_text().replace("PostgreSQL ", "PostgreSQL 9", 1))
    other = files.fingerprint(snapshot.read_text().rstrip("\n"))
    seal.write_text(re.sub(r" ([0-9]+) [0-9a-f]{64}\n", rf" 9\1 {other}\n", seal.read_text()))
    each.up()
    before = each.state()
    each.execute("DROP INDEX person_town; DELETE FROM schema_migration WHERE version = 3")
    each.execute("CREATE INDEX person_town ON person (mood)")
    assert len(each.up()) == 1
    assert each.state() == before


def test_an_index_and_another_change_by_hand(each: Database) -> None:
    """An index that may be half-made hides nothing else: 3 before it is begun."""
    each.write(PEOPLE, TOWN)
    each.up()
    each.execute("CREATE INDEX person_town_too ON person (town)")
    each.write(INDEX)
    before = each.everything()
    assert len(failed(each, files.DRIFT).difference) == 1
    assert each.everything() == before


def test_a_connection_that_is_lost(database: Database) -> None:
    """8 when the server ends the session in the middle of a file: the end is not known here, and `up` shows it."""
    database.write(PEOPLE, "SELECT pg_terminate_backend(pg_backend_pid());\n", seal=False)
    with (
        database.connect() as connection,
        pytest.raises(MigrationError, match="was cut off, up will show its end") as e,
    ):
        runner.up(connection, files.read_files(database.sql, unsealed=True))
    assert e.value.exit_code == files.FAILED
    assert database.state()[0] == [1]


def test_a_runner_that_holds_the_lock_is_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """5, with its pid and name, and nothing was touched."""
    monkeypatch.setattr(runner, "LOCK_WAIT_SECONDS", 0)
    database.write(PEOPLE)
    with psycopg.connect(database.urls.owner, autocommit=True, application_name="a runner") as other:
        other.execute("SELECT pg_advisory_lock(%s)", [runner.LOCK_KEY])
        before = database.everything()
        assert f"pid {other.info.backend_pid} a runner of user" in str(failed(database, files.LOCKED))
        assert database.everything() == before
    assert len(database.up()) == 1
