"""What every request goes through before an endpoint sees it. The table of docs/contract.md, row by row."""

import io
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from service.app import ROUTES
from service.endpoints import fields
from tests.client import Client
from tests.conftest import Unchanged

GOOD = b'{"from": "a", "to": "b", "amount": 1, "currency": "EUR"}'


@pytest.fixture(autouse=True)
def untouched(nothing_changes: Unchanged) -> Any:
    """Nothing that is refused at the door leaves anything behind."""
    with nothing_changes():
        yield


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2/transfers",
        "/v1",
        "/v1/transfers/",
        "/v1/transfers/a/b",
        "//v1/transfers",
        "/v1//transfers",
        "/v1/./transfers",
        "/v1/accounts/.",
        "/v1/accounts/..",
        "/v1/accounts/%2E%2E/entries",
        "/v1/accounts/a%2Fb",
        "/v1/accounts/%00",
        "/v1/accounts/%",
        "/v1/accounts/%4",
        "/v1/accounts/%zz",
        "/v1/accounts/%ff",
        "/v1/accounts/\xff",
        "/V1/transfers",
        "/x://y/health",
        "*",
    ],
)
def test_an_unknown_path_is_route_not_found(client: Client, path: str) -> None:
    """Paths are compared as they were sent: no slash is added, dropped or decoded into another path."""
    reply = client.get(path)
    assert (reply.status, reply.slug) == (404, "route-not-found")


def test_the_absolute_form_of_a_target_is_understood(client: Client) -> None:
    """A client behind a proxy may name the whole URL (RFC 9112, section 3.2.2)."""
    assert client.get("http://ledger.test/v1/transfers?limit=1").status == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "TRACE", "CONNECT", "QUERY", "BREW"])
def test_another_method_is_not_allowed(client: Client, method: str) -> None:
    """405 lists the methods that the path has."""
    reply = client.request(method, "/v1/transfers/t")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, PUT")


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
def test_options_lists_the_methods(client: Client, path: str) -> None:
    """OPTIONS needs no token and answers 204 with Allow."""
    reply = Client(client.application, token=None).request("OPTIONS", path.replace("{", "").replace("}", ""))
    methods = {route.method for route in ROUTES if route.path == path}
    assert (reply.status, reply.body) == (204, b"")
    assert methods < set(reply.headers["Allow"].split(", "))


def test_head_is_get_without_the_body(client: Client) -> None:
    """HEAD has the headers of GET, the length too, and nothing after them."""
    head, get = client.request("HEAD", "/health"), client.get("/health")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(get.body)))


def test_http_1_1_needs_a_host(client: Client) -> None:
    """RFC 9112, section 3.2."""
    assert client.get("/health", environ={"HTTP_HOST": None}).slug == "bad-request"
    assert client.get("/health", environ={"HTTP_HOST": None, "SERVER_PROTOCOL": "HTTP/1.0"}).status == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic ZGV2",
        "Bearer \xfc",
        "Bearer a b",
        "development-only-token",
    ],
)
def test_without_a_known_token_nothing_is_told(client: Client, authorization: str | None) -> None:
    """401 asks for a bearer token."""
    reply = client.get("/v1/transfers", environ={"HTTP_AUTHORIZATION": authorization})
    assert (reply.status, reply.slug, reply.headers["WWW-Authenticate"]) == (401, "unauthorized", "Bearer")


def test_credentials_come_before_everything_that_a_body_can_say(client: Client) -> None:
    """Whoever is not known learns nothing about queries and bodies."""
    stranger = Client(client.application, token="wrong")
    assert stranger.put("/v1/transfers/-?x=1", raw=b"{").slug == "unauthorized"


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=501", "limit=-1", "limit=1.0", "limit=%2B5", "limit=%D9%A3", "limit=+5", "limit=", "limit"),
        *("limit=05", "limit=1_0", "limit=1&limit=1", "after=x", "after=-1", "after=9007199254740992"),
        *("nope=1", "&", "a=%ff"),
    ],
)
def test_refuses_a_query_it_does_not_understand(client: Client, query: str) -> None:
    """A parameter that is unknown, repeated or out of range is an error, never ignored."""
    reply = client.get(f"/v1/transfers?{query}")
    assert (reply.status, reply.slug) == (400, "invalid-query")


