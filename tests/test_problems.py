"""Every slug of the catalogue is triggered, has its page, and is answered with its own status and members."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from service import database
from service.contract import PROBLEMS
from tests.client import Client, Reply

Trigger = Callable[[Client, pytest.MonkeyPatch, psycopg.Connection[Any]], Reply]


def failing(error: Exception) -> Callable[[Client, pytest.MonkeyPatch, psycopg.Connection[Any]], Reply]:
    """A request whose work on the database raises this error, every time."""

    def trigger(client: Client, patch: pytest.MonkeyPatch, owner: psycopg.Connection[Any]) -> Reply:
        def broken(self: Any, deadline: float) -> Any:
            raise error

        patch.setattr(database.Database, "_lend", broken)
        return client.move("t", "a", "b", 1)

    return trigger


def with_status(status: str) -> Trigger:
    def trigger(client: Client, patch: pytest.MonkeyPatch, owner: psycopg.Connection[Any]) -> Reply:
        owner.execute("UPDATE account SET status = %s WHERE id = 'b'", [status])
        return client.move("t", "a", "b", 1)

    return trigger


def sent(*arguments: Any, **given: Any) -> Trigger:
    return lambda client, patch, owner: client.request(*arguments, **given)


TRANSFER = {"from": "a", "to": "b", "amount": 1, "currency": "EUR"}
PATH = "/v1/transfers/t"

TRIGGERS: dict[str, Trigger] = {
    "bad-request": sent("GET", "/health", environ={"HTTP_HOST": None}),
    "invalid-query": sent("GET", "/v1/transfers?limit=0"),
    "invalid-json": sent("PUT", PATH, raw=b"{"),
    "invalid-request": sent("PUT", PATH, {}),
    "unauthorized": sent("GET", "/v1/transfers", environ={"HTTP_AUTHORIZATION": None}),
    "forbidden": lambda client, patch, owner: _without_scopes(client).get("/v1/transfers"),
    "route-not-found": sent("GET", "/nowhere"),
    "not-found": sent("GET", PATH),
    "method-not-allowed": sent("DELETE", PATH),
    "id-conflict": lambda client, patch, owner: (client.move("t", "a", "b", 1), client.move("t", "a", "b", 2))[1],
    "length-required": sent("PUT", PATH, TRANSFER, environ={"CONTENT_LENGTH": None}),
    "body-too-large": sent("PUT", PATH, TRANSFER, environ={"CONTENT_LENGTH": "99999999"}),
    "unsupported-media-type": sent("PUT", PATH, TRANSFER, environ={"CONTENT_TYPE": "text/plain"}),
    "insufficient-funds": sent("PUT", PATH, TRANSFER | {"from": "poor"}),
    "account-frozen": with_status("frozen"),
    "account-closed": with_status("closed"),
    "currency-mismatch": sent("PUT", PATH, TRANSFER | {"currency": "USD"}),
    "balance-out-of-range": lambda client, patch, owner: (
        client.move("t1", "a", "b", 2**53 - 1),
        client.move("t2", "a", "b", 1),
    )[1],
    "hold-not-open": lambda client, patch, owner: (
        client.hold("h", "a", "b", 1),
        client.release("h"),
        client.capture("t", "h"),
    )[2],
    "capture-exceeds-hold": lambda client, patch, owner: (
        client.hold("h", "a", "b", 1),
        client.capture("t", "h", amount=2),
    )[1],
    "reversal-exceeds-transfer": lambda client, patch, owner: (
        client.move("t", "a", "b", 1),
        client.reverse("r", "t", amount=2),
    )[1],
    "account-not-empty": lambda client, patch, owner: (
        client.move("t", "a", "b", 1),
        client.change("b", status="closed"),
    )[1],
    "hold-not-found": sent("PUT", PATH, {"captures": "nowhere"}),
    "transfer-not-found": sent("PUT", PATH, {"reverses": "nowhere"}),
    "account-not-found": sent("PUT", PATH, TRANSFER | {"to": "nobody"}),
    "batch-refused": lambda client, patch, owner: client.batch({"id": "t", **TRANSFER, "from": "poor"}, atomic=True),
    "overloaded": lambda client, patch, owner: (
        patch.setattr(client.application, "_places", threading.Semaphore(0)),
        client.get("/v1/transfers"),
    )[1],
    "database-unavailable": failing(psycopg.OperationalError("gone")),
    "deadline-exceeded": failing(database.DeadlinePassed("late")),
    "internal-error": failing(ZeroDivisionError("a mistake")),
}


def _without_scopes(client: Client) -> Client:
    application = type(client.application)(
        client.application.parts,
        tuple(dataclasses.replace(caller, scopes=frozenset()) for caller in client.application._callers),
    )
    return Client(application)


@pytest.mark.promise(25)
@pytest.mark.parametrize("slug", PROBLEMS)
def test_a_problem_is_answered(
    client: Client, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, slug: str
) -> None:
    """The slug's condition gives its status, its title and no member that the catalogue does not name."""
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
def test_a_problem_has_its_page(client: Client, slug: str) -> None:
    """The `type` of a problem can be followed, without a token."""
    page = Client(client.application, token=None).get(f"/problems/{slug}").json
    assert (page["slug"], page["status"]) == (slug, PROBLEMS[slug].status)
    assert page["retry"] in ("mend", "same", "never")


def test_there_is_no_page_for_another_slug(client: Client) -> None:
    """The catalogue is closed."""
    assert client.get("/problems/unheard-of").slug == "not-found"


@pytest.mark.promise(25)
def test_every_problem_has_a_trigger_here() -> None:
    """A new slug needs a way to cause it."""
    assert TRIGGERS.keys() == PROBLEMS.keys()
