"""Too many requests: the service refuses those above a limit after a delay, and a refused one takes no place."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from service import config, database, server, session
from service.contract import LIMITS
from service.http import app, request
from service.ledger import transfers
from service.server import build_application
from tests.support.client import Client, Reply, item
from tests.support.threads import Call
from tests.support.waiting import wait_for, wait_until


def test_a_request_that_gets_no_connection_is_refused(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections of the pool stay in use until the request's deadline."""
    monkeypatch.setattr(database, "LIMITS", replace(LIMITS, request_deadline_seconds=1))
    application = build_application(config.load(environment | {"POOL_SIZE": "1"}))
    client = Client(application)
    in_use, release = threading.Event(), threading.Event()

    def use(connection: session.Connection) -> None:
        in_use.set()
        wait_for(release)

    with contextlib.closing(application.dependencies.database):
        wait_until(lambda: client.get("/v1/transfers").status == 200, "the application is connected")
        using = Call(lambda: application.dependencies.database.run(use))
        wait_for(in_use)
        reply = client.get("/v1/transfers")
        release.set()
        using.result()
    assert (reply.status, reply.slug, reply.json["outcome"]) == (503, "overloaded", "not_applied")


@contextlib.contextmanager
def in_progress(monkeypatch: pytest.MonkeyPatch, count: int, send: Callable[[], Reply]) -> Iterator[None]:
    """Send the request `count` times. All are in progress during the block; other requests are handled as usual."""
    entered: list[None] = []
    release = threading.Event()

    def make_request_late(*arguments: Any) -> request.Request:
        if len(entered) < count:
            entered.append(None)
            wait_for(release)
        return request.Request(*arguments)

    monkeypatch.setattr(app, "Request", make_request_late)
    calls = [Call(send) for _ in range(count)]
    try:
        wait_until(lambda: len(entered) == count, "all requests are in progress")
        yield
    finally:
        release.set()
    assert {call.result().status for call in calls} == {200}


@pytest.mark.promise(15)
def test_a_request_above_the_limit_is_refused_late_and_probes_are_not(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/health, /ready and /metrics respond while all places are taken. The refused client waits before it repeats."""
    monkeypatch.setattr(app, "MAX_IN_FLIGHT", 20)
    monkeypatch.setattr(app, "REFUSAL_DELAY_SECONDS", 0.2)
    limited = client.with_scopes("read", "write", "admin")
    with in_progress(monkeypatch, 20, lambda: limited.get("/v1/transfers")):
        started_at = time.monotonic()
        reply = limited.get("/v1/transfers")
        refused_at = time.monotonic()
        probes = [limited.get(path).status for path in ("/health", "/ready", "/metrics")]
    assert (reply.status, reply.slug, reply.json["outcome"]) == (503, "overloaded", "not_applied")
    assert refused_at - started_at >= 0.2
    assert probes == [200, 200, 200]
    assert limited.get("/v1/transfers").status == 200


def test_a_batch_above_the_limit_is_refused_and_other_requests_are_not(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches have a lower limit, because they need more memory. A refused one takes no place of other requests."""
    monkeypatch.setattr(app, "MAX_BATCHES_IN_FLIGHT", 2)
    monkeypatch.setattr(app, "MAX_IN_FLIGHT", 3)
    delays: list[float] = []
    end_delays = threading.Event()

    def delay(seconds: float) -> None:
        delays.append(seconds)
        wait_for(end_delays)

    monkeypatch.setattr(app, "time", SimpleNamespace(sleep=delay, perf_counter=time.perf_counter))
    limited = client.with_scopes("read", "write", "admin")
    with in_progress(monkeypatch, 2, lambda: limited.batch(item("t"))):
        refused = [Call(lambda: limited.batch(item("u"))) for _ in range(3)]
        wait_until(lambda: len(delays) == 3, "three batches are refused")
        reply = limited.get("/v1/transfers")
        end_delays.set()
        assert {call.result().slug for call in refused} == {"overloaded"}
    assert reply.status == 200


def test_a_page_keeps_its_place_until_it_is_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large page that its client does not receive counts as in progress. Smaller responses do not."""
    monkeypatch.setattr(app, "MAX_IN_FLIGHT", 1)
    monkeypatch.setattr(app, "REFUSAL_DELAY_SECONDS", 0.0)
    limited = client.with_scopes("read")
    with limited.not_receiving("/v1/transfers"):
        assert limited.get("/v1/transfers").status == 200
        monkeypatch.setattr(app, "LARGE_RESPONSE_BYTES", 1)
    with limited.not_receiving("/v1/transfers"):
        assert limited.get("/v1/transfers").slug == "overloaded"
    assert limited.get("/v1/transfers").status == 200


def test_clients_that_do_not_receive_pages_take_few_places(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit of lists, another one is refused, and keeps no place. Other requests are handled."""
    monkeypatch.setattr(app, "MAX_LISTS_IN_FLIGHT", 1)
    monkeypatch.setattr(app, "MAX_IN_FLIGHT", 2)
    monkeypatch.setattr(app, "REFUSAL_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(app, "LARGE_RESPONSE_BYTES", 1)
    limited = client.with_scopes("read", "write")
    with limited.not_receiving("/v1/transfers"):
        refused = [limited.get("/v1/transfers") for _ in range(3)]
        other = limited.put("/v1/accounts/c", {"currency": "EUR"})
    assert {(reply.slug, reply.json["outcome"]) for reply in refused} == {("overloaded", "not_applied")}
    assert other.status == 201
    assert limited.get("/v1/transfers").status == 200


@pytest.mark.parametrize(
    ("long_from", "status"), [(LIMITS.page_default, 200), (LIMITS.page_max, 503)], ids=["service", "broken build"]
)
def test_long_lists_leave_connections_to_other_requests(
    environment: dict[str, str], client: Client, monkeypatch: pytest.MonkeyPatch, long_from: int, status: int
) -> None:
    """While slow lists use half of the connections, another request gets one; not if no list counts as long."""
    client.open("a")
    monkeypatch.setattr(database, "LIMITS", replace(LIMITS, request_deadline_seconds=1))
    monkeypatch.setattr(request, "LIMITS", replace(LIMITS, page_default=long_from))
    application = build_application(config.load(environment | {"POOL_SIZE": "2"}))
    own = Client(application)
    reading: list[None] = []
    release = threading.Event()

    def read_slowly(*arguments: Any, **options: Any) -> list[Any]:
        reading.append(None)
        wait_for(release)
        return []

    with contextlib.closing(application.dependencies.database):
        wait_until(lambda: own.get("/v1/accounts/a").status == 200, "the application is connected")
        monkeypatch.setattr(transfers, "list_after", read_slowly)
        lists = [Call(lambda: own.get(f"/v1/transfers?limit={LIMITS.page_max}")) for _ in range(2)]
        wait_until(lambda: len(reading) == (1 if status == 200 else 2), "the lists are being read")
        assert own.get("/v1/accounts/a").status == status
        release.set()
        assert 200 in {call.result().status for call in lists}


def test_only_one_limit_refuses_requests(environment: dict[str, str]) -> None:
    """The pool's queue has room for all requests in progress, and the server has connections for more than these."""
    settings = server.gunicorn_settings(config.load(environment))
    assert max(app.MAX_BATCHES_IN_FLIGHT, app.MAX_LISTS_IN_FLIGHT) < app.MAX_IN_FLIGHT <= database.MAX_WAITING
    assert settings["worker_connections"] > app.MAX_IN_FLIGHT