# Times that RFC 3339 knows and that have a moment, and whatever else may look like one.
TIMES = {
    "2026-12-01T00:00:00Z": datetime(2026, 12, 1, tzinfo=UTC),
    "2026-12-01T00:00:00.5Z": datetime(2026, 12, 1, microsecond=500_000, tzinfo=UTC),
    "2026-12-01T00:00:00.000001+00:00": datetime(2026, 12, 1, microsecond=1, tzinfo=UTC),
    "2026-12-01T00:00:00-00:00": datetime(2026, 12, 1, tzinfo=UTC),
    "2026-12-01T02:00:00+02:00": datetime(2026, 12, 1, tzinfo=UTC),
    "2026-11-30T18:30:00-05:30": datetime(2026, 12, 1, tzinfo=UTC),
    "2028-02-29T23:59:59Z": datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC),
    "0001-01-01T00:00:00Z": datetime(1, 1, 1, tzinfo=UTC),
    "9999-12-31T23:59:59.999999Z": datetime.max.replace(tzinfo=UTC),
}
NO_TIMES = [
    *("", "now", "1733011200", "2026-12-01", "2026-12-01T00:00Z", "2026-12-01T00Z", "20261201T000000Z"),
    *("2026-12-01T00:00:00", "2026-12-01T00:00:00.1234567Z", "2026-12-01T00:00:00.Z", "2026-12-01T00:00:00,5Z"),
    *("2026-12-01 00:00:00Z", "2026-12-01t00:00:00Z", "2026-12-01T00:00:00z", " 2026-12-01T00:00:00Z"),
    *("2026-12-01T00:00:00Z ", "2026-12-01T00:00:00 Z", "2026-12-01T00:00:00 02:00", "2026-W49-2T00:00:00Z"),
    *("2026-12-01T00:00:00+0200", "2026-12-01T00:00:00+02", "2026-12-01T00:00:00+2:00", "2026-12-01T00:00:00+24:00"),
    *("2016-12-31T23:59:60Z", "2026-12-01T24:00:00Z", "2026-12-01T00:60:00Z", "2026-02-30T00:00:00Z"),
    *("2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"),
    *("+2026-12-01T00:00:00Z", "10000-01-01T00:00:00Z", "2026-12-01T00:00:00[UTC]", "٢٠٢٦-12-01T00:00:00Z"),
    *("2026-12-01T00:00:00Z\n", "2026-12-01T00:00:00+02:60"),
]


@pytest.mark.parametrize("text", TIMES)
def test_understands_a_time(client: Client, text: str) -> None:
    """RFC 3339 with Z or an offset and up to six digits of a second, in a query as in a body."""
    assert fields.read_moment(text) == TIMES[text]
    assert client.get(f"/v1/accounts/a/balance?at={quote(text)}").slug == "not-found"
    reply = client.put("/v1/holds/h", {"from": "x", "to": "y", "amount": 1, "currency": "EUR", "expires_at": text})
    assert reply.slug == "account-not-found"


@pytest.mark.parametrize("text", NO_TIMES)
def test_refuses_what_is_no_time(client: Client, text: str) -> None:
    """No zone, no such day, a leap second, a seventh digit, a space: a time has one spelling, and none is guessed."""
    assert client.get(f"/v1/accounts/a/balance?at={quote(text)}").slug == "invalid-query"
    reply = client.put("/v1/holds/h", {"from": "x", "to": "y", "amount": 1, "currency": "EUR", "expires_at": text})
    assert [error["pointer"] for error in reply.json["errors"]] == ["/expires_at"]


