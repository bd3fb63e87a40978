"""Every limit in limits.json: a value at the limit is accepted, a value one above it is refused."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from service.contract import LIMITS, Limits
from tests.support.client import Client, item

TESTED_ELSEWHERE = {
    "request_deadline_seconds",
    "retry_after_seconds",
    "reflected_characters",
    "page_bytes",
    "batch_metadata_characters",
}


def account(client: Client, **body: Any) -> int:
    """Open an account with these members; return the status."""
    return client.put("/v1/accounts/a", {"currency": "EUR", **body}).status


def padded(client: Client, path: str, size: int) -> int:
    """Send a valid body, padded with white space to `size` bytes; return the status."""
    body = b'{"atomic": false, "items": [{"release": {"id": "h"}}]}'
    if path != "/v1/batches":
        return client.put(path, raw=b'{"currency": "EUR"}'.ljust(size)).status
    return client.post(path, raw=body.ljust(size)).status


def batch(client: Client, size: int) -> int:
    """Send a batch of `size` items; return the status."""
    return client.batch(*(item(f"t{n}", "x", "y", 1) for n in range(size))).status


def nested(client: Client, depth: int) -> int:
    """Send an invalid body of this depth. Return 400 if the depth is the reason of the refusal, else 200."""
    reply = client.put("/v1/accounts/a", raw=b'{"currency":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}")
    return 200 if reply.slug == "invalid-request" else 400


def digits(client: Client, count: int) -> int:
    """Send an invalid number of `count` digits. Return 400 if its length is the reason of the refusal, else 200."""
    reply = client.put("/v1/accounts/a", raw=b'{"currency": "EUR", "min_balance": %b}' % (b"1" * count))
    return 200 if reply.slug == "invalid-request" else 400


def listed_errors(client: Client, count: int) -> int:
    """Send a body with `count` errors. Return 200 if the response lists all of them, else 400."""
    errors = client.put("/v1/accounts/a", {"currency": "EUR", **{f"m{n}": 1 for n in range(count)}}).json["errors"]
    return 200 if len(errors) == count else 400


CASES: list[tuple[str, Callable[[Client, int], int]]] = [
    ("id_characters", lambda client, size: client.put(f"/v1/accounts/{'x' * size}", {"currency": "EUR"}).status),
    ("amount_max", lambda client, size: account(client, min_balance=-size)),
    ("metadata_members", lambda client, size: account(client, metadata={f"k{n}": "v" for n in range(size)})),
    ("metadata_name_characters", lambda client, size: account(client, metadata={"é" * size: "v"})),
    ("metadata_value_characters", lambda client, size: account(client, metadata={"k": "é" * size})),
    ("batch_items", batch),
    ("body_bytes", lambda client, size: padded(client, "/v1/accounts/a", size)),
    ("batch_body_bytes", lambda client, size: padded(client, "/v1/batches", size)),
    ("json_depth", nested),
    ("number_digits", digits),
    ("page_max", lambda client, size: client.get(f"/v1/transfers?limit={size}").status),
    ("errors_listed", listed_errors),
]


@pytest.mark.promise(20)
@pytest.mark.parametrize(("name", "send"), CASES, ids=[name for name, _ in CASES])
def test_the_limit_is_accepted_and_one_more_is_refused(
    client: Client, name: str, send: Callable[[Client, int], int]
) -> None:
    """A value at the limit is accepted; a value one above it is refused."""
    limit = getattr(LIMITS, name)
    assert send(client, limit) in (200, 201)
    assert send(client, limit + 1) in (400, 413)


def test_a_transfer_has_the_limit_of_a_balance(client: Client) -> None:
    """The maximum amount of a transfer is the maximum of a balance."""
    client.open("rich", "poor", min_balance=None)
    assert client.move("t1", "rich", "poor", LIMITS.amount_max).status == 201
    assert client.move("t2", "rich", "poor", LIMITS.amount_max + 1).status == 400


def test_holds_captures_and_reversals_have_the_limit_of_a_balance(client: Client) -> None:
    """The maximum amount of a hold, a capture and a reversal is the maximum of a balance."""
    client.open("rich", "poor", min_balance=None)
    assert client.hold("h1", "rich", "poor", LIMITS.amount_max).status == 201
    assert client.hold("h2", "rich", "poor", LIMITS.amount_max + 1).status == 400
    assert client.capture("c1", "h1", amount=LIMITS.amount_max + 1).status == 400
    assert client.capture("c1", "h1", amount=LIMITS.amount_max).status == 201
    assert client.reverse("r1", "c1", amount=LIMITS.amount_max + 1).status == 400
    assert client.reverse("r1", "c1", amount=LIMITS.amount_max).status == 201


@pytest.mark.parametrize(
    "path", ["/v1/accounts", "/v1/accounts/x/entries", "/v1/accounts/x/changes", "/v1/accounts/x/holds"]
)
def test_every_list_has_the_same_page_limit(client: Client, path: str) -> None:
    """The parameter `limit` of each list is at most page_max."""
    client.open("x")
    assert client.get(f"{path}?limit={LIMITS.page_max}").status == 200
    assert client.get(f"{path}?limit={LIMITS.page_max + 1}").status == 400


def test_a_page_has_the_default_size(client: Client) -> None:
    """Without `limit`, a page has page_default rows."""
    client.open("rich", "poor", min_balance=None)
    client.batch(*(item(f"t{n}", "rich", "poor", 1) for n in range(LIMITS.page_default + 1)))
    page = client.get("/v1/transfers").json
    assert (len(page["transfers"]), page["next"]) == (LIMITS.page_default, str(LIMITS.page_default))
    client.open(*(f"a{n:02}" for n in range(LIMITS.page_default + 1)))
    page = client.get("/v1/accounts?prefix=a").json
    assert (len(page["accounts"]), page["next"]) == (LIMITS.page_default, f"a{LIMITS.page_default - 1}")


def test_every_limit_is_tested() -> None:
    """A new limit needs a case in this file, or a test of its own that is named here."""
    tested = {name for name, _ in CASES} | {"page_default"} | TESTED_ELSEWHERE
    assert tested == {field.name for field in fields(Limits)}
