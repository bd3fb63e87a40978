"""/health, /ready, /metrics and /v1/openapi.json"""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service import database, readiness
from service.http.app import ROUTES
from service.migrate import history
from service.readiness import Readiness
from tests.support.client import Client, item
from tests.support.ledger import Urls
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
UNREACHABLE = "postgresql://localhost:1/none"


@pytest.fixture
def probe_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of Readiness.checks probes the database."""
    monkeypatch.setattr(readiness, "PROBE_EVERY_SECONDS", 0)


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
    failed = dict.fromkeys(("database", "writable", "schema"), False)
    monkeypatch.setattr(dependencies.database, "run", lambda work: pytest.fail("the database was used"))
    monkeypatch.setattr(dependencies.readiness, "checks", lambda: failed)
    assert (anonymous.get("/health").status, anonymous.get("/ready").status) == (200, 503)


def test_ready_returns_the_result_of_each_check(anonymous: Client) -> None:
    """The body has one member for each check."""
    checks = {"database": True, "writable": True, "schema": True}
    assert anonymous.get("/ready").json == {"ready": True, "checks": checks}


@pytest.mark.usefixtures("probe_always")
def test_the_third_failed_probe_in_a_row_makes_the_service_unready(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two failed probes have no effect, and one successful probe makes the service ready again."""
    service_readiness = Readiness(urls.service)
    assert all(service_readiness.checks().values())
    connect = database.connect
    with monkeypatch.context() as outage:
        outage.setattr(database, "connect", lambda url: connect(UNREACHABLE))
        results = [all(service_readiness.checks().values()) for _ in range(3)]
    assert (results, all(service_readiness.checks().values())) == ([True, True, False], True)


def test_ready_probes_the_database_at_most_once_per_interval(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of requests in the interval has no effect."""
    monkeypatch.setattr(readiness, "PROBE_EVERY_SECONDS", 3600)  # longer than the test, also under load
    service_readiness = Readiness(urls.service)
    service_readiness.checks()
    monkeypatch.setattr(database, "connect", lambda url: pytest.fail("the database was probed again"))
    assert all(all(service_readiness.checks().values()) for _ in range(100))


@pytest.mark.usefixtures("probe_always")
def test_ready_requires_the_schema_version_of_the_code(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older schema is not ready; a newer schema is."""
    service_readiness, read_schema_state = Readiness(urls.service), history.read_schema_state
    difference = -1

    def read_another_version(connection: psycopg.Connection[Any]) -> tuple[int, int, bool]:
        version, min_code, writable = read_schema_state(connection)
        return version + difference, min_code, writable

    monkeypatch.setattr(history, "read_schema_state", read_another_version)
    assert service_readiness.checks() == {"database": True, "writable": True, "schema": False}
    difference = 1
    assert all(service_readiness.checks().values())


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


def test_the_connection_pool_is_measured(client: Client) -> None:
    """The size of the pool and the connections in use are read for each request of /metrics."""
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
