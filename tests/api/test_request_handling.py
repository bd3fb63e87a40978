"""The checks before an endpoint runs, in the order of the table in docs/contract.md."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from service.http import fields
from service.http.app import ROUTES
from tests.support.client import Client, movement
from tests.support.ledger import Unchanged

VALID = json.dumps(movement()).encode()


@pytest.fixture(autouse=True)
def unchanged_database(nothing_changes: Unchanged) -> Iterator[None]:
    """No request of this file changes the database."""
    with nothing_changes():
        yield


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/v2/transfers", "/v1", "/v1/transfers/", "/v1/transfers/a/b", "/V1/transfers", "*"),
        *("//v1/transfers", "/v1//transfers", "/v1/./transfers", "/x://y/health"),
        *("/v1/accounts/.", "/v1/accounts/..", "/v1/accounts/%2E%2E/entries", "/v1/accounts/a%2Fb"),
        *("/v1/accounts/%00", "/v1/accounts/%", "/v1/accounts/%4", "/v1/accounts/%zz", "/v1/accounts/%ff"),
        "/v1/accounts/\xff",
    ],
)
def test_an_unknown_path_is_not_found(client: Client, path: str) -> None:
    """The path is matched as it was sent: no slash is added, removed or decoded."""
    reply = client.get(path)
    assert (reply.status, reply.slug) == (404, "route-not-found")


def test_the_request_target_can_be_an_absolute_url(client: Client) -> None:
    """A client sends this form to a proxy (RFC 9112, section 3.2.2)."""
    assert client.get("http://ledger.test/v1/transfers?limit=1").status == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "TRACE", "CONNECT", "QUERY", "BREW"])
def test_an_unsupported_method_is_refused(client: Client, method: str) -> None:
    """The response is 405, and `Allow` lists the methods of the path."""
    reply = client.request(method, "/v1/transfers/t")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, PUT")


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
def test_options_lists_the_methods_of_a_path(anonymous: Client, path: str) -> None:
    """OPTIONS requires no token and returns 204 with `Allow`."""
    reply = anonymous.request("OPTIONS", path.replace("{", "").replace("}", ""))
    methods = {route.method for route in ROUTES if route.path == path}
    assert (reply.status, reply.body) == (204, b"")
    assert methods < set(reply.headers["Allow"].split(", "))


def test_head_returns_the_headers_of_get_without_the_body(client: Client) -> None:
    """Content-Length is that of GET."""
    head, get = client.request("HEAD", "/health"), client.get("/health")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(get.body)))


def test_an_http_1_1_request_requires_the_header_host(client: Client) -> None:
    """An HTTP/1.0 request does not (RFC 9112, section 3.2)."""
    assert client.get("/health", environ={"HTTP_HOST": None}).slug == "bad-request"
    assert client.get("/health", environ={"HTTP_HOST": None, "SERVER_PROTOCOL": "HTTP/1.0"}).status == 200


@pytest.mark.parametrize(
    "authorization",
    [
        *(None, "", "Bearer", "Bearer ", "Bearer unknown", "Bearer \xfc", "Bearer a b"),
        *("Basic ZGV2", "development-only-token"),
    ],
)
def test_a_request_without_a_known_token_is_refused(client: Client, authorization: str | None) -> None:
    """The response is 401, and WWW-Authenticate requests a bearer token."""
    reply = client.get("/v1/transfers", environ={"HTTP_AUTHORIZATION": authorization})
    assert (reply.status, reply.slug, reply.headers["WWW-Authenticate"]) == (401, "unauthorized", "Bearer")


def test_the_token_is_checked_before_query_id_and_body(client: Client) -> None:
    """Without a known token, a request with more errors returns only 401."""
    unknown = Client(client.application, token="unknown")
    assert unknown.put("/v1/transfers/-?x=1", raw=b"{").slug == "unauthorized"


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=501", "limit=-1", "limit=1.0", "limit=%2B5", "limit=%D9%A3", "limit=+5", "limit=", "limit"),
        *("limit=05", "limit=1_0", "limit=1&limit=1", "after=x", "after=-1", "after=9007199254740992"),
        *("unknown=1", "&", "a=%ff"),
    ],
)
def test_an_invalid_query_is_refused(client: Client, query: str) -> None:
    """A parameter that is unknown, repeated, malformed or out of range is an error."""
    reply = client.get(f"/v1/transfers?{query}")
    assert (reply.status, reply.slug) == (400, "invalid-query")


VALID_TIMES = {
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
INVALID_TIMES = [
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


@pytest.mark.parametrize("text", VALID_TIMES)
def test_a_time_of_rfc_3339_is_accepted(client: Client, text: str) -> None:
    """It has `Z` or an offset and up to six digits of a second, in a query and in a body."""
    assert fields.parse_time(text) == VALID_TIMES[text]
    assert client.get(f"/v1/accounts/a/balance?at={quote(text)}").slug == "not-found"
    reply = client.put("/v1/holds/h", movement(expires_at=text))
    assert reply.slug == "account-not-found"


@pytest.mark.parametrize("text", INVALID_TIMES)
def test_an_invalid_time_is_refused(client: Client, text: str) -> None:
    """Examples: without an offset, a day that does not exist, a leap second, seven digits of a second, a space."""
    assert client.get(f"/v1/accounts/a/balance?at={quote(text)}").slug == "invalid-query"
    reply = client.put("/v1/holds/h", movement(expires_at=text))
    assert reply.pointers == ["/expires_at"]


@pytest.mark.parametrize("value", [0, 1733011200, True, [], {}, ["2026-12-01T00:00:00Z"]])
def test_a_time_that_is_not_a_string_is_refused(client: Client, value: Any) -> None:
    """Only null is accepted beside a string."""
    reply = client.put("/v1/holds/h", movement(expires_at=value))
    assert reply.pointers == ["/expires_at"]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"captures": "h", "reverses": "t"}, {"/reverses"}),
        ({"captures": "h", "from": "a"}, {"/from"}),
        ({"captures": "h", "amount": 1, "currency": "EUR", "to": "b"}, {"/currency", "/to"}),
        (movement(reverses="t"), {"/from", "/to", "/currency"}),
        ({"reverses": "t", "id": "x"}, {"/id"}),
        ({"reverses": "t", "expires_at": None}, {"/expires_at"}),
        ({"captures": None}, {"/from", "/to", "/amount", "/currency"}),
        ({"captures": "h", "reverses": None, "from": None}, {"/from"}),
        ({"hold": "h"}, {"/hold", "/from", "/to", "/amount", "/currency"}),
    ],
)
def test_members_of_two_kinds_of_transfer_are_refused(client: Client, body: dict[str, Any], pointers: set[str]) -> None:
    """A body is a plain transfer, a capture or a reversal; only a plain transfer has accounts and a currency."""
    reply = client.put("/v1/transfers/t", body)
    assert (reply.status, set(reply.pointers)) == (400, pointers)


def test_an_unknown_parameter_of_a_write_is_refused(client: Client) -> None:
    """A PUT has no query parameters."""
    assert client.put("/v1/transfers/t?dry_run=true", raw=VALID).slug == "invalid-query"


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
def test_an_invalid_content_header_is_refused(client: Client, environ: dict[str, str | None], slug: str) -> None:
    """Content-Type, Content-Length and Content-Encoding are checked before the body is parsed."""
    assert client.put("/v1/transfers/t", raw=VALID, environ=environ).slug == slug


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'])
def test_the_charset_utf_8_is_accepted(client: Client, content_type: str) -> None:
    """The body is parsed, which shows in the error for a body that is not an object."""
    assert client.put("/v1/transfers/t", raw=b"[]", environ={"CONTENT_TYPE": content_type}).slug == "invalid-request"


def test_a_body_that_is_too_large_is_not_read(client: Client) -> None:
    """Content-Length alone leads to the response 413."""

    class Unreadable(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("the body was read")

    environ = {"CONTENT_LENGTH": "1048577", "wsgi.input": Unreadable()}
    assert client.post("/v1/batches", raw=b"x", environ=environ).slug == "body-too-large"


@pytest.mark.promise(16)
@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b'{"a": 1,}', b"{'a': 1}", b'{"a": 1} {"a": 1}', b"nul"),
        *(b"[NaN]", b"[Infinity]", b"[-Infinity]"),
        *(b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"a": "\xff"}', b'{"a": "\n"}'),
        *(b'{"a": 1, "a": 1}', b'{"metadata": {"a": "1", "a": "2"}}'),
        pytest.param(b'{"a": ' + b"[" * 9 + b"]" * 9 + b"}", id="nested too deep"),
        pytest.param(b"[" * 30000, id="30,000 arrays"),
        pytest.param(b'{"a":' * 10000, id="10,000 objects"),
        *(b'{"amount": 123456789012345678901}', b'{"amount": 1e999}', b'{"amount": 0.00000000000000000001}'),
    ],
)
def test_a_body_that_is_not_strict_json_is_refused(client: Client, raw: bytes) -> None:
    """A body is one UTF-8 value without duplicate members, with limits for nesting and for the length of a number."""
    assert client.put("/v1/transfers/t", raw=raw).slug == "invalid-json"


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"5", b"null", b"true", b'{"a": "[[[[[[[[[[[[[[[["}'])
def test_valid_json_of_another_type_is_an_invalid_request(client: Client, raw: bytes) -> None:
    """The problem is `invalid-request`, not `invalid-json`. Brackets in a string are not nesting."""
    assert client.put("/v1/transfers/t", raw=raw).slug == "invalid-request"


@pytest.mark.parametrize("text", ["\\u0000", "\\n", "\\u001f", "\\u007f", "\\u0085", "\\ud800", "\\udfff"])
@pytest.mark.parametrize("template", ['{"metadata": {"k": "%s"}}', '{"metadata": {"%s": "v"}}'])
def test_control_characters_and_lone_surrogates_are_refused(client: Client, template: str, text: str) -> None:
    """PostgreSQL cannot store some of them. The error points to the name or the value."""
    reply = client.put("/v1/accounts/a", raw=(template % text).encode())
    assert reply.slug == "invalid-request"
    assert any(pointer.startswith("/metadata/") for pointer in reply.pointers)


@pytest.mark.promise(18)
def test_a_response_repeats_at_most_64_characters_of_the_input(client: Client) -> None:
    """A response contains no part of a token."""
    reply = client.put("/v1/transfers/t", {"x" * 1000: 1})
    assert b"x" * 65 not in reply.body
    reply = client.get(f"/v1/transfers?{'y' * 1000}=1")
    assert b"y" * 65 not in reply.body
    reply = client.get("/v1/transfers", environ={"HTTP_AUTHORIZATION": "Bearer secret-token"})
    assert b"secret-token" not in reply.body


@pytest.mark.promise(19)
def test_every_response_has_a_request_id(client: Client) -> None:
    """A valid X-Request-Id of the caller is used; otherwise the service makes one."""
    assert client.get("/health", environ={"HTTP_X_REQUEST_ID": "abc-1.2_X"}).headers["X-Request-Id"] == "abc-1.2_X"
    for invalid in ("", "a b", "x" * 65, "a\n", "é"):
        reply = client.get("/health", environ={"HTTP_X_REQUEST_ID": invalid})
        assert len(reply.headers["X-Request-Id"]) == 32
    problem = client.get("/v1/accounts/unknown", environ={"HTTP_X_REQUEST_ID": "mine"})
    assert problem.json["request_id"] == problem.headers["X-Request-Id"] == "mine"


def test_no_response_may_be_cached_or_sniffed(client: Client) -> None:
    """Responses with and without a problem have the headers Cache-Control and X-Content-Type-Options."""
    for path in ("/health", "/v1/accounts/unknown", "/nowhere"):
        headers = client.get(path).headers
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")


def test_an_unexpected_error_shows_no_details(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is 500 without the text of the exception; the log has the exception."""

    def fail(work: Any) -> Any:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(client.application.dependencies.database, "run", fail)
    reply = client.get("/v1/transfers")
    assert (reply.status, reply.slug) == (500, "internal-error")
    assert b"secret" not in reply.body
    assert any(record.exc_info and "a secret" in str(record.exc_info[1]) for record in caplog.records)