@pytest.mark.parametrize("value", [0, 1733011200, True, [], {}, ["2026-12-01T00:00:00Z"]])
def test_refuses_a_time_of_another_type(client: Client, value: Any) -> None:
    """A time is a string; only null and nothing mean never."""
    reply = client.put("/v1/holds/h", {"from": "x", "to": "y", "amount": 1, "currency": "EUR", "expires_at": value})
    assert [error["pointer"] for error in reply.json["errors"]] == ["/expires_at"]


PLAIN = {"from": "a", "to": "b", "amount": 1, "currency": "EUR"}


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"captures": "h", "reverses": "t"}, {"/reverses"}),
        ({"captures": "h", "from": "a"}, {"/from"}),
        ({"captures": "h", "amount": 1, "currency": "EUR", "to": "b"}, {"/currency", "/to"}),
        ({"reverses": "t", **PLAIN}, {"/from", "/to", "/currency"}),
        ({"reverses": "t", "id": "x"}, {"/id"}),
        ({"reverses": "t", "expires_at": None}, {"/expires_at"}),
        ({"captures": None}, {"/captures"}),
        ({"captures": None, **PLAIN}, {"/captures", "/from", "/to", "/currency"}),
        ({"hold": "h"}, {"/hold", "/from", "/to", "/amount", "/currency"}),
    ],
)
def test_refuses_members_that_do_not_go_together(client: Client, body: dict[str, Any], pointers: set[str]) -> None:
    """A transfer is plain, a capture or a reversal: accounts and currency are said once."""
    reply = client.put("/v1/transfers/t", body)
    assert (reply.status, {error["pointer"] for error in reply.json["errors"]}) == (400, pointers)


def test_an_operation_without_parameters_takes_none(client: Client) -> None:
    """Also a write refuses what it does not know."""
    assert client.put("/v1/transfers/t?dry_run=true", raw=GOOD).slug == "invalid-query"


@pytest.mark.parametrize(
    ("environ", "slug"),
    [
        ({"CONTENT_TYPE": None}, "unsupported-media-type"),
        ({"CONTENT_TYPE": "text/plain"}, "unsupported-media-type"),
        ({"CONTENT_TYPE": "application/json; charset=latin-1"}, "unsupported-media-type"),
        ({"CONTENT_TYPE": "application/problem+json"}, "unsupported-media-type"),
        ({"HTTP_CONTENT_ENCODING": "gzip"}, "unsupported-media-type"),
        ({"CONTENT_LENGTH": None}, "length-required"),
        ({"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked"}, "length-required"),
        ({"CONTENT_LENGTH": "ten"}, "bad-request"),
        ({"CONTENT_LENGTH": "-1"}, "bad-request"),
        ({"CONTENT_LENGTH": "65537"}, "body-too-large"),
        ({"CONTENT_LENGTH": "9" * 30}, "body-too-large"),
        ({"CONTENT_LENGTH": "1000"}, "bad-request"),
    ],
)
def test_refuses_a_wrong_envelope(client: Client, environ: dict[str, str | None], slug: str) -> None:
    """Type, length and encoding are looked at before the body."""
    assert client.put("/v1/transfers/t", raw=GOOD, environ=environ).slug == slug


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'])
def test_utf_8_may_be_said(client: Client, content_type: str) -> None:
    """The one charset that JSON has may be named."""
    assert client.put("/v1/transfers/t", raw=b"[]", environ={"CONTENT_TYPE": content_type}).slug == "invalid-request"


