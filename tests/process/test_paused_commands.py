"""A command that is paused holds no snapshot for long, so VACUUM can remove the old versions of rows."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from service import audit, database
from tests.support.client import Client, item
from tests.support.live import ROOT
from tests.support.waiting import LIMIT_SECONDS, wait_until

# The export with other time limits: `python -c EXPORT IDLE_SECONDS SECONDS --format FORMAT`.
EXPORT = """
import sys
from service import database, export
database.SNAPSHOT_IDLE_SECONDS, database.SNAPSHOT_SECONDS = int(sys.argv.pop(1)), float(sys.argv.pop(1))
sys.exit(export.main())
"""
TRANSFERS = 1000
# Sessions that have read the accounts in a transaction that has not ended.
SNAPSHOTS = "SELECT count(*) FROM pg_locks WHERE relation = 'account'::regclass AND pid <> pg_backend_pid()"


@pytest.fixture(autouse=True)
def transfers(client: Client) -> None:
    """TRANSFERS transfers. Their export has more than the 64 KiB of a pipe, so it waits for its reader."""
    client.open("a", "b", min_balance=None)
    assert client.batch(*(item(f"t{n}", metadata={"k": "v" * 200}) for n in range(TRANSFERS))).status == 200


@contextlib.contextmanager
def exporting(
    environment: dict[str, str], format: str, idle_seconds: int = 1, seconds: float = LIMIT_SECONDS
) -> Iterator["subprocess.Popen[bytes]"]:
    """A running export whose output is not read."""
    arguments = [sys.executable, "-c", EXPORT, str(idle_seconds), str(seconds), "--format", format]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def count(owner: psycopg.Connection[Any], statement: str) -> int:
    row = owner.execute(statement.encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("is_stopped", [False, True], ids=["output not read", "process stopped"])
def test_a_paused_export_loses_its_snapshot(
    environment: dict[str, str], owner: psycopg.Connection[Any], is_stopped: bool
) -> None:
    """The server ends the session, and the export ends with 75 and a message as soon as it goes on."""
    with exporting(environment, "hledger") as process:
        wait_until(lambda: count(owner, SNAPSHOTS) == 1, "the export waits for its reader")
        if is_stopped:
            process.send_signal(signal.SIGSTOP)
        wait_until(lambda: count(owner, SNAPSHOTS) == 0, "the server has ended the session")
        process.send_signal(signal.SIGCONT)
        output, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, json.loads(errors)["event"]) == (75, "export.failed"), errors
    assert "read too slowly" in json.loads(errors)["message"]
    assert b" * balance" not in output


def test_without_the_time_limit_a_paused_export_keeps_its_snapshot(
    environment: dict[str, str], owner: psycopg.Connection[Any]
) -> None:
    """Broken on purpose: PostgreSQL takes 0 as no limit."""
    with exporting(environment, "hledger", idle_seconds=0) as process:
        wait_until(lambda: count(owner, SNAPSHOTS) == 1, "the export waits for its reader")
        owner.execute("SELECT pg_sleep(2)")  # twice the limit of the other tests
        assert count(owner, SNAPSHOTS) == 1
        _, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, errors) == (0, b"")


def test_an_export_that_is_read_slowly_ends(environment: dict[str, str], owner: psycopg.Connection[Any]) -> None:
    """The snapshot has a limit of its own, also if the reader never pauses for long."""
    with exporting(environment, "beancount", idle_seconds=60, seconds=1.0) as process:
        wait_until(lambda: count(owner, SNAPSHOTS) == 1, "the export waits for its reader")
        owner.execute("SELECT pg_sleep(1)")
        _, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 75, errors


def test_a_paused_csv_export_holds_no_snapshot(
    environment: dict[str, str], client: Client, owner: psycopg.Connection[Any]
) -> None:
    """It goes on after any pause, and ends with the transfer that was the last one at its start."""
    with exporting(environment, "csv") as process:
        assert process.stdout
        assert process.stdout.readline().startswith(b"number,id,")
        client.move("late")
        owner.execute("SELECT pg_sleep(2)")  # twice the limit of a snapshot
        assert count(owner, SNAPSHOTS) == 0
        output, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, errors) == (0, b"")
    assert len(output.splitlines()) == TRANSFERS


def test_a_paused_audit_loses_its_snapshot(
    environment: dict[str, str],
    owner: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The audit ends with 75 and a message as soon as it goes on."""
    monkeypatch.setattr(database, "SNAPSHOT_IDLE_SECONDS", 1)
    monkeypatch.setenv("DATABASE_URL", environment["DATABASE_URL"])
    monkeypatch.setattr(sys, "argv", ["audit"])

    def pause(check: str) -> None:
        if check == "held":
            wait_until(lambda: count(owner, SNAPSHOTS) == 0, "the server has ended the session")

    monkeypatch.setattr(audit, "_print_progress", pause)
    assert audit.main() == 75
    assert "the audit was paused" in capsys.readouterr().err
