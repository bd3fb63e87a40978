"""/health, /ready, /metrics and /v1/openapi.json"""

import re
from pathlib import Path

import psycopg
import pytest

from service import readiness
from service.app import ROUTES
from service.readiness import Readiness
from tests.client import Client, item
from tests.conftest import Urls

ROOT = Path(__file__).parents[1]


@pytest.fixture
def nobody(client: Client) -> Client:
    """Somebody without a token."""
    return Client(client.application, token=None)


def metric(client: Client, line: str) -> float:
    """The value of one line of /metrics; 0 if it is not there."""
    match = re.search(rf"^{re.escape(line)} (.*)$", client.get("/metrics").body.decode(), re.MULTILINE)
    return float(match[1]) if match else 0.0


def test_health_answers(nobody: Client) -> None:
    """It needs no token."""
    assert nobody.get("/health").json == {"status": "ok"}


def test_health_does_not_ask_the_database(nobody: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of the database must not restart the service."""
    monkeypatch.setattr(nobody.application.parts.database, "run", lambda work: pytest.fail("asked the database"))
    monkeypatch.setattr(
        nobody.application.parts.readiness, "findings", lambda: dict.fromkeys(("database", "writable", "schema"), False)
    )
    assert (nobody.get("/health").status, nobody.get("/ready").status) == (200, 503)


def test_ready_names_each_check(nobody: Client) -> None:
    """The body says what was looked at."""
    assert nobody.get("/ready").json == {"ready": True, "checks": {"database": True, "writable": True, "schema": True}}


def test_ready_forgives_two_misses_and_not_a_third(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lost packet does not take the service out of traffic, and one answer brings it back."""
    monkeypatch.setattr(readiness, "PROBE_EVERY_SECONDS", 0)
    checked = Readiness(urls.service)
    assert all(checked.findings().values())
    checked._url = "postgresql://localhost:1/none"
    answers = [all(checked.findings().values()) for _ in range(3)]
    checked._url = urls.service
    assert (answers, all(checked.findings().values())) == ([True, True, False], True)


def test_ready_asks_at_most_once_a_second(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask, the database is asked once."""
    checked = Readiness(urls.service)
    checked.findings()
    monkeypatch.setattr(checked, "_probe", lambda: pytest.fail("asked again"))
    assert all(all(checked.findings().values()) for _ in range(100))


def test_ready_needs_the_schema_of_this_code(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is behind is not ready; one that is ahead is."""
    checked = Readiness(urls.service)
    monkeypatch.setattr(readiness, "PROBE_EVERY_SECONDS", 0)
    checked._needed += 1
    assert checked.findings() == {"database": True, "writable": True, "schema": False}
    checked._needed -= 2
    assert all(checked.findings().values())


def test_requests_are_measured_by_route(client: Client) -> None:
    """Ids never become labels, and unknown methods and paths share one name."""
    name = "http_server_request_duration_seconds_count"
    route = 'http_request_method="GET",http_response_status_code="404",http_route="/v1/accounts/{id}"'
    strange = 'http_request_method="_OTHER",http_response_status_code="404",http_route="unmatched"'
    before = metric(client, f"{name}{{{route}}}"), metric(client, f"{name}{{{strange}}}")
    client.get("/v1/accounts/some-id")
    client.request("BREW", "/coffee")
    after = metric(client, f"{name}{{{route}}}"), metric(client, f"{name}{{{strange}}}")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    assert b"some-id" not in client.get("/metrics").body
    assert b"coffee" not in client.get("/metrics").body


def test_transfers_are_counted_when_they_are_written(client: Client) -> None:
    """Posted and declined count once; replays do not."""
    client.open("a", min_balance=None)
    client.open("b")
    posted, declined = (
        'ledger_transfers_total{reason="",status="posted"}',
        'ledger_transfers_total{reason="insufficient-funds",status="declined"}',
    )
    before = metric(client, posted), metric(client, declined)
    for _ in range(2):
        client.batch(item("t1", "a", "b", 5), item("t2", "b", "a", 6), item("t1", "a", "b", 5))
    assert (metric(client, posted) - before[0], metric(client, declined) - before[1]) == (1, 1)


def test_holds_are_counted_when_they_are_written(client: Client) -> None:
    """Placed, captured, released and declined count once each; replays do not."""
    client.open("a", min_balance=None)
    client.open("b")
    ends = [("open", ""), ("captured", ""), ("released", ""), ("declined", "insufficient-funds")]
    lines = [f'ledger_holds_total{{reason="{reason}",status="{status}"}}' for status, reason in ends]
    before = [metric(client, line) for line in lines]
    for _ in range(2):
        client.hold("h1", "a", "b", 5)
        client.hold("h2", "a", "b", 5)
        client.hold("h3", "b", "a", 5)
        client.capture("c", "h1")
        client.release("h2")
    assert [metric(client, line) - value for line, value in zip(lines, before, strict=True)] == [2, 1, 1, 1]


def test_the_pool_is_measured(client: Client) -> None:
    """Its size and what is at work are read when they are asked for."""
    client.get("/v1/transfers")
    assert metric(client, "ledger_pool_size") == 8
    assert metric(client, "ledger_pool_in_use") == 0


def test_the_schema_versions_are_shown(client: Client) -> None:
    """What the code needs and what the database has."""
    client.get("/ready")
    files = len(list((ROOT / "sql").glob("*.sql")))
    assert metric(client, 'ledger_schema_version{which="code"}') == files
    assert metric(client, 'ledger_schema_version{which="database"}') == files


def test_no_label_holds_input(owner: psycopg.Connection[object], client: Client) -> None:
    """Every route label is a template of the route table."""
    client.get("/v1/accounts/x")
    routes = set(re.findall(r'http_route="([^"]*)"', client.get("/metrics").body.decode()))
    assert routes <= {route.path for route in ROUTES} | {"unmatched"}


def test_the_contract_is_served_byte_for_byte(nobody: Client) -> None:
    """What callers download is the file of the repository."""
    served = nobody.get("/v1/openapi.json")
    assert served.body == (ROOT / "service" / "contract" / "openapi.json").read_bytes()
