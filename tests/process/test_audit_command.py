"""`python -m service.audit`: its output and its exit codes."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from service import audit as command
from service.ledger import audit
from tests.support import live
from tests.support.client import Client, item
from tests.support.ledger import Urls, empty
from tests.support.waiting import LIMIT_SECONDS

USAGE = "usage: python -m service.audit [-h] [--json] [--since NUMBER]"


@dataclass(frozen=True)
class Completed:
    """The exit code and the output of a run."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Completed]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], urls: Urls) -> Run:
    """Run the command in this process, by default on the database of the tests."""

    def run_command(*arguments: str, url: str = urls.service) -> Completed:
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setattr(sys, "argv", ["audit", *arguments])
        try:
            code = command.main()
        except SystemExit as usage:
            code = int(usage.code or 0)
        return Completed(code, *capsys.readouterr())

    return run_command


@pytest.fixture(autouse=True)
def two_transfers(client: Client) -> None:
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.batch(item("t1", "world", "a", 100), item("t2", "a", "b", 30))


def test_a_clean_ledger_prints_one_line(environment: dict[str, str]) -> None:
    """The exit code is 0. The command runs in its own process, under the role of the service."""
    process = subprocess.run(
        [sys.executable, "-m", "service.audit"],
        cwd=live.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == "clean: 3 accounts, 2 transfers, 0 holds read; numbers 1 to 2\n"


def test_a_clean_ledger_prints_one_json_object(run: Run) -> None:
    """With --json, the object has the counts and an empty list of errors."""
    completed = run("--json", "--since", "1")
    counts = {"since": 1, "last_number": 2, "accounts": 3, "transfers": 1, "holds": 0}
    assert (completed.code, json.loads(completed.stdout)) == (0, counts | {"errors": []})


def test_each_error_has_its_check_account_and_number(run: Run, owner: psycopg.Connection[Any]) -> None:
    """The exit code is 1, as text and in JSON."""
    owner.execute("UPDATE account SET balance = 71 WHERE id = 'a'")
    owner.execute("UPDATE transfer SET from_balance = -99 WHERE number = 1")
    text, as_json = run(), run("--json")
    empty(owner)
    assert (text.code, as_json.code) == (1, 1)
    assert text.stdout.splitlines() == [
        "balances: account world: number 1: the balance is -99, expected -100",
        "balances: account a: the balance is 71, expected 70",
        "balances: account world: the balance is -100, expected -99",
        "currencies: the balances in EUR sum to 1",
        "4 errors, at most 10 of each check: 3 accounts, 2 transfers, 0 holds read; numbers 1 to 2",
    ]
    errors = json.loads(as_json.stdout)["errors"]
    assert [(error["check"], error["account"], error["number"]) for error in errors] == [
        ("balances", "world", 1),
        ("balances", "a", None),
        ("balances", "world", None),
        ("currencies", None, None),
    ]


def test_progress_is_printed_on_a_terminal_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of each check, and how many there are, go to stderr."""
    assert run().stderr == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    lines = run().stderr.splitlines()
    assert (len(lines), lines[0]) == (len(audit.CHECKS), f"1 of {len(audit.CHECKS)}: balances")


@pytest.mark.parametrize("arguments", [["--since", "x"], ["--since", "-1"], ["--since", "9" * 19], ["--all"]])
def test_an_invalid_command_line_prints_the_usage(run: Run, arguments: list[str]) -> None:
    """The exit code is 2."""
    completed = run(*arguments)
    assert (completed.code, completed.stderr.splitlines()[0]) == (2, USAGE)


@pytest.mark.parametrize("url", ["", "postgresql://ledger:hunter2@[host"])
def test_a_missing_or_invalid_database_url_is_refused(run: Run, url: str) -> None:
    """The exit code is 78; the one line names the variable and does not repeat its value."""
    expected = "set DATABASE_URL to postgresql://USER:PASSWORD@HOST:5432/DATABASE\n"
    assert run(url=url) == Completed(78, "", expected)


def test_an_unusable_database_is_reported(run: Run, new_database: Callable[[], AbstractContextManager[Urls]]) -> None:
    """The exit code is 69, with one line, if nothing listens there or if the database has no ledger."""
    with new_database() as without_ledger:
        for url in (f"postgresql://ledger:hunter2@127.0.0.1:{live.free_port()}/ledger", without_ledger.service):
            completed = run("--json", url=url)
            assert (completed.code, completed.stdout, len(completed.stderr.splitlines())) == (69, "", 1)
            assert "the ledger could not be read" in completed.stderr
            assert "hunter2" not in completed.stderr
