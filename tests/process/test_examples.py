"""The programs of examples/ with a real service that is stopped or killed meanwhile."""

import ast
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from dev.run import TOKEN
from examples import client, follow
from examples.client import Declined, Ledger
from service.contract import LIMITS
from tests.faults.hammer.network import link_to, to_port
from tests.faults.hammer.system import children, send_signal
from tests.support import broken, live
from tests.support.live import ROOT, Live
from tests.support.scripted import LOST, problem, reply, scripted
from tests.support.threads import Call
from tests.support.waiting import LIMIT_SECONDS, wait_until

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
CLIENT, FOLLOW = ROOT / "examples/client.py", ROOT / "examples/follow.py"
LINES = 200  # an example has fewer: it is read and copied
LOSE_EVERY = 5  # one of so many pieces of responses is lost
TRANSFERS = 20  # before and after a restart: several responses are lost
FEW, MANY, READ = 5, 60, 10  # transfers that are printed before, in the page of, and read until the kill
LARGE = {
    str(number): "x" * LIMITS.metadata_value_characters for number in range(10)
}  # MANY need more than a pipe holds
RESTARTS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])


class Server:
    """The service on one port. It can be restarted."""

    def __init__(self, environment: dict[str, str], port: int, printed: IO[bytes]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._environment = environment | {"PORT": str(port)}
        self._printed = printed
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self._process = live.start(["service"], self._environment, self._printed)
        wait_until(Live(self._process, self._printed, self.url).is_ready, "the service is ready")

    def stop(self, number: int) -> None:
        """Send the signal. As when a container is killed, SIGKILL also ends the worker."""
        workers = children(self._process.pid) if number == signal.SIGKILL else []
        send_signal([self._process.pid, *workers], number)
        self._process.wait(LIMIT_SECONDS)


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[Server]:
    """A service with the accounts `world` and `user`."""
    with live.reserved_port() as port, tempfile.TemporaryFile() as printed:
        server = Server(environment, port, printed)
        try:
            with connected(server.url) as ledger:
                ledger.open("world", "EUR", min_balance=None)
                ledger.open("user", "EUR")
            yield server
        finally:
            server.stop(signal.SIGKILL)


@contextlib.contextmanager
def connected(url: str) -> Iterator[Ledger]:
    """The client of examples/, with the time limit of the tests."""
    ledger = Ledger(url, TOKEN, seconds=LIMIT_SECONDS)
    with contextlib.closing(ledger.connection):
        yield ledger


def post_while_restarting(server: Server, number: int) -> list[str]:
    """Post while responses are lost and the service is restarted. Returns the ids whose calls have succeeded."""
    posted: list[str] = []
    stopped = threading.Event()
    pieces = itertools.count(1)
    with link_to(to_port(server.port)) as link, connected(f"http://127.0.0.1:{link.port}") as ledger:
        link.loses = lambda data: next(pieces) % LOSE_EVERY == 0

        def post() -> None:
            while not stopped.is_set():
                posted.append(ledger.post(f"pay_{len(posted)}", "world", "user", 100, "EUR")["id"])

        posting = Call(post)
        wait_until(lambda: len(posted) >= TRANSFERS, "transfers are posted before the restart")
        server.stop(number)
        server.start()
        wait_until(lambda: len(posted) >= 2 * TRANSFERS, "transfers are posted after the restart")
        stopped.set()
        posting.result()
    return posted


def read_feed(server: Server) -> list[str]:
    """The ids of all posted transfers. The balance is their sum."""
    with connected(server.url) as ledger:
        ids = [transfer["id"] for transfer in ledger.transfers()]
        assert ledger.get("accounts", "user")["balance"] == 100 * len(ids)
    return ids


@RESTARTS
def test_each_call_moves_money_once(server: Server, number: int) -> None:
    """Responses are lost and the service is restarted, and each id is posted once: none is missing, none is twice."""
    assert post_while_restarting(server, number) == read_feed(server)


def test_a_client_that_retries_with_a_new_id_is_found(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """This build is broken on purpose, and moves money twice."""
    new_id = 'f"{target}{backoff}" if backoff > FIRST_BACKOFF_SECONDS else target'
    broken.build(monkeypatch, Ledger._call, "attempt(method, target", f"attempt(method, {new_id}")
    assert len(post_while_restarting(server, signal.SIGTERM)) < len(read_feed(server))


def test_the_client_has_a_call_for_each_kind_of_write(server: Server) -> None:
    """Accounts, transfers, holds, captures, reversals, releases and batches."""
    with connected(server.url) as ledger:
        assert ledger.post("pay", "world", "user", 1000, "EUR", reference="order_1")["number"] == 1
        assert ledger.hold("auth", "user", "world", 600, "EUR", metadata={"a": "b"})["status"] == "open"
        assert ledger.capture("cap", "auth", amount=500)["from_balance"] == 500
        assert ledger.reverse("back", "cap")["to_balance"] == 1000
        ledger.hold("auth_2", "user", "world", 1, "EUR")
        assert ledger.release("auth_2")["status"] == "released"
        items = [{"account": {"id": "new", "currency": "EUR"}}, {"release": {"id": "unknown"}}]
        assert [result["status"] for result in ledger.batch(items, atomic=False)] == [201, 404]
        with pytest.raises(Declined) as caught:
            ledger.post("pay_2", "user", "world", 1001, "EUR")
        assert (caught.value.slug, caught.value.problem["available"]) == ("insufficient-funds", 1000)
        assert ledger.get("transfers", "pay_2")["status"] == "declined"
        assert ledger.get("holds", "auth")["captured_by"] == "cap"


def test_the_client_follows_pages(server: Server) -> None:
    """The lists of accounts, transfers, entries and open holds continue after the end of a page."""
    with connected(server.url) as ledger:
        for number in range(1, 6):
            ledger.post(f"pay_{number}", "world", "user", 100, "EUR", reference=f"order_{number % 2}")
            ledger.hold(f"auth_{number}", "user", "world", 1, "EUR")
        assert [row["id"] for row in ledger.accounts(limit=1)] == ["user", "world"]
        assert [row["number"] for row in ledger.transfers(limit=2, after=1)] == [2, 3, 4, 5]
        assert [row["number"] for row in ledger.transfers(limit=2, reference="order_1")] == [1, 3, 5]
        assert [row["number"] for row in ledger.entries("user", limit=2)] == [1, 2, 3, 4, 5]
        assert [row["number"] for row in ledger.entries("user", limit=2, order="desc")] == [5, 4, 3, 2, 1]
        assert [row["id"] for row in ledger.holds("user", limit=2)] == [f"auth_{number}" for number in range(1, 6)]


def test_the_client_runs_as_a_program(server: Server) -> None:
    """It moves money and prints the transfer. A second run moves nothing, and prints the same."""
    first, second = (
        subprocess.run([sys.executable, CLIENT], env=variables(server.url), check=True, stdout=subprocess.PIPE).stdout
        for _ in range(2)
    )
    assert first == second
    assert json.loads(first)["to_balance"] == 1250
    with connected(server.url) as ledger:
        assert ledger.get("accounts", "example:user")["balance"] == 1250


def variables(url: str) -> dict[str, str]:
    """The environment of an example."""
    return {"LEDGER_URL": url, "LEDGER_TOKEN": TOKEN}


@contextlib.contextmanager
def following(url: str, file: Path, program: Path, stdout: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """The program follows the feed during the block."""
    with subprocess.Popen([sys.executable, program, file], env=variables(url), stdout=stdout) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_number(file: Path, number: int) -> None:
    """Wait until the file has this number."""
    wait_until(lambda: file.exists() and file.read_text() == f"{number}\n", f"the number {number} is written")


def follow_to_the_end(url: str, file: Path, program: Path, number: int) -> list[int]:
    """Follow until the file has this number, then send SIGTERM. Returns the numbers that were printed."""
    with tempfile.TemporaryFile() as printed:
        with following(url, file, program, printed) as process:
            wait_for_number(file, number)
            process.terminate()
            assert process.wait(LIMIT_SECONDS) == 0
        printed.seek(0)
        return [json.loads(line)["number"] for line in printed]


def follow_and_kill(server: Server, file: Path, program: Path) -> list[int]:
    """Kill the program between two lines of a page, and start it again. Returns the numbers that were read."""
    pay = [{"transfer": movement(number)} for number in range(FEW + MANY)]
    with following(server.url, file, program, subprocess.PIPE) as process, connected(server.url) as ledger:
        ledger.batch(pay[:FEW], atomic=True)
        numbers = read_numbers(process, FEW)
        wait_for_number(file, FEW)
        ledger.batch(pay[FEW:], atomic=True)
        numbers += read_numbers(process, READ)
        process.kill()
        ledger.batch([{"transfer": movement(FEW + MANY)}], atomic=True)
    return numbers + follow_to_the_end(server.url, file, program, FEW + MANY + 1)


def movement(number: int) -> dict[str, Any]:
    """A transfer that is large."""
    return {"id": f"pay_{number}", "from": "world", "to": "user", "amount": 1, "currency": "EUR", "metadata": LARGE}


def read_numbers(process: "subprocess.Popen[bytes]", count: int) -> list[int]:
    """The numbers in the next lines of the pipe. The process waits when the pipe is full."""
    lines = process.stdout
    assert lines, "bug: stdout is not a pipe"
    return Call(lambda: [json.loads(lines.readline())["number"] for _ in range(count)]).result()


def test_a_killed_follower_misses_no_transfer(server: Server, tmp_path: Path) -> None:
    """After kill -9 between two lines, the next process starts with the transfer after the number in the file."""
    before, after = range(1, FEW + READ + 1), range(FEW + 1, FEW + MANY + 2)
    assert follow_and_kill(server, tmp_path / "number", FOLLOW) == [*before, *after]


def test_a_follower_that_writes_the_number_first_is_found(server: Server, tmp_path: Path) -> None:
    """This build is broken on purpose, and loses the transfers that were not printed before the kill."""
    source, deliver = FOLLOW.read_text("utf-8"), "            deliver(transfers)\n"
    save = "            save(file, number)\n"
    program = tmp_path / "follow.py"
    program.write_text(source.replace(deliver, "").replace(save, save + deliver), "utf-8")
    before, after = range(1, FEW + READ + 1), [FEW + MANY + 1]
    assert follow_and_kill(server, tmp_path / "number", program) == [*before, *after]


@RESTARTS
def test_a_follower_survives_a_restart_of_the_service(server: Server, tmp_path: Path, number: int) -> None:
    """It prints each transfer once, in order, and SIGTERM ends it with exit code 0."""
    file = tmp_path / "number"
    follower = Call(lambda: follow_to_the_end(server.url, file, FOLLOW, 2 * FEW))
    with connected(server.url) as ledger:
        for each in range(2 * FEW):
            ledger.post(f"pay_{each}", "world", "user", 1, "EUR")
            if each == FEW:
                server.stop(number)
                server.start()
    assert follower.result() == [*range(1, 2 * FEW + 1)]


@pytest.mark.parametrize(
    ("response", "seconds"),
    [
        pytest.param(LOST, follow.POLL_SECONDS, id="lost connection"),
        pytest.param(b"?\r\n\r\n", follow.POLL_SECONDS, id="not HTTP"),
        pytest.param(reply(200, "<html>"), follow.POLL_SECONDS, id="not JSON"),
        pytest.param(reply(502, "<html>"), follow.POLL_SECONDS, id="gateway"),
        pytest.param(reply(503, "<html>", Retry_After="7"), 7, id="Retry-After"),
        pytest.param(problem("internal-error", 500), follow.POLL_SECONDS, id="internal error"),
        pytest.param(reply(200, {"transfers": []}), follow.POLL_SECONDS, id="end of the feed"),
    ],
)
def test_a_follower_waits_if_there_is_no_page(monkeypatch: pytest.MonkeyPatch, response: bytes, seconds: float) -> None:
    """At the end of the feed, after an error of the ledger or of a gateway, and as long as Retry-After says."""
    with scripted(response) as ledger:
        for name, value in variables(ledger.url).items():
            monkeypatch.setenv(name, value)
        assert follow.read_page(3) == ([], seconds)
    assert ledger.requests == [(f"GET /v1/transfers?after=3&limit={LIMITS.page_max} HTTP/1.1", b"")]


def test_a_refused_follower_ends(tmp_path: Path) -> None:
    """If the ledger refuses the token, the exit code is 1."""
    with scripted(problem("unauthorized", 401)) as ledger:
        done = subprocess.run(
            [sys.executable, FOLLOW, tmp_path / "number"],
            env=variables(ledger.url),
            capture_output=True,
            timeout=LIMIT_SECONDS,
        )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"unauthorized" in done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_can_be_copied(path: Path) -> None:
    """It imports only the standard library, is valid for Python 3.11, and is short."""
    text = path.read_text("utf-8")
    nodes = list(ast.walk(ast.parse(text, feature_version=(3, 11))))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names
    assert len(text.splitlines()) < LINES


def test_the_limits_of_the_examples_are_those_of_the_contract() -> None:
    """The timeout for a response is twice the deadline of a request, and a page has the greatest size."""
    assert client.RESPONSE_SECONDS == follow.RESPONSE_SECONDS == 2 * LIMITS.request_deadline_seconds
    assert LIMITS.page_max == follow.PAGE_ROWS
