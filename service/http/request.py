"""The request side of HTTP: ids of a request, path, query, and body. Knows no route and no rule."""

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes
from wsgiref.types import WSGIEnvironment

from service.contract import LIMITS
from service.database import Database
from service.errors import Refusal
from service.http.strict_json import parse_json
from service.ledger.group import GroupPosting
from service.readiness import Readiness
from service.session import Connection

T = TypeVar("T")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Version, trace id, span id, flags. Version ff and ids of zeros only are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_JSON_TYPE = re.compile(r"application/json(?: *; *charset=\"?utf-8\"?)?", re.IGNORECASE)
_PERCENT_ENCODED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_CONTENT_LENGTH = re.compile(r"[0-9]{1,15}")
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and lone surrogates


@dataclass(frozen=True)
class Request:
    """A request whose caller is authorized and whose query and body were read."""

    request_id: str
    caller: str  # the name; empty for a route without a scope
    scopes: frozenset[str]  # of the caller; empty for a route without a scope
    parameters: Mapping[str, str]  # from the path
    query: Mapping[str, str]
    body: Any  # parsed JSON; None for a route without a body


@dataclass(frozen=True)
class Dependencies:
    """What the endpoints work with. server.py creates it."""

    database: Database
    group_posting: GroupPosting
    readiness: Readiness

    def read_list(self, limit: int, work: Callable[[Connection], list[T]]) -> list[T]:
        """Run the work of a list with this limit.

        500 rows with the most metadata keep a connection for 75 ms. So longer lists than the default together use at
        most half of the connections.
        """
        run = self.database.run_long if limit > LIMITS.page_default else self.database.run
        return run(work)


def identify(request_id: str | None, traceparent: str | None) -> tuple[str, str, str]:
    """The request id, the trace id and a new span id, from the headers X-Request-Id and traceparent.

    The request id is the caller's if it matches REQUEST_ID. A malformed traceparent starts a new trace (W3C Trace
    Context, section 4.3).
    """
    new = secrets.token_hex(40)  # one call for all three, because each is a system call
    if not request_id or not REQUEST_ID.fullmatch(request_id):
        request_id = new[:32]
    match = _TRACEPARENT.fullmatch(traceparent or "")
    return request_id, match[1] if match else new[32:64], new[64:]


def path_of(target: str) -> str:
    """The path of a request target, not decoded. Of an absolute target (RFC 9112, section 3.2.2) only the path.

    The part before it may contain a user and a password, and paths are logged.
    """
    path = target.partition("?")[0]
    if not path.startswith("/") and "://" in path:
        return "/" + path.partition("://")[2].partition("/")[2]
    return path


def path_pattern(template: str) -> re.Pattern[str]:
    """The pattern of the decoded paths that match a template such as /v1/accounts/{id}."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(template)))


def match_path(path: str, patterns: Mapping[str, re.Pattern[str]]) -> tuple[str, dict[str, str]]:
    """The template whose pattern matches the path, and the path's parameters; or Refusal `route-not-found`.

    The path is split before it is decoded, so an encoded slash cannot make another path.
    """
    decoded = "/".join([_decode(segment) for segment in path.split("/")])
    for template, pattern in patterns.items():
        if match := pattern.fullmatch(decoded):
            return template, match.groupdict()
    raise Refusal("route-not-found", "No operation has this path.")


def _decode(segment: str) -> str:
    """The decoded segment; empty, which matches no parameter, if it is not valid as one segment."""
    text = segment
    if "%" in segment or not segment.isascii():
        if not _PERCENT_ENCODED.fullmatch(segment):
            return ""
        try:
            text = unquote_to_bytes(segment.encode("latin-1")).decode("utf-8")
        except UnicodeError:
            return ""
    return "" if text in (".", "..") or "/" in text or "\0" in text else text


def read_query(text: str, known: tuple[str, ...]) -> dict[str, str]:
    """The parameters of a query string, each known and not repeated; or Refusal `invalid-query`."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict") if text else []
    except ValueError:
        raise Refusal("invalid-query", "The query is not name=value pairs in percent-encoded UTF-8.") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise invalid_query(name, "is unknown")
        if name in query:
            raise invalid_query(name, "is repeated")
        query[name] = value
    return query


def invalid_query(name: str, rule: str) -> Refusal:
    """The refusal of one query parameter."""
    return Refusal("invalid-query", f"{excerpt(name)} {rule}.", errors=[{"parameter": excerpt(name), "detail": rule}])


def read_body(environ: WSGIEnvironment, limit_bytes: int) -> Any:
    """The parsed JSON of a body, or a Refusal. Checks in this order: length, size, type, completeness, JSON."""
    length = environ.get("CONTENT_LENGTH", "")
    if not length or "HTTP_TRANSFER_ENCODING" in environ:
        raise Refusal("length-required", "Send the body with Content-Length.")
    if not re.fullmatch(r"[0-9]+", length):
        raise Refusal("bad-request", "Content-Length is not a number.")
    if not _CONTENT_LENGTH.fullmatch(length) or int(length) > limit_bytes:
        raise Refusal("body-too-large", f"The body may have at most {limit_bytes} bytes.")
    if not _JSON_TYPE.fullmatch(environ.get("CONTENT_TYPE", "")) or "HTTP_CONTENT_ENCODING" in environ:
        raise Refusal("unsupported-media-type", "Send Content-Type: application/json, and no Content-Encoding.")
    try:
        body = environ["wsgi.input"].read(int(length))
    except OSError:
        body = b""
    if len(body) < int(length):
        raise Refusal("bad-request", "The body is shorter than its Content-Length.")
    return parse_json(body)


def excerpt(text: str) -> str:
    """Input as a response may repeat it: at most `reflected_characters`, without unprintable characters."""
    return UNPRINTABLE.sub("\ufffd", text[: LIMITS.reflected_characters])
