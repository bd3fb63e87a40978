"""The problem catalogue: each slug is triggered once, has its status and members, and has a page."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from service import session
from service.contract import LIMITS, PROBLEMS
from service.http import app, batches
from service.session import DeadlinePassed
from tests.support.client import Client, Reply, item, movement

Trigger = Callable[[Client, pytest.MonkeyPatch, psycopg.Connection[Any]], Reply]


def sent(*arguments: Any, **options: Any) -> Trigger:
    """Send one request with these arguments."""
    return lambda client, patch, owner: client.request(*arguments, **options)


def last_of(requests: Callable[[Client], list[Reply]]) -> Trigger:
    """Send several requests; return the last response."""
    return lambda client, patch, owner: requests(client)[-1]


def with_status(status: str) -> Trigger:
    """Send a transfer to an account with this status."""
    return last_of(lambda client: [client.change("b", status=status), client.move("t")])


def batch_too_large(client: Client, patch: pytest.MonkeyPatch, owner: psycopg.Connection[Any]) -> Reply:
    """Send a batch to a service that allows no metadata in its results."""
    patch.setattr(batches, "LIMITS", replace(LIMITS, batch_metadata_characters=0))
    return client.batch(item("t", metadata={"k": "v"}))


def failing(error: Exception) -> Trigger:
    """Send a transfer while each access to the database raises this error."""

    def trigger(client: Client, patch: pytest.MonkeyPatch, owner: psycopg.Connection[Any]) -> Reply:
        def fail(pool: Any, timeout: float) -> Any:
            raise error

        patch.setattr(ConnectionPool, "connection", fail)
        return client.move("t")

    return trigger


def overloaded(client: Client, patch: pytest.MonkeyPatch, owner: psycopg.Connection[Any]) -> Reply:
    """Send a request to an application whose limit of requests in progress is 0."""
    patch.setattr(app, "MAX_IN_FLIGHT", 0)
    return client.with_scopes("read").get("/v1/transfers")


def clock_ahead(client: Client, patch: pytest.MonkeyPatch, owner: psycopg.Connection[Any]) -> Reply:
    """Send a transfer to a service whose clock is behind that of the database."""
    patch.setattr(session, "CLOCK_MAX_AHEAD_SECONDS", -60)
    return client.move("t")


PATH = "/v1/transfers/t"
TRIGGERS: dict[str, Trigger] = {
    "bad-request": sent("GET", "/health", environ={"HTTP_HOST": None}),
    "invalid-query": sent("GET", "/v1/transfers?limit=0"),
    "invalid-json": sent("PUT", PATH, raw=b"{"),
    "invalid-request": sent("PUT", PATH, {}),
    "unauthorized": sent("GET", "/v1/transfers", environ={"HTTP_AUTHORIZATION": None}),
    "forbidden": last_of(lambda client: [client.with_scopes().get("/v1/transfers")]),
    "route-not-found": sent("GET", "/nowhere"),
    "not-found": sent("GET", PATH),
    "method-not-allowed": sent("DELETE", PATH),
    "id-conflict": last_of(lambda client: [client.move("t", amount=1), client.move("t", amount=2)]),
    "length-required": sent("PUT", PATH, movement(), environ={"CONTENT_LENGTH": None}),
    "body-too-large": sent("PUT", PATH, movement(), environ={"CONTENT_LENGTH": "99999999"}),
    "unsupported-media-type": sent("PUT", PATH, movement(), environ={"CONTENT_TYPE": "text/plain"}),
    "insufficient-funds": sent("PUT", PATH, movement("poor")),
    "max-balance-exceeded": last_of(lambda client: [client.change("b", max_balance=0), client.move("t")]),
    "account-frozen": with_status("frozen"),
    "account-closed": with_status("closed"),
    "currency-mismatch": sent("PUT", PATH, movement(currency="USD")),
    "balance-out-of-range": last_of(lambda client: [client.move("t1", amount=2**53 - 1), client.move("t2")]),
    "hold-not-open": last_of(lambda client: [client.hold("h"), client.release("h"), client.capture("t", "h")]),
    "capture-exceeds-hold": last_of(lambda client: [client.hold("h"), client.capture("t", "h", amount=2)]),
    "reversal-exceeds-transfer": last_of(lambda client: [client.move("t"), client.reverse("r", "t", amount=2)]),
    "account-not-empty": last_of(lambda client: [client.move("t"), client.change("b", status="closed")]),
    "hold-not-found": sent("PUT", PATH, {"captures": "unknown"}),
    "transfer-not-found": sent("PUT", PATH, {"reverses": "unknown"}),
    "account-not-found": sent("PUT", PATH, movement(target="unknown")),
    "batch-refused": last_of(lambda client: [client.batch(item("t", "poor"), atomic=True)]),
    "batch-too-large": batch_too_large,
    "overloaded": overloaded,
    "database-unavailable": failing(psycopg.OperationalError("connection lost")),
    "clock-ahead": clock_ahead,
    "deadline-exceeded": failing(DeadlinePassed("late")),
    "internal-error": failing(ZeroDivisionError("a bug")),
}


@pytest.mark.promise(25)
@pytest.mark.parametrize("slug", PROBLEMS)
def test_a_trigger_returns_its_problem(
    client: Client, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, slug: str
) -> None:
    """The response has the status and title of its slug, and only extension members that the catalogue lists."""
    client.open("a", "b", min_balance=None)
    client.open("poor")
    reply = TRIGGERS[slug](client, monkeypatch, owner)
    problem = PROBLEMS[slug]
    assert (reply.status, reply.slug, reply.json["title"]) == (problem.status, slug, problem.title)
    extra = reply.json.keys() - {"type", "title", "status", "detail", "request_id"}
    assert extra <= set(problem.members)
    assert ("Retry-After" in reply.headers) == (problem.status == 503)
    assert reply.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("slug", PROBLEMS)
def test_a_problem_has_a_page(anonymous: Client, slug: str) -> None:
    """GET on the `type` of a problem returns its entry in the catalogue, without a token."""
    page = anonymous.get(f"/problems/{slug}").json
    assert (page["slug"], page["status"]) == (slug, PROBLEMS[slug].status)
    assert page["retry"] in ("after-change", "same-request", "never")


def test_an_unknown_slug_has_no_page(client: Client) -> None:
    """A slug that is not in the catalogue returns not-found."""
    assert client.get("/problems/unknown-slug").slug == "not-found"


@pytest.mark.promise(25)
def test_every_problem_has_a_trigger() -> None:
    """A new slug needs a trigger in this file."""
    assert TRIGGERS.keys() == PROBLEMS.keys()
