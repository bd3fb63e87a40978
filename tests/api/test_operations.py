"""/health, /ready, /metrics and /v1/openapi.json"""

import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service import metrics, readiness, session
from service.http.app import ROUTES
from service.migrate import history
from service.readiness import Readiness
from tests.support.client import Client, item
from tests.support.ledger import Urls
from tests.support.threads import Call
from tests.support.waiting import wait_for, wait_until

ROOT = Path(__file__).parents[2]
CHECKS = ("database", "pool", "writable", "schema", "durable", "clock")
UNREACHABLE = "postgresql://localhost:1/none"


@pytest.fixture
def probe_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of Readiness.checks probes the database."""
    monkeypatch.setattr(readiness, "PROBE_EVERY_SECONDS", 0)


def readiness_of(urls: Urls) -> Readiness:
    """The checks for the test database, which may lose data."""
    return Readiness(urls.service, lambda: True, allow_data_loss=True)


def failed_checks(service_readiness: Readiness) -> set[str]:
    return {name for name, passed in service_readiness.checks().items() if not passed}


def metric(client: Client, series: str) -> float:
    """The value of a series in /metrics; 0 if it is missing."""
    match = re.search(rf"^{re.escape(series)} (.*)$", client.get("/metrics").body.decode(), re.MULTILINE)
    return float(match[1]) if match else 0.0


def test_health_returns_ok(anonymous: Client) -> None:
    """The request requires no token."""
    assert anonymous.get("/health").json == {"status": "ok"}


def test_health_does_not_use_the_database(anonymous: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes must not restart the service during an outage of the database."""
    dependencies = anonymous.application.dependencies
    failed = dict.fromkeys(CHECKS, False)
    monkeypatch.setattr(dependencies.database, "run", lambda work: pytest.fail("the database was used"))
    monkeypatch.setattr(dependencies.readiness, "checks", lambda: failed)
    assert (anonymous.get("/health").status, anonymous.get("/ready").status) == (200, 503)


def test_ready_returns_the_result_of_each_check(anonymous: Client) -> None:
    """The body has one member for each check."""
    assert anonymous.get("/ready").json == {"ready": True, "checks": dict.fromkeys((*CHECKS, "serving"), True)}


