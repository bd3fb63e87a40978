"""Concurrent runners and killed runners: each migration is applied once and completely, or not at all."""

import contextlib
import multiprocessing
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from service.migrate import files, runner
from service.migrate.history import Applied, read_history
from tests.support import migrations
from tests.support.migrations import DROP_INDEX, INDEX, PEOPLE, TOWN, Database, refused
from tests.support.proxy import Proxy
from tests.support.waiting import LIMIT_SECONDS, wait_for, wait_until

# Processes are forked from a small server process, because pytest has threads.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.support.migrations"])


def exit_code(process: BaseProcess) -> int:
    process.join(LIMIT_SECONDS)
    assert process.exitcode is not None, f"the runner did not end within {LIMIT_SECONDS:.0f} s"
    return process.exitcode


def test_of_eight_runners_at_once_one_applies_the_files(each: Database) -> None:
    """Ten times: one runner applies all files, the others succeed and apply nothing, and each version has one row."""
    each.write(PEOPLE, TOWN, INDEX)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            applied = [len(done) for done in pool.map(lambda _: each.up(), range(8))]
            assert sorted(applied) == [0] * 7 + [3]
            assert each.state()[0] == [1, 2, 3]
            each.reset()


def test_a_runner_that_holds_the_lock_is_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 5 with the pid and the application name of the other session, and nothing changed."""
    monkeypatch.setattr(runner, "LOCK_WAIT_SECONDS", 0)
    database.write(PEOPLE)
    with database.connect(application_name="a runner") as other:
        other.execute("SELECT pg_advisory_lock(%s)", [runner.LOCK_KEY])
        before = database.contents()
        assert f"pid {other.info.backend_pid} a runner of user" in str(refused(database, files.LOCKED))
        assert database.contents() == before
    assert len(database.up()) == 1


def test_verify_waits_for_a_running_up(each: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another runner applies between the reads of the history and of the schema is not reported as drift."""
    columns = [f"SELECT pg_sleep(0.05);\nALTER TABLE person ADD COLUMN c{number} text;\n" for number in range(5)]
    each.write(PEOPLE, *columns)

    def read_slowly(connection: migrations.Connection) -> list[Applied]:
        rows = read_history(connection)
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.05)
        return rows

    monkeypatch.setattr(runner, "read_history", read_slowly)
    with ThreadPoolExecutor(1) as pool:
        applied = pool.submit(each.up)
        pending = {len(each.verify()) for _ in iter(applied.done, True)} | {len(each.verify())}
    assert (len(applied.result()), 0 in pending) == (6, True)


@pytest.mark.slow
@pytest.mark.slow
def test_up_completes_what_any_killed_runner_left(database: Database) -> None:
    """A runner is killed before its first message to the server, the next one before its second message, and so on."""
    kill_and_complete(database, step=1)


def test_up_completes_what_a_killed_runner_left(each: Database) -> None:
    """The same at every fourth message, which is faster."""
    kill_and_complete(each, step=4)


def kill_and_complete(database: Database, step: int) -> None:
    """Kill runners, each `step` messages later than the one before, until one ends by itself."""
    database.write(PEOPLE, TOWN, INDEX, DROP_INDEX, "INSERT INTO person (name) VALUES ('x');\n")
    database.up()
    complete = database.state()
    number, code = 0, -signal.SIGKILL
    with proxy_to(database) as proxy:
        while code == -signal.SIGKILL:
            number += step
            database.reset()
            code = run_until_message(number, database, proxy)
            database.up()
            assert (database.state(), database.query("SELECT count(*) FROM person")) == (complete, 1)
    assert code == 0
    assert number > 30


@contextlib.contextmanager
def proxy_to(database: Database) -> Iterator[Proxy]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the path of a Unix socket has at most 103 bytes
        proxy = Proxy(Path(folder), database.urls.owner)
        try:
            yield proxy
        finally:
            proxy.close()


def run_until_message(number: int, database: Database, proxy: Proxy) -> int:
    """The exit code of a runner that is killed before its message of this number reaches the server."""
    process: BaseProcess = PROCESSES.Process(target=migrations.up, args=(proxy.url, database.sql))
    started = threading.Event()
    passed = 0

    def kill_at_number(data: bytes) -> bool:
        nonlocal passed
        passed += 1
        if passed == number:
            wait_for(started)  # before that, the pid is unknown
            process.kill()
        return passed == number

    proxy.cut_to_server, proxy.cuts = kill_at_number, 1
    process.start()
    started.set()
    return exit_code(process)


END_RUNNERS = """
    SELECT pg_terminate_backend(pid)
    FROM pg_locks
    JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND locktype = 'advisory' AND granted
"""


@pytest.mark.parametrize(
    ("content", "index"),
    [pytest.param(INDEX, "person_town", id="create"), pytest.param(DROP_INDEX, "person_name", id="drop")],
)
@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_an_interrupted_index_is_completed_by_the_next_up(each: Database, content: str, index: str, end: str) -> None:
    """CREATE or DROP INDEX CONCURRENTLY is interrupted while it waits for an old transaction."""
    each.write(PEOPLE, TOWN)
    each.up()
    each.write(content)
    is_valid = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{index}')"
    with each.connect() as old:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM person")
        process = PROCESSES.Process(target=migrations.up, args=(each.urls.owner, each.sql))
        process.start()
        wait_until(lambda: each.query(is_valid) is False, "the index is INVALID")
        if end == "terminate":
            each.execute(END_RUNNERS)
        else:
            process.kill()
        assert exit_code(process) != 0
        assert (each.state()[0], each.query(is_valid)) == ([1, 2], False)
    assert len(each.up()) == 1
    assert each.query(is_valid) is (True if content == INDEX else None)
    assert (each.state()[0], each.verify()) == ([1, 2, 3], [])
