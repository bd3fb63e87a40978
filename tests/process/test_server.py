"""The service under a real gunicorn: its log, invalid and slow clients, and how it stops."""

import contextlib
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest

from dev.run import TOKEN
from service import worker
from tests.support import live
from tests.support.live import Live
from tests.support.waiting import LIMIT_SECONDS, wait_until

GRACEFUL_TIMEOUT = 20  # seconds; gunicorn would wait as long for a connection that stays open
FIELDS = ["time", "level", "event", "message", "service", "version"]
REQUEST_FIELDS = [
    *FIELDS,
    *("request_id", "trace_id", "span_id", "db_ms", "queue_ms", "caller", "method", "route", "path"),
    *("status", "problem", "duration_ms", "bytes", "client"),
]


@pytest.fixture
def service(environment: dict[str, str]) -> Iterator[Live]:
    with live.serving(environment) as started:
        yield started


def connect(service: Live) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS)


def send_raw(service: Live, data: bytes) -> bytes:
    """Send the bytes, and return what the server sends until it closes the connection."""
    with connect(service) as connection:
        connection.sendall(data)
        response = b""
        while chunk := connection.recv(65536):
            response += chunk
    return response


def test_every_line_of_the_log_is_a_json_object(service: Live) -> None:
    """The start, requests, an error of gunicorn and the stop are logged with the same first fields."""
    service.request("PUT", "/v1/accounts/a", {"currency": "EUR"})
    service.request("GET", "/v1/accounts/unknown", **{"X-Request-Id": "mine"})
    send_raw(service, b"NONSENSE\r\n\r\n")
    assert service.stop() == 0
    assert all(list(line)[: len(FIELDS)] == FIELDS for line in service.lines)
    events = [line["event"] for line in service.lines]
    assert {"startup.ready", "request", "gunicorn.error", "shutdown"} <= set(events)
    requests = [line for line in service.lines if line["event"] == "request"]
    assert [(line["status"], line["route"], line["caller"]) for line in requests] == [
        (201, "/v1/accounts/{id}", "development"),
        (404, "/v1/accounts/{id}", "development"),
    ]
    assert all(list(line) == REQUEST_FIELDS for line in requests)
    assert requests[1]["request_id"] == "mine"
    assert requests[0]["db_ms"] > 0


def test_the_log_contains_no_secret_and_no_body(service: Live) -> None:
    """Tokens, queries, bodies and the database's password are not logged."""
    service.request("PUT", "/v1/accounts/a", {"currency": "EUR", "metadata": {"k": "body-secret"}})
    service.request("GET", "/v1/transfers?after=987654")
    service.request("GET", "/v1/transfers", Authorization="Bearer token-secret")
    send_raw(service, b"GET http://me:url-secret@host/v1/transfers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    service.stop()
    printed = str(service.lines)
    assert not any(secret in printed for secret in ("body-secret", "987654", "token-secret", "url-secret", TOKEN))
    assert "password" not in printed


def test_the_trace_id_is_taken_from_traceparent(service: Live) -> None:
    """If traceparent is invalid, the request gets a new trace id and is not refused."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    service.request("GET", "/v1/transfers", traceparent=f"00-{trace}-b7ad6b7169203331-01")
    service.request("GET", "/v1/transfers", traceparent="00-zzz")
    service.request("GET", "/v1/transfers", traceparent=f"00-{'0' * 32}-b7ad6b7169203331-01")
    service.stop()
    traces = [line["trace_id"] for line in service.lines if line["event"] == "request"]
    assert traces[0] == trace
    assert all(len(generated) == 32 and generated not in (trace, "0" * 32) for generated in traces[1:])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_the_service(service: Live, number: int) -> None:
    """The exit code is 0, the pool is closed, and the log has no errors. With DRAIN_SECONDS=0 there is no drain."""
    service.request("GET", "/v1/transfers")
    assert service.stop(number) == 0
    assert "drain.begin" not in [line["event"] for line in service.lines]
    assert service.lines[-1]["message"].startswith("Shutting down")
    assert not [line for line in service.lines if line["level"] in ("error", "critical")]


def test_an_idle_connection_does_not_delay_the_stop(service: Live) -> None:
    """A connection that is kept for the next request ends soon, and not with gunicorn's graceful_timeout."""
    with connect(service) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536)
        started_at = time.monotonic()
        assert service.stop() == 0
    assert time.monotonic() - started_at < GRACEFUL_TIMEOUT