@pytest.mark.usefixtures("probe_always")
def test_the_third_failed_probe_in_a_row_makes_the_service_unready(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two failed probes have no effect, and one successful probe makes the service ready again."""
    service_readiness = readiness_of(urls)
    assert all(service_readiness.checks().values())
    connect = session.connect
    with monkeypatch.context() as outage:
        outage.setattr(session, "connect", lambda url: connect(UNREACHABLE))
        results = [all(service_readiness.checks().values()) for _ in range(3)]
    assert (results, all(service_readiness.checks().values())) == ([True, True, False], True)


def test_ready_probes_the_database_at_most_once_per_interval(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of requests in the interval has no effect."""
    monkeypatch.setattr(readiness, "PROBE_EVERY_SECONDS", 3600)  # longer than the test, also under load
    service_readiness = readiness_of(urls)
    service_readiness.checks()
    monkeypatch.setattr(session, "connect", lambda url: pytest.fail("the database was probed again"))
    assert all(all(service_readiness.checks().values()) for _ in range(100))


@pytest.mark.usefixtures("probe_always")
def test_ready_requires_the_schema_version_of_the_code(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older schema is not ready; a newer schema is."""
    service_readiness, read_schema_state = readiness_of(urls), history.read_schema_state
    difference = -1

    def read_another_version(connection: psycopg.Connection[Any]) -> history.SchemaState:
        state = read_schema_state(connection)
        return state._replace(version=state.version + difference)

    monkeypatch.setattr(history, "read_schema_state", read_another_version)
    assert failed_checks(service_readiness) == {"schema"}
    difference = 1
    assert not failed_checks(service_readiness)


@pytest.mark.usefixtures("probe_always")
def test_ready_requires_a_connection_of_the_pool(urls: Urls) -> None:
    """The pool has had none at three probes in a row. A pool whose connections are all in use has some."""
    has_connection = True
    service_readiness = Readiness(urls.service, lambda: has_connection, allow_data_loss=True)
    assert not failed_checks(service_readiness)
    has_connection = False
    assert [failed_checks(service_readiness) for _ in range(3)] == [set(), set(), {"pool"}]
    has_connection = True
    assert not failed_checks(service_readiness)


@pytest.mark.usefixtures("probe_always")
def test_a_probe_that_hangs_makes_the_service_unready(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name resolution has no time limit. The callers meanwhile get the last checks only for a limited time."""
    service_readiness, connect = readiness_of(urls), session.connect
    assert not failed_checks(service_readiness)
    is_hanging, go_on = threading.Event(), threading.Event()

    def connect_late(url: str) -> session.Connection:
        is_hanging.set()
        wait_for(go_on)
        return connect(url)

    monkeypatch.setattr(session, "connect", connect_late)
    probe = Call(service_readiness.checks)
    wait_for(is_hanging)
    assert not failed_checks(service_readiness)
    monkeypatch.setattr(readiness, "PROBE_HANGS_SECONDS", 0)
    assert failed_checks(service_readiness)
    go_on.set()
    assert all(probe.result().values())


@pytest.mark.usefixtures("probe_always")
def test_ready_requires_a_server_that_keeps_what_it_acknowledges(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting is not durable. A service for development accepts it."""
    monkeypatch.setitem(session.DURABLE, "synchronous_commit", ("another",))
    monkeypatch.setitem(session.DURABLE, "fsync", ("on", "off"))
    monkeypatch.setitem(session.DURABLE, "full_page_writes", ("on", "off"))
    assert failed_checks(Readiness(urls.service, lambda: True, allow_data_loss=False)) == {"durable"}
    assert not failed_checks(Readiness(urls.service, lambda: True, allow_data_loss=True))


@pytest.mark.usefixtures("probe_always")
def test_ready_requires_a_clock_that_is_not_ahead(urls: Urls, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metric has the difference. A clock that is behind is accepted."""
    service_readiness, read_schema_state = readiness_of(urls), history.read_schema_state
    ahead = timedelta(seconds=session.CLOCK_MAX_AHEAD_SECONDS + 1)

    def read_another_time(connection: psycopg.Connection[Any]) -> history.SchemaState:
        return read_schema_state(connection)._replace(time=datetime.now(UTC) + ahead)

    monkeypatch.setattr(history, "read_schema_state", read_another_time)
    assert failed_checks(service_readiness) == {"clock"}
    assert 60 < metric(client, "ledger_clock_ahead_seconds") <= 61
    ahead = -ahead
    assert not failed_checks(service_readiness)


def test_requests_are_measured_by_route(client: Client) -> None:
    """The label of a route contains no id, and all unknown methods and paths share one label each."""
    name = "http_server_request_duration_seconds_count"
    series = [
        f'{name}{{http_request_method="GET",http_response_status_code="404",http_route="/v1/accounts/{{id}}"}}',
        f'{name}{{http_request_method="_OTHER",http_response_status_code="404",http_route="unmatched"}}',
    ]
    before = [metric(client, one) for one in series]
    client.get("/v1/accounts/some-id")
    client.request("BREW", "/coffee")
    assert [metric(client, one) - value for one, value in zip(series, before, strict=True)] == [1, 1]
    assert b"some-id" not in client.get("/metrics").body
    assert b"coffee" not in client.get("/metrics").body


def test_transfers_are_counted_when_they_are_stored(client: Client) -> None:
    """A posted or declined transfer counts once; a replay does not count."""
    client.open("a", min_balance=None)
    client.open("b")
    series = [
        'ledger_transfers_total{reason="",status="posted"}',
        'ledger_transfers_total{reason="insufficient-funds",status="declined"}',
    ]
    before = [metric(client, one) for one in series]
    for _ in range(2):
        client.batch(item("t1", "a", "b", 5), item("t2", "b", "a", 6), item("t1", "a", "b", 5))
    assert [metric(client, one) - value for one, value in zip(series, before, strict=True)] == [1, 1]


def test_holds_are_counted_when_they_are_stored(client: Client) -> None:
    """A placed, captured, released or declined hold counts once; a replay does not count."""
    client.open("a", min_balance=None)
    client.open("b")
    results = [("open", ""), ("captured", ""), ("released", ""), ("declined", "insufficient-funds")]
    series = [f'ledger_holds_total{{reason="{reason}",status="{status}"}}' for status, reason in results]
    before = [metric(client, one) for one in series]
    for _ in range(2):
        client.hold("h1", "a", "b", 5)
        client.hold("h2", "a", "b", 5)
        client.hold("h3", "b", "a", 5)
        client.capture("c", "h1")
        client.release("h2")
    assert [metric(client, one) - value for one, value in zip(series, before, strict=True)] == [2, 1, 1, 1]


def test_the_connection_pool_is_measured(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of the pool and the connections in use are read for each request of /metrics."""
    # Tests create other applications in this process, and the last one is measured.
    monkeypatch.setattr(metrics.POOL, "stats", client.application.dependencies.database._pool.get_stats)
    client.get("/v1/transfers")
    assert metric(client, "ledger_pool_size") == 8
    # A new pool counts the connections that it still opens as in use.
    wait_until(lambda: metric(client, "ledger_pool_in_use") == 0, "no connection of the pool is in use")


@pytest.mark.usefixtures("probe_always")
def test_the_schema_versions_are_measured(client: Client) -> None:
    """One is the version that the code requires, the other is the version of the database."""
    client.get("/ready")
    files = len(list((ROOT / "sql").glob("*.sql")))
    assert metric(client, 'ledger_schema_version{which="code"}') == files
    assert metric(client, 'ledger_schema_version{which="database"}') == files


def test_the_route_label_never_contains_input(client: Client) -> None:
    """Every label of a route is a path of the route table."""
    client.get("/v1/accounts/x")
    routes = set(re.findall(r'http_route="([^"]*)"', client.get("/metrics").body.decode()))
    assert routes <= {route.path for route in ROUTES} | {"unmatched"}


def test_the_openapi_document_is_served_byte_for_byte(anonymous: Client) -> None:
    """The response is the file in service/contract/."""
    response = anonymous.get("/v1/openapi.json")
    assert response.body == (ROOT / "service" / "contract" / "openapi.json").read_bytes()
