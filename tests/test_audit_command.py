"""`python -m service.audit`: what it prints and its exit codes."""

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
from tests import live
from tests.client import Client, item
from tests.conftest import Urls, empty


@dataclass(frozen=True)
class Ended:
    """How a run of the command ended."""

    code: int
    printed: str
    told: str  # on stderr


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], urls: Urls) -> Run:
    """The command in this process, on the database of the tests."""

    def run_it(*arguments: str, url: str = urls.service) -> Ended:
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setattr(sys, "argv", ["audit", *arguments])
        try:
            code = command.main()
        except SystemExit as usage:
            code = int(usage.code or 0)
        return Ended(code, *capsys.readouterr())

    return run_it


@pytest.fixture(autouse=True)
def books(client: Client) -> None:
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.batch(item("t1", "world", "a", 100), item("t2", "a", "b", 30))


def test_says_clean(environment: dict[str, str]) -> None:
    """0 and one line, from a process of its own under the service's role."""
    process = subprocess.run(
        [sys.executable, "-m", "service.audit"], cwd=live.ROOT, env=environment, capture_output=True, text=True
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == "clean: 3 accounts, 2 transfers, 0 holds read; numbers 1 to 2\n"


def test_says_clean_in_json(run: Run) -> None:
    """One object with what was read and no errors."""
    ended = run("--json", "--since", "1")
    read = {"since": 1, "last_number": 2, "accounts": 3, "transfers": 1, "holds": 0}
    assert (ended.code, json.loads(ended.printed)) == (0, read | {"errors": []})


def test_names_errors(run: Run, owner: psycopg.Connection[Any]) -> None:
    """1, and each error with its check, account and number, as text and in JSON."""
    owner.execute("UPDATE account SET balance = 71 WHERE id = 'a'")
    owner.execute("UPDATE transfer SET from_balance = -99 WHERE number = 1")
    text, as_json = run(), run("--json")
    empty(owner)
    assert (text.code, as_json.code) == (1, 1)
    assert text.printed.splitlines() == [
        "balances: account world: number 1: the balance is -99, the entries make -100",
        "balances: account a: the balance is 71, the entries make 70",
        "balances: account world: the balance is -100, the entries make -99",
        "currencies: the balances in EUR sum to 1",
        "4 errors, at most 10 of each check: 3 accounts, 2 transfers, 0 holds read; numbers 1 to 2",
    ]
    errors = json.loads(as_json.printed)["errors"]
    assert [(error["check"], error["account"], error["number"]) for error in errors] == [
        ("balances", "world", 1),
        ("balances", "a", None),
        ("balances", "world", None),
        ("currencies", None, None),
    ]


def test_shows_progress_on_a_terminal_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which check runs, n of m, on stderr."""
    assert run().told == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = run().told.splitlines()
    assert (len(shown), shown[0]) == (len(audit.CHECKS), f"1 of {len(audit.CHECKS)}: balances")


@pytest.mark.parametrize("arguments", [["--since", "x"], ["--since", "-1"], ["--since", "9" * 19], ["--all"]])
def test_a_wrong_command_line(run: Run, arguments: list[str]) -> None:
    """2, and the usage."""
    ended = run(*arguments)
    assert (ended.code, ended.told.splitlines()[0]) == (
        2,
        "usage: python -m service.audit [-h] [--json] [--since NUMBER]",
    )


@pytest.mark.parametrize("url", ["", "postgresql://ledger:hunter2@[host"])
def test_without_a_database_url(run: Run, url: str) -> None:
    """78, and one line that says what to set, without what was set."""
    assert run(url=url) == Ended(78, "", "set DATABASE_URL to postgresql://USER:PASSWORD@HOST:5432/DATABASE\n")


def test_a_database_that_is_not_there(run: Run, new_database: Callable[[], AbstractContextManager[Urls]]) -> None:
    """69, and one line: nothing listens there, or the database has no books."""
    with new_database() as without_books:
        for url in (f"postgresql://ledger:hunter2@127.0.0.1:{live.free_port()}/ledger", without_books.service):
            ended = run("--json", url=url)
            assert (ended.code, ended.printed, len(ended.told.splitlines())) == (69, "", 1)
            assert "the books could not be read" in ended.told
            assert "hunter2" not in ended.told
