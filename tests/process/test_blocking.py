"""Nothing that blocks in the operating system stops the requests: name resolution, and a stdout that is not read."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support import live
from tests.support.live import Live
from tests.support.threads import Call
from tests.support.waiting import LIMIT_SECONDS, attempts, wait_until

BROKEN = "tests.support.broken_service"
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 3.0  # a broken build does not respond, however long the test waits
UNREAD_REQUESTS = 1000  # their lines do not fit into a pipe and the queue of `keep_few_lines`
REQUEST = "GET /v1/transfers HTTP/1.1\r\nHost: x\r\nX-Request-Id: flood-{:06}\r\n\r\n"  # without a token: 401


def responds(service: Live, seconds: float) -> bool:
    """Whether /health responds within the time."""
    try:
        urllib.request.urlopen(f"{service.url}/health", timeout=seconds).close()
    except TimeoutError:
        return False
    return True


def probe_until(service: Live, entered: Path) -> bool:
    """Request /ready until a probe has resolved the name: the service probes the database at most once a second."""
    for _ in attempts("a probe resolves the name"):
        is_ready = service.is_ready()
        if entered.exists():
            return is_ready
        time.sleep(POLL_SECONDS)
    raise AssertionError("bug: attempts() does not end")


@pytest.mark.parametrize(
    ("faults", "is_healthy"), [([], True), (["resolve_while_others_wait"], False)], ids=["service", "broken build"]
)
def test_a_name_server_that_does_not_answer_stops_no_request(
    environment: dict[str, str], tmp_path: Path, faults: list[str], is_healthy: bool
) -> None:
    """While a new connection to the database waits for the address of a host, other requests are served."""
    hang = tmp_path / "hang"
    host = conninfo_to_dict(environment["DATABASE_URL"]).get("host", "localhost")
    url = make_conninfo(environment["DATABASE_URL"], host=f"{host},ledger.invalid")
    with live.serving(environment | {"DATABASE_URL": url, "HANG_FILE": str(hang)}, (BROKEN, *faults)) as service:
        hang.touch()
        probe = Call(partial(probe_until, service, hang.with_suffix(".entered")))
        wait_until(hang.with_suffix(".entered").exists, "the probe resolves a name")
        assert responds(service, LIMIT_SECONDS if is_healthy else PATIENCE_SECONDS) is is_healthy
        if is_healthy:
            assert service.request("PUT", "/v1/accounts/a", {"currency": "EUR"})[0] == 201
        hang.unlink()
        assert probe.result()


@contextlib.contextmanager
def serving_into_a_pipe(environment: dict[str, str], *faults: str) -> Iterator[tuple[Live, int]]:
    """The service, whose stdout is not read, and the other end of it."""
    reader, writer = os.pipe()
    with live.reserved_port() as port, os.fdopen(writer, "wb") as printed:
        process = live.start([BROKEN, *faults], environment | {"PORT": str(port)}, printed)
        printed.close()
        service = Live(process, printed, f"http://127.0.0.1:{port}")
        try:
            wait_until(service.is_ready, "the service is ready")
            yield service, reader
        finally:
            subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
            process.kill()
            process.wait(LIMIT_SECONDS)
            with contextlib.suppress(OSError):
                os.close(reader)


def flood(service: Live) -> None:
    """Send UNREAD_REQUESTS on one connection without waiting, and read as many responses as arrive."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
        sending = Call(lambda: connection.sendall("".join(map(REQUEST.format, range(UNREAD_REQUESTS))).encode()))
        received = b""
        with contextlib.suppress(TimeoutError):
            while received.count(b"HTTP/1.1 401") < UNREAD_REQUESTS:
                received += connection.recv(65536)
        with contextlib.suppress(TimeoutError):
            sending.result()


def read_lines(reader: int) -> list[dict[str, Any]]:
    """The lines of the log, until the process ends."""
    with os.fdopen(reader, "rb") as file:
        return [json.loads(line) for line in file]


def test_a_stdout_that_nobody_reads_stops_no_request(
    environment: dict[str, str], owner: psycopg.Connection[Any]
) -> None:
    """Request lines are dropped and counted, and errors are logged when stdout is read again. The order is kept."""
    with serving_into_a_pipe(environment, "keep_few_lines") as (service, reader):
        flood(service)
        assert service.request("PUT", "/v1/accounts/a", {"currency": "EUR"})[0] == 201
        owner.execute("REVOKE SELECT ON transfer FROM ledger_service")
        try:
            assert service.request("GET", "/v1/transfers", **{"X-Request-Id": "the-error"})[0] == 500
        finally:
            owner.execute("GRANT SELECT ON transfer TO ledger_service")
        with urllib.request.urlopen(f"{service.url}/metrics", timeout=LIMIT_SECONDS) as response:
            [dropped] = re.findall(rb"^ledger_log_lines_dropped_total ([0-9.]+)", response.read(), re.MULTILINE)
        reading = Call(lambda: read_lines(reader))
        service.process.terminate()
        lines = reading.result()
        assert service.process.wait(LIMIT_SECONDS) == 0
    logged = [line["request_id"] for line in lines if line.get("request_id", "").startswith("flood-")]
    assert 100 < len(logged) < UNREAD_REQUESTS
    assert logged == sorted(logged)
    assert float(dropped) >= UNREAD_REQUESTS - len(logged)
    assert [line["request_id"] for line in lines if line["event"] == "request.failed"] == ["the-error"]


def test_a_build_that_writes_its_log_itself_is_stopped_by_its_stdout(environment: dict[str, str]) -> None:
    """Broken on purpose: the thread that serves the requests writes the log."""
    with serving_into_a_pipe(environment, "log_while_others_wait") as (service, _):
        flood(service)
        assert not responds(service, PATIENCE_SECONDS)


def test_the_service_stops_while_nobody_reads_its_stdout(environment: dict[str, str]) -> None:
    """The lines that wait have a limited time at the end."""
    with serving_into_a_pipe(environment) as (service, _):
        flood(service)
        service.process.terminate()
        assert service.process.wait(LIMIT_SECONDS) == 0


@pytest.mark.parametrize("module", ["service.audit", "service.export", "service.migrate.__main__", "service.database"])
def test_a_command_does_not_load_gevent(module: str) -> None:
    """Only the service replaces functions of the standard library."""
    program = f"import sys, {module}; sys.exit('gevent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=live.ROOT, timeout=LIMIT_SECONDS).returncode == 0
