"""`python -m service.export`: the snapshot that it reads, its failures, and its documentation."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from service import database, session
from service import export as command
from service.session import Connection
from tests.support.client import Client, item
from tests.support.export import export, run
from tests.support.ledger import Urls
from tests.support.live import ROOT
from tests.support.proxy import Proxy
from tests.support.waiting import LIMIT_SECONDS

PAGE = (ROOT / "docs" / "export.md").read_text("utf-8")


@pytest.fixture
def connection(urls: Urls) -> Iterator[Connection]:
    """A connection as the export uses it."""
    with session.connect(urls.service) as connection:
        session.configure(connection)
        with database.read_only_snapshot(connection):
            yield connection


def test_all_pages_are_of_one_snapshot(client: Client, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer posted during the export is on no page, and no row is missing or repeated."""
    monkeypatch.setattr(command, "PAGE_ROWS", 2)
    client.open("a", "b", "c", min_balance=None)
    client.batch(*(item(f"t{n}", "a", "b", 5) for n in range(5)))
    before = list(command.all_accounts(connection))
    client.move("late", "a", "b", 7)
    assert [transfer.id for transfer in command.all_transfers(connection)] == ["t0", "t1", "t2", "t3", "t4"]
    assert [account.id for account in before] == ["a", "b", "c"]
    assert list(command.all_accounts(connection)) == before


def test_the_snapshot_has_time_limits_and_is_read_only(connection: Connection) -> None:
    """The server ends the session of a process that is stopped, and the export cannot write."""
    timeouts = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
    assert connection.execute(timeouts).fetchone() == ("1h", "2min")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("UPDATE journal SET last_number = 9")


def test_a_closed_pipe_ends_the_export_without_a_message(environment: dict[str, str], client: Client) -> None:
    """So `| head` prints its lines and no error."""
    client.open("a", "b", min_balance=None)
    client.batch(*(item(f"t{n}", "a", "b", 1, metadata={"k": "v" * 200}) for n in range(500)))
    arguments = [sys.executable, "-m", "service.export"]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe) as process:
        assert process.stdout
        assert process.stdout.readline().startswith(b"number,id,")
        process.stdout.close()
        _, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, errors) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("url", "arguments", "code"),
    [
        pytest.param("", [], 78, id="no URL"),
        pytest.param("postgresql://u:hunter2@h/db?nope=1", [], 78, id="an invalid URL"),
        pytest.param("postgresql://u:hunter2@127.0.0.1:1/none", [], 69, id="no server"),
        pytest.param("postgresql://u@127.0.0.1:1/none", ["--format", "qif"], 2, id="an unknown format"),
    ],
)
def test_a_failure_has_an_exit_code_and_a_message(url: str, arguments: list[str], code: int) -> None:
    """The message is on stderr and does not contain the password; stdout is empty."""
    completed = run({"DATABASE_URL": url}, *arguments)
    assert (completed.returncode, completed.stdout, b"hunter2" in completed.stderr) == (code, b"", False)
    assert completed.stderr


def test_a_connection_lost_during_the_export_is_an_error(environment: dict[str, str], client: Client) -> None:
    """The exit code is 69 and the message says so; what was written before is kept."""
    client.open("a", "b", min_balance=None)
    for start in (0, 1000):
        client.batch(*(item(f"t{n}", "a", "b", 1) for n in range(start, start + 1000)))
    with (
        tempfile.TemporaryDirectory(prefix="export-", dir="/tmp") as folder,
        contextlib.closing(Proxy(Path(folder), environment["DATABASE_URL"])) as proxy,
    ):
        proxy.cut_to_client, proxy.cuts = lambda data: re.search(rb"t1[5-9]\d\d", data) is not None, 1
        completed = run({"DATABASE_URL": proxy.url})
    assert (completed.returncode, json.loads(completed.stderr)["event"]) == (69, "export.failed")
    assert 1000 <= len(completed.stdout.splitlines()) < 2000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error(environment: dict[str, str]) -> None:
    """The exit code is 1, so a truncated file is not taken for a complete one."""
    with open("/dev/full", "wb") as full:
        completed = run(environment, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (completed.returncode, b"No space left" in completed.stderr) == (1, True)


def test_every_exit_code_is_documented() -> None:
    """docs/export.md has the codes of the module's docstring."""
    codes = re.findall(r"[:·]\s([0-9]+) ", str(command.__doc__))
    assert re.findall(r"^\| ([0-9]+) \|", PAGE, re.MULTILINE) == codes


@pytest.mark.parametrize("tool", ["beancount", "hledger"])
def test_the_documented_example_is_real_output(environment: dict[str, str], client: Client, tool: str) -> None:
    """The example of docs/export.md is part of the output, except for the dates and times."""
    client.open("world", min_balance=None)
    client.open("user:42")
    client.move("pay_1", "world", "user:42", 1250, metadata={"order": "A-19"})
    (block,) = re.findall(rf"```{tool}\n(.*?)```", PAGE, re.DOTALL)
    assert without_dates(block) in without_dates(export(environment, tool))


def without_dates(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d\.\d{6}Z)?", "DATE", text)
