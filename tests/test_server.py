"""The service behind a real gunicorn: what it prints, what it survives, how it stops."""

import contextlib
import signal
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service import server
from service.server import PEER_TIMEOUT_SECONDS
from tests import live
from tests.live import Live

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


def raw(service: Live, data: bytes) -> bytes:
    """Whatever comes back for these bytes until the server closes."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=live.PATIENCE_SECONDS) as connection:
        connection.sendall(data)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_every_byte_it_prints_is_json(service: Live) -> None:
    """A start, requests good and bad, an error of gunicorn's own and a stop: one object a line, the same fields."""
    service.request("PUT", "/v1/accounts/a", {"currency": "EUR"})
    service.request("GET", "/v1/accounts/unknown", **{"X-Request-Id": "mine"})
    raw(service, b"NONSENSE\r\n\r\n")
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


def test_no_secret_and_no_body_is_printed(service: Live) -> None:
    """Tokens, query strings and what callers sent stay out of the log."""
    service.request("PUT", "/v1/accounts/a", {"currency": "EUR", "metadata": {"k": "body-secret"}})
    service.request("GET", "/v1/transfers?after=987654")
    service.request("GET", "/v1/transfers", Authorization="Bearer token-secret")
    raw(service, b"GET http://me:url-secret@host/v1/transfers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    service.stop()
    printed = str(service.lines)
    assert not any(secret in printed for secret in ("body-secret", "987654", "token-secret", "url-secret", live.TOKEN))
    assert "password" not in printed


def test_a_trace_is_carried_on(service: Live) -> None:
    """traceparent is taken over; a malformed one starts a new trace and is no error."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    service.request("GET", "/v1/transfers", traceparent=f"00-{trace}-b7ad6b7169203331-01")
    service.request("GET", "/v1/transfers", traceparent="00-zzz")
    service.request("GET", "/v1/transfers", traceparent=f"00-{'0' * 32}-b7ad6b7169203331-01")
    service.stop()
    traces = [line["trace_id"] for line in service.lines if line["event"] == "request"]
    assert traces[0] == trace
    assert all(len(made) == 32 and made not in (trace, "0" * 32) for made in traces[1:])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told_to(service: Live, number: int) -> None:
    """Exit code 0, the pool closed, and nothing at error in the log."""
    service.request("GET", "/v1/transfers")
    assert service.stop(number) == 0
    assert service.lines[-1]["message"].startswith("Shutting down")
    assert not [line for line in service.lines if line["level"] in ("error", "critical")]


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", b"400"),
        (b"PUT /v1/accounts/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n", b"411"),
        (b"PUT /v1/accounts/a HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\nConnection: close\r\n", b"413"),
        (b"GET /v1/accounts/a%2Fb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET http://x/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"200"),
        (b"BREW /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"405"),
        (b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"200"),
    ],
)
def test_the_wire_is_answered_as_the_application_says(service: Live, request_head: bytes, status: bytes) -> None:
    """What gunicorn hands over is what the tests in process hand over."""
    head = request_head
    if b"PUT" in head:
        head += b"Content-Type: application/json\r\nAuthorization: Bearer " + live.TOKEN.encode() + b"\r\n\r\n0\r\n\r\n"
    assert raw(service, head).split(b" ", 2)[1] == status


def test_clients_that_do_not_close_stop_nobody(service: Live) -> None:
    """Bad requests whose senders stay on the line keep nobody from being accepted, and what they sent is not logged."""
    host, port = service.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as lines:
        for _ in range(40):
            line = lines.enter_context(socket.create_connection((host, int(port))))
            line.sendall(b"GET / HTTP/1.1\r\nAuthorization Bearer token-secret\r\n\r\n")
        assert service.request("GET", "/health")[0] == 200  # in the accepting thread they would take 80 s
    service.stop()
    assert "Invalid request from" in str(service.lines)
    assert "token-secret" not in str(service.lines)


def test_half_a_request_is_cut(service: Live) -> None:
    """A client that stops sending keeps its thread no longer than the peer timeout."""
    head = b"PUT /v1/accounts/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    answer = raw(service, head + b"Authorization: Bearer " + live.TOKEN.encode() + b"\r\n\r\n{")
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"/problems/bad-request" in answer
    assert live.PATIENCE_SECONDS > PEER_TIMEOUT_SECONDS


def test_a_client_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes nothing of an answer that is larger than the wires hold keeps its thread no longer either."""
    monkeypatch.setattr(server, "PEER_TIMEOUT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server._limit_peers(cast(Any, SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listener)])))
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == struct.pack("ll", 1, 0)
            with pytest.raises(BlockingIOError):
                accepted.sendall(bytes(2**26))