def test_a_request_in_progress_is_finished_before_the_stop(service: Live) -> None:
    """SIGTERM arrives while the request waits for the body of its client."""
    body = b'{"currency": "EUR"}'
    with connect(service) as connection:
        connection.sendall(PUT_HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        wait_until(lambda: active_requests(service) == 2, "the request is in progress")
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(service), "the service is stopping")
        connection.sendall(body)
        response = b"".join(iter(lambda: connection.recv(65536), b""))
        assert service.finish() == 0
    assert response.startswith(b"HTTP/1.1 201 ")
    assert [line["status"] for line in service.lines if line.get("route") == "/v1/accounts/{id}"] == [201]


def active_requests(service: Live) -> int:
    """The metric, which includes the request that reads it."""
    with urllib.request.urlopen(f"{service.url}/metrics", timeout=LIMIT_SECONDS) as response:
        [number] = re.findall(rb"^http_server_active_requests ([0-9.]+)", response.read(), re.MULTILINE)
    return int(float(number))


def accepts(service: Live) -> bool:
    """Whether the service still accepts a connection."""
    try:
        connect(service).close()
    except OSError:
        return False
    return True


PUT_HEAD = (
    b"PUT /v1/accounts/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(b"GET /health HTTP/1.1\r\n", b"400", id="no host"),
        pytest.param(PUT_HEAD + b"Transfer-Encoding: chunked\r\n", b"411", id="chunked"),
        pytest.param(PUT_HEAD + b"Content-Length: 70000\r\n", b"413", id="a long body"),
        pytest.param(b"GET /v1/accounts/a%2Fb HTTP/1.1\r\nHost: x\r\n", b"404", id="an encoded slash"),
        pytest.param(b"GET http://x/health HTTP/1.1\r\nHost: x\r\n", b"200", id="an absolute URI"),
        pytest.param(b"BREW /health HTTP/1.1\r\nHost: x\r\n", b"405", id="an unknown method"),
        pytest.param(b"HEAD /health HTTP/1.1\r\nHost: x\r\n", b"200", id="HEAD"),
    ],
)
def test_gunicorn_passes_unusual_requests_on(service: Live, head: bytes, status: bytes) -> None:
    """The response is the same as in the tests that call the application without gunicorn."""
    body = b"0\r\n\r\n" if head.startswith(b"PUT") else b""
    assert send_raw(service, head + b"Connection: close\r\n\r\n" + body).split(b" ", 2)[1] == status


def test_clients_that_do_not_close_do_not_block_others(service: Live) -> None:
    """If clients send invalid requests and keep their connections open, the service still accepts connections."""
    with contextlib.ExitStack() as connections:
        for _ in range(40):
            connection = connections.enter_context(connect(service))
            connection.sendall(b"GET / HTTP/1.1\r\nAuthorization Bearer token-secret\r\n\r\n")
        assert service.request("GET", "/health")[0] == 200  # closing in the accepting thread would take 80 s
    service.stop()
    assert "Invalid request from" in str(service.lines)
    assert "token-secret" not in str(service.lines)


def test_a_client_that_stops_sending_is_cut_off(service: Live) -> None:
    """Its request has a time limit."""
    response = send_raw(service, PUT_HEAD + b"Content-Length: 100\r\n\r\n{")
    assert b" 400 " in response.split(b"\r\n")[0]
    assert b"/problems/bad-request" in response
    assert LIMIT_SECONDS > worker.REQUEST_READ_SECONDS
