"""SIGTERM: the service drains, so it still serves while a load balancer stops sending connections. Then it stops."""

import contextlib
import http.client
import json
import os
import re
import signal
from collections.abc import Iterator

import pytest

from dev.run import TOKEN
from tests.support import live
from tests.support.live import Live
from tests.support.waiting import LIMIT_SECONDS, wait_until

LONG, SHORT = "300", "1"  # DRAIN_SECONDS: longer than a test, and as short as possible
LOG_BYTES = 1_000_000  # more than a service logs in these tests
BROKEN = "tests.support.broken_service"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
STOP_EVENTS = {"drain.begin", "drain.end", "shutdown"}


@pytest.fixture
def service(environment: dict[str, str]) -> Iterator[Live]:
    """A service that drains until a second SIGTERM."""
    with live.serving(environment | {"DRAIN_SECONDS": LONG}) as started:
        yield started


@contextlib.contextmanager
def connected(service: Live) -> Iterator[http.client.HTTPConnection]:
    """A connection that is open, but has no request yet."""
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=LIMIT_SECONDS)
    connection.connect()
    with contextlib.closing(connection):
        yield connection


def send(connection: http.client.HTTPConnection, path: str) -> tuple[int, str | None]:
    """Status and `Connection` of the response to a GET."""
    connection.request("GET", path, headers=HEADERS)
    response = connection.getresponse()
    response.read()
    return response.status, response.headers["Connection"]


def drain(service: Live) -> None:
    """Send SIGTERM, and wait until the service drains."""
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: service.request("GET", "/ready")[0] == 503, "the service drains")


def metrics(service: Live) -> bytes:
    with connected(service) as connection:
        connection.request("GET", "/metrics")
        return connection.getresponse().read()


def has_request_in_progress(service: Live) -> bool:
    """Whether there is one more request in progress than the one that reads the metric."""
    return b"\nhttp_server_active_requests 2.0\n" in metrics(service)


def stop_events(service: Live) -> list[str]:
    """The events of the stop, in their order, after the end of the process."""
    return [line["event"] for line in service.lines if line["event"] in STOP_EVENTS]


def worker_of(service: Live) -> int:
    """The process id of gunicorn's newest worker, from the log so far."""
    printed = os.pread(service.printed.fileno(), LOG_BYTES, 0)  # does not move the position at which the service writes
    return int(re.findall(rb"Booting worker with pid: ([0-9]+)", printed)[-1])


def test_a_draining_service_is_unready_and_serves(service: Live) -> None:
    """/ready is 503 and names the check. New connections are accepted, /health is 200 and a write is committed."""
    drain(service)
    status, body = service.request("GET", "/ready")
    assert (status, [name for name, passed in body["checks"].items() if not passed]) == (503, ["serving"])
    assert service.request("GET", "/health")[0] == 200
    assert service.request("PUT", "/v1/accounts/a", {"currency": "EUR"})[0] == 201
    assert b"\nledger_draining 1.0\n" in metrics(service)


def test_each_response_of_a_draining_service_closes_its_connection(service: Live) -> None:
    """This applies to new connections, and to old ones that were idle; before the drain they are kept."""
    paths = ("/health", "/ready", "/v1/transfers", "/v1/accounts/unknown", "/nowhere")
    with contextlib.ExitStack() as stack:
        used, unused = ([stack.enter_context(connected(service)) for _ in paths] for _ in range(2))
        assert {send(connection, path)[1] for connection, path in zip(used, paths, strict=True)} == {"keep-alive"}
        drain(service)
        new = [stack.enter_context(connected(service)) for _ in paths]
        for connections in (used, unused, new):
            assert {send(connection, path)[1] for connection, path in zip(connections, paths, strict=True)} == {"close"}


def test_a_request_in_progress_is_answered_and_its_connection_closed(service: Live) -> None:
    """The request began before SIGTERM, and its body arrives during the drain."""
    body = json.dumps({"currency": "EUR"}).encode()
    with connected(service) as connection:
        connection.putrequest("PUT", "/v1/accounts/a")
        for name, value in (HEADERS | {"Content-Length": str(len(body))}).items():
            connection.putheader(name, value)
        connection.endheaders()
        wait_until(lambda: has_request_in_progress(service), "the request is in progress")
        drain(service)
        connection.send(body)
        response = connection.getresponse()
        assert (response.status, response.headers["Connection"]) == (201, "close")


def test_the_service_stops_after_the_drain(environment: dict[str, str]) -> None:
    """One SIGTERM is enough: the service logs each step and ends with 0, and an idle connection does not delay it."""
    with live.serving(environment | {"DRAIN_SECONDS": SHORT}) as service, connected(service) as idle:
        assert send(idle, "/health") == (200, "keep-alive")
        assert service.stop() == 0
    assert stop_events(service) == ["drain.begin", "drain.end", "shutdown"]
    assert not [line for line in service.lines if line["level"] in ("warning", "error", "critical")], service.lines


def test_a_second_sigterm_ends_the_drain(service: Live) -> None:
    """The process ends with 0 long before DRAIN_SECONDS have passed."""
    drain(service)
    assert service.stop() == 0
    assert stop_events(service) == ["drain.begin", "drain.end", "shutdown"]


def test_sigint_stops_without_a_drain(service: Live) -> None:
    """Ctrl-C does not wait, also during a drain."""
    drain(service)
    assert service.stop(signal.SIGINT) == 0
    assert stop_events(service) == ["drain.begin", "shutdown"]


def test_a_worker_that_dies_during_the_drain_is_replaced(service: Live) -> None:
    """The new worker serves, and drains too."""
    drain(service)
    old = worker_of(service)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: worker_of(service) != old, "there is a new worker")
    assert service.request("GET", "/v1/transfers")[0] == 200
    assert service.request("GET", "/ready")[0] == 503
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("fault", "events"), [((), ["shutdown"]), (("kill_the_worker_at_its_own_limit",), [])], ids=["", "broken build"]
)
def test_the_worker_cuts_requests_before_the_master_kills_it(
    environment: dict[str, str], fault: tuple[str, ...], events: list[str]
) -> None:
    """A request that takes longer than `graceful_timeout` is cut, and the worker still closes its pool and logs it."""
    module = (BROKEN, "finish_requests_within_a_second", *fault)
    with live.serving(environment, module) as service, connected(service) as connection:
        connection.request("PUT", "/v1/accounts/a", headers=HEADERS | {"Content-Length": "100"})
        wait_until(lambda: has_request_in_progress(service), "the request is in progress")
        assert service.stop() == 0
    assert stop_events(service) == events
