"""The database's host does not respond, or its name does not resolve: each request gets a 503 within its deadline."""

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dev.run import TOKEN
from service.contract import LIMITS
from tests.faults.hammer.network import Connect, Link, link_to, to_port, to_socket_file
from tests.support import live
from tests.support.live import Live
from tests.support.threads import Call

NAME_SERVER = "tests.support.broken_service"  # its name resolution fails, or hangs while a file exists
BROKEN = "tests.faults.hammer.broken_service"
# Twice the deadline: a request that does not keep it waits for the database, which does not come back.
LIMIT_SECONDS = 2.0 * LIMITS.request_deadline_seconds
TRANSFER = {"from": "a", "to": "b", "amount": 1, "currency": "EUR"}


@dataclass(frozen=True)
class Setup:
    """A service that was ready, the link to its first host, and the file that stops its name resolution."""

    service: Live
    link: Link
    hang: Path

    def lose_connections(self) -> None:
        """End the open connections to the first host, and close new ones at once."""
        self.link.is_cut = True
        self.link.cut()


def first_host_is_silent(setup: Setup) -> None:
    """The first host accepts connections and says nothing."""
    setup.link.flowing.clear()
    setup.link.cut()


def name_server_hangs(setup: Setup) -> None:
    """The name of the second host is looked up without an end."""
    setup.hang.touch()
    setup.lose_connections()


@contextlib.contextmanager
def never_accepting_port() -> Iterator[int]:
    """A port whose queue of connections is full, so that the kernel drops each SYN."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def database(url: str) -> Connect:
    """Connects to the PostgreSQL of this URL."""
    parts = conninfo_to_dict(url)
    host, port = str(parts.get("host", "localhost")), int(parts.get("port") or 5432)
    return to_socket_file(f"{host}/.s.PGSQL.{port}") if host.startswith("/") else to_port(port)


def respond(service: Live) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the response to a transfer. Raises TimeoutError after LIMIT_SECONDS."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    content = json.dumps(TRANSFER).encode()
    request = urllib.request.Request(f"{service.url}/v1/transfers/t", content, headers, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as response:
            return response.status, dict(response.headers), json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.loads(error.read())


@contextlib.contextmanager
def serving(
    environment: dict[str, str], hang: Path, second: tuple[str, int], module: tuple[str, ...]
) -> Iterator[Setup]:
    """A service whose database has two hosts: the link, which works until the test changes it, and a second one."""
    with link_to(database(environment["DATABASE_URL"])) as link:
        name, port = second
        url = make_conninfo(environment["DATABASE_URL"], host=f"127.0.0.1,{name}", port=f"{link.port},{port}")
        with live.serving(environment | {"DATABASE_URL": url, "HANG_FILE": str(hang)}, module) as service:
            yield Setup(service, link, hang)
            hang.unlink(missing_ok=True)


CASES: dict[str, tuple[str, Callable[[Setup], None]]] = {  # the second host, and what happens
    "silent host": ("ledger.invalid", first_host_is_silent),
    "host that drops SYN": ("127.0.0.1", Setup.lose_connections),
    "unknown name": ("ledger.invalid", Setup.lose_connections),
    "silent name server": ("ledger.invalid", name_server_hangs),
}


@pytest.mark.slow
def test_a_request_gets_503_within_its_deadline(environment: dict[str, str], tmp_path: Path) -> None:
    """It has `Retry-After`, and `outcome` says that nothing was applied. Each case has a service of its own."""
    with never_accepting_port() as port, contextlib.ExitStack() as stack:
        setups = {
            name: stack.enter_context(serving(environment, tmp_path / name, (host, port), (NAME_SERVER,)))
            for name, (host, _) in CASES.items()
        }
        for name, (_, break_it) in CASES.items():
            break_it(setups[name])
        calls = {name: Call(partial(respond, setup.service)) for name, setup in setups.items()}
        for name, call in calls.items():
            status, headers, body = call.result()
            assert (status, headers["Retry-After"], body["outcome"]) == (503, "1", "not_applied"), (name, body)


@pytest.mark.slow
def test_a_build_that_waits_longer_for_a_connection_fails(environment: dict[str, str], tmp_path: Path) -> None:
    """Broken on purpose: the wait for a connection of the pool is longer than the deadline."""
    module = (BROKEN, "wait_a_minute_for_a_connection")
    with never_accepting_port() as port, serving(environment, tmp_path / "hang", ("127.0.0.1", port), module) as setup:
        setup.lose_connections()
        with pytest.raises(TimeoutError):
            respond(setup.service)
        setup.link.restore()  # so that the service can stop
