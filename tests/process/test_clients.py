"""Slow clients, idle ones and many of them: each has time limits, and none of them stops others."""

import contextlib
import os
import resource
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent import socket as gevent_socket

from service import server, worker
from service.contract import LIMITS
from service.http import app
from service.worker import ClientSocket
from tests.support import live, offenders
from tests.support.broken_service import CUT_SECONDS
from tests.support.client import Client, item, movement
from tests.support.live import Live
from tests.support.waiting import LIMIT_SECONDS, wait_until

BROKEN = "tests.support.broken_service"
SLOW, LINGERING = 1000, 200
OTHER_REQUESTS = 20  # of each kind, beside slow and broken clients
FEW_CONNECTIONS = 20  # that a service without slow clients may have
ENDING_CONNECTIONS = 5  # at most, of the probes that waited for the service to be ready


@pytest.fixture
def pair() -> Iterator[tuple[gevent_socket.socket, gevent_socket.socket]]:
    """The server's and the client's side of a connection."""
    ours, theirs = gevent_socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def read_all(client: ClientSocket) -> bytes:
    """What the server reads of one request, at most until LIMIT_SECONDS."""
    with gevent.Timeout(LIMIT_SECONDS):
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize(("seconds", "is_cut"), [(0.3, True), (LIMIT_SECONDS, False)], ids=["limit", "broken build"])
def test_a_client_that_sends_byte_by_byte_is_cut_off(
    pair: tuple[gevent_socket.socket, gevent_socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    is_cut: bool,
) -> None:
    """The time counts from the first byte. Without the limit, the server reads to the end."""
    monkeypatch.setattr(worker, "REQUEST_READ_SECONDS", seconds)
    ours, theirs = pair

    def drip() -> None:
        with contextlib.suppress(OSError):
            for _ in range(40):
                theirs.sendall(b"x")
                gevent.sleep(0.05)
        theirs.shutdown(socket.SHUT_WR)

    dripping = gevent.spawn(drip)
    data = read_all(ClientSocket(ours, idle_seconds=LIMIT_SECONDS))
    dripping.kill()
    assert (len(data) < 40) is is_cut
    assert data


def test_an_idle_connection_ends(pair: tuple[gevent_socket.socket, gevent_socket.socket]) -> None:
    """If no byte of a request arrives within gunicorn's `keepalive`, it is as if the client had closed."""
    assert read_all(ClientSocket(pair[0], idle_seconds=0.05)) == b""


def test_a_request_that_arrives_while_its_connection_is_ended_is_read(
    pair: tuple[gevent_socket.socket, gevent_socket.socket],
) -> None:
    """The client sends at the moment at which the server, after a drain, ends idle connections."""
    client = ClientSocket(pair[0], idle_seconds=LIMIT_SECONDS)
    reading = gevent.spawn(read_all, client)
    gevent.sleep(0)  # the reader waits for the first byte
    pair[1].sendall(b"request")
    client.end_if_idle()
    assert reading.get(timeout=LIMIT_SECONDS) == b"request"


def test_a_request_has_a_limit_of_bytes(
    pair: tuple[gevent_socket.socket, gevent_socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends without end, as fast as it can, is cut off. Each request counts from its own first byte."""
    monkeypatch.setattr(worker, "REQUEST_BYTES", 10)
    client = ClientSocket(pair[0], idle_seconds=LIMIT_SECONDS)
    pair[1].sendall(b"0123456789")
    assert client.recv(65536) == b"0123456789"
    client.expect_request()
    pair[1].sendall(b"0123456789")
    assert client.recv(65536) == b"0123456789"
    pair[1].sendall(b"0123456789")
    assert client.recv(65536) == b""


def test_a_client_that_stops_receiving_is_cut_off(
    pair: tuple[gevent_socket.socket, gevent_socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a response does not fit in the socket buffers, sending it has a time limit."""
    monkeypatch.setattr(worker, "RESPONSE_SEND_SECONDS", 0.05)
    with pytest.raises(BrokenPipeError), gevent.Timeout(LIMIT_SECONDS):
        ClientSocket(pair[0], idle_seconds=LIMIT_SECONDS).sendall(bytes(2**26))


@pytest.fixture
def own_files() -> Iterator[None]:
    """This process may open as many files as its hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(service: Live, data: bytes) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS)
    connection.sendall(data)
    return connection


@pytest.mark.usefixtures("own_files")
@pytest.mark.parametrize("open_files", [None, 1024], ids=["as many files as needed", "1024 files"])
def test_slow_and_lingering_clients_do_not_stop_others(environment: dict[str, str], open_files: int | None) -> None:
    """1,000 clients send half a request, 200 do not close. Others wait at most until the slow ones are cut off."""
    with live.serving(environment, open_files=open_files) as service:
        with contextlib.ExitStack() as connections:
            for number in range(SLOW + LINGERING):
                data = b"GET /health HTTP/1.1\r\nHost: " if number < SLOW else b"GET /health\r\n\r\n"
                connections.enter_context(connect(service, data))
            assert service.request("GET", "/health")[0] == 200
            assert service.request("PUT", "/v1/accounts/a", {"currency": "EUR"})[0] == 201
        assert service.stop() == 0
    assert not [line for line in service.lines if line["level"] in ("error", "critical")], service.lines


@pytest.fixture
def pages(client: Client) -> None:
    """The accounts `a` and `b`, and a page of the feed that does not fit into the buffers of the operating system."""
    client.open("a", "b", min_balance=None)
    client.batch(*(item(f"t{n}", metadata={"k": "v" * 500}) for n in range(LIMITS.page_max)))


def open_files(service: Live) -> int:
    """Of gunicorn's worker: its connections, and a few others."""
    pid = service.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return len(os.listdir(f"/proc/{child}/fd"))


def serve_others(service: Live) -> None:
    """Transfers, reads and probes succeed, also if they are sent again and again."""
    for number in range(OTHER_REQUESTS):
        assert service.request("PUT", f"/v1/transfers/{secrets.token_hex(8)}", movement())[0] == 201
        assert service.request("GET", "/v1/accounts/a")[0] == 200
        assert service.request("GET", ("/health", "/ready")[number % 2])[0] == 200


@pytest.mark.usefixtures("own_files")
@pytest.mark.parametrize("kind", offenders.KINDS)
def test_more_offenders_than_places_do_not_stop_others_and_are_cut(
    environment: dict[str, str], pages: None, kind: str
) -> None:
    """As many clients of one kind as requests may be in progress, and 200 more: others are served meanwhile."""
    with live.serving(environment, (BROKEN, "use_small_buffers", "cut_soon")) as service:
        port = int(service.url.rpartition(":")[2])
        before = open_files(service)
        with offenders.offending(port, kind, app.MAX_IN_FLIGHT + 200):
            wait_until(lambda: open_files(service) > before + FEW_CONNECTIONS, "the offenders are connected")
            serve_others(service)
            wait_until(lambda: open_files(service) < before + FEW_CONNECTIONS, "the offenders are cut")
            serve_others(service)
        assert service.stop() == 0
    assert not [line for line in service.lines if line["level"] in ("error", "critical")], service.lines


def test_a_build_without_time_limits_keeps_offenders(environment: dict[str, str], pages: None) -> None:
    """Broken on purpose: their connections stay for longer than the time in which the service cuts them."""
    with (
        live.serving(environment, (BROKEN, "use_small_buffers", "never_cut")) as service,
        contextlib.ExitStack() as all,
    ):
        port = int(service.url.rpartition(":")[2])
        expected = open_files(service) + FEW_CONNECTIONS * len(offenders.KINDS) - ENDING_CONNECTIONS
        for kind in offenders.KINDS:
            all.enter_context(offenders.offending(port, kind, FEW_CONNECTIONS))
        wait_until(lambda: open_files(service) >= expected, "the offenders are connected")
        until = time.monotonic() + CUT_SECONDS + 1
        wait_until(lambda: time.monotonic() > until, "the offenders would be cut")
        assert open_files(service) >= expected


def test_too_few_open_files_end_the_start(environment: dict[str, str]) -> None:
    """The exit code is 71, and the line has the limit that is needed."""
    code, [line] = live.run(["service", "--check"], environment, open_files=server.RESERVED_FILES + 50)
    assert (code, line["event"]) == (71, "startup.failed")
    assert str(server.MAX_CONNECTIONS + server.RESERVED_FILES) in line["fix"]


def test_few_open_files_are_logged_at_the_start(environment: dict[str, str]) -> None:
    """The service starts with fewer connections."""
    code, lines = live.run(["service", "--check"], environment, open_files=1024)
    assert code == 0
    assert [line["event"] for line in lines] == ["startup.few_files", "startup.checked"]