def test_a_body_that_is_too_large_is_not_read(client: Client) -> None:
    """413 comes from Content-Length alone."""

    class Untouchable(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("the body was read")

    environ: Any = {"CONTENT_LENGTH": "1048577", "wsgi.input": Untouchable()}
    assert client.post("/v1/transfers", raw=b"x", environ=environ).slug == "body-too-large"


@pytest.mark.promise(16)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"a": 1,}',
        b"{'a': 1}",
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b'{"a": 1} {"a": 1}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"a": "\xff"}',
        b'{"a": 1, "a": 1}',
        b'{"metadata": {"a": "1", "a": "2"}}',
        b'{"a": ' + b"[" * 9 + b"]" * 9 + b"}",
        b"[" * 30000,
        b'{"a":' * 10000,
        b'{"amount": 123456789012345678901}',
        b'{"amount": 1e999}',
        b'{"amount": 0.00000000000000000001}',
        b'{"a": "\n"}',
        b"nul",
    ],
)
def test_refuses_what_is_not_strict_json(client: Client, raw: bytes) -> None:
    """The library's kindness ends here: one UTF-8 value, each member once, no great depth, no endless number."""
    assert client.put("/v1/transfers/t", raw=raw).slug == "invalid-json"


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"5", b"null", b"true", b'{"a": "[[[[[[[[[[[[[[[["}'])
def test_a_body_of_another_shape_is_invalid(client: Client, raw: bytes) -> None:
    """Well-formed JSON that is no such object is a matter of members."""
    assert client.put("/v1/transfers/t", raw=raw).slug == "invalid-request"


@pytest.mark.parametrize("text", ["\\u0000", "\\n", "\\u001f", "\\u007f", "\\u0085", "\\ud800", "\\udfff"])
@pytest.mark.parametrize("template", ['{"metadata": {"k": "%s"}}', '{"metadata": {"%s": "v"}}'])
def test_refuses_text_that_no_database_should_hold(client: Client, template: str, text: str) -> None:
    """NUL, control characters and half surrogate pairs are refused with a pointer, before SQL sees them."""
    reply = client.put("/v1/accounts/a", raw=(template % text).encode())
    assert reply.slug == "invalid-request"
    assert any(error["pointer"].startswith("/metadata/") for error in reply.json["errors"])


@pytest.mark.promise(18)
def test_no_answer_repeats_much_of_the_input(client: Client) -> None:
    """At most 64 characters of anything sent come back, and nothing of a token."""
    reply = client.put("/v1/transfers/t", {"x" * 1000: 1})
    assert b"x" * 65 not in reply.body
    reply = client.get(f"/v1/transfers?{'y' * 1000}=1")
    assert b"y" * 65 not in reply.body
    reply = client.get("/v1/transfers", environ={"HTTP_AUTHORIZATION": "Bearer secret-of-mine"})
    assert b"secret-of-mine" not in reply.body


@pytest.mark.promise(19)
def test_every_answer_carries_the_request_id(client: Client) -> None:
    """A good id of the caller is taken over; any other is replaced."""
    assert client.get("/health", environ={"HTTP_X_REQUEST_ID": "abc-1.2_X"}).headers["X-Request-Id"] == "abc-1.2_X"
    for bad in ("", "a b", "x" * 65, "a\n", "é"):
        made = client.get("/health", environ={"HTTP_X_REQUEST_ID": bad}).headers["X-Request-Id"]
        assert len(made) == 32
    problem = client.get("/v1/accounts/unknown", environ={"HTTP_X_REQUEST_ID": "mine"})
    assert problem.json["request_id"] == problem.headers["X-Request-Id"] == "mine"


def test_nothing_is_cached_or_sniffed(client: Client) -> None:
    """Every answer, good or bad, says so."""
    for path in ("/health", "/v1/accounts/unknown", "/nowhere"):
        headers = client.get(path).headers
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")


def test_an_unforeseen_error_tells_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 has no detail; the log has the stack under the same request id."""

    def broken(work: Any) -> Any:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(client.application.parts.database, "run", broken)
    reply = client.get("/v1/transfers")
    assert (reply.status, reply.slug) == (500, "internal-error")
    assert b"secret" not in reply.body
    assert any(record.exc_info and "a secret" in str(record.exc_info[1]) for record in caplog.records)
