"""What crosses the wire: paths, queries, bodies, strict JSON, answers and problems. Knows no route and no rule.

The standard library reads JSON too kindly for money: it takes NaN and a member named twice, turns 1e2 into a float and
fails on deep nesting. `parse_json` does not.
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes
from wsgiref.types import WSGIEnvironment

from service.contract import LIMITS, PROBLEMS
from service.ledger.errors import Refusal

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Version, trace, span, flags; a version ff and ids of zeros alone are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_JSON_TYPE = re.compile(r"application/json(?: *; *charset=\"?utf-8\"?)?", re.IGNORECASE)
_PERCENT_ENCODED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and lone surrogates
# The last one may lack its end: the parser then says where. Possessive, as it would else remember every character:
# 119 MB for a string of 1 MiB.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")  # three digits of exponent are no amount


@dataclass(frozen=True)
class Request:
    """A request that passed the front door: its caller may do this, and its envelope is in order."""

    request_id: str  # for its log line and its problems
    caller: str  # the name; empty for a route without a scope
    parameters: Mapping[str, str]  # from the path
    query: Mapping[str, str]
    body: Any  # parsed JSON; None for a route without a body


@dataclass(frozen=True)
class Response:
    """Status, body (already bytes) and headers."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_response(status: int, value: Any, media_type: str = "application/json") -> Response:
    """An answer in JSON, with a line end that is kind to terminals."""
    text = json.dumps(value, ensure_ascii=False, default=timestamp)
    return Response(status, text.encode() + b"\n", {"Content-Type": media_type})


def problem_response(refusal: Refusal, request_id: str) -> Response:
    """The refusal as application/problem+json (RFC 9457)."""
    problem = problem_members(refusal, request_id)
    response = json_response(problem["status"], problem, "application/problem+json")
    if response.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if response.status == 503:
        response.headers["Retry-After"] = str(LIMITS.retry_after_seconds)
    return response


def problem_members(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """The members of a problem, alone or as one result of a batch."""
    problem = PROBLEMS[refusal.slug]
    return {
        "type": f"/problems/{refusal.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": refusal.detail,
        "request_id": request_id,
        **refusal.members,
    }


def request_id(header: str | None) -> str:
    """The caller's X-Request-Id if it is fit to be logged and echoed, else one of ours."""
    return header if header and _REQUEST_ID.fullmatch(header) else secrets.token_hex(16)


def trace_context(traceparent: str | None) -> tuple[str, str]:
    """Trace id and our own span id. A malformed header means a new trace, never an error (W3C Trace Context, 4.3)."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    return match[1] if match else secrets.token_hex(16), secrets.token_hex(8)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def path_of(target: str) -> str:
    """The path of a request target as it was sent; of an absolute one (RFC 9112, section 3.2.2) without what is before.

    That may have a user and a password in it, and paths are logged.
    """
    path = target.partition("?")[0]
    if not path.startswith("/") and "://" in path:
        return "/" + path.partition("://")[2].partition("/")[2]
    return path


def match_path(path: str, templates: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The template that a path fits as it was sent, and its parameters; or Refusal `route-not-found`.

    Segments are split before they are decoded, so that an encoded slash can never make another path.
    """
    segments = [_decoded(segment) for segment in path.split("/")]
    for template in templates:
        names = template.split("/")
        pairs = list(zip(names, segments, strict=False))
        if len(names) == len(segments) and all(name == text or (name[:1] == "{" and text) for name, text in pairs):
            return template, {name[1:-1]: text for name, text in pairs if name[:1] == "{"}
    raise Refusal("route-not-found", "No operation has this path.")


def _decoded(segment: str) -> str:
    """The segment in clear; empty, and so matching no parameter, if it cannot stand for one name."""
    if not _PERCENT_ENCODED.fullmatch(segment):
        return ""
    try:
        text = unquote_to_bytes(segment.encode("latin-1")).decode("utf-8")
    except UnicodeError:
        return ""
    return "" if text in (".", "..") or "/" in text or "\0" in text else text


def read_query(text: str, known: tuple[str, ...]) -> dict[str, str]:
    """The parameters of a query, each known and there once; or Refusal `invalid-query`."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict") if text else []
    except ValueError:
        raise Refusal("invalid-query", "The query is not name=value pairs in percent-encoded UTF-8.") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise invalid_query(name, "is not known here")
        if name in query:
            raise invalid_query(name, "stands more than once")
        query[name] = value
    return query


def read_body(environ: WSGIEnvironment, limit_bytes: int) -> Any:
    """The JSON of a body whose envelope is in order; else the refusal that fits."""
    length = environ.get("CONTENT_LENGTH", "")
    if not length or "HTTP_TRANSFER_ENCODING" in environ:
        raise Refusal("length-required", "Send the body with Content-Length.")
    if not re.fullmatch(r"[0-9]+", length):
        raise Refusal("bad-request", "Content-Length is not a number.")
    if len(length) > 15 or int(length) > limit_bytes:
        raise Refusal("body-too-large", f"The body may have {limit_bytes} bytes.")
    if not _JSON_TYPE.fullmatch(environ.get("CONTENT_TYPE", "")) or "HTTP_CONTENT_ENCODING" in environ:
        raise Refusal("unsupported-media-type", "Send Content-Type: application/json, and no Content-Encoding.")
    try:
        body = environ["wsgi.input"].read(int(length))
    except OSError:
        body = b""
    if len(body) < int(length):
        raise Refusal("bad-request", "The body is shorter than its Content-Length.")
    return parse_json(body)


def invalid_query(name: str, rule: str) -> Refusal:
    """The refusal of one query parameter."""
    return Refusal("invalid-query", f"{shown(name)} {rule}.", errors=[{"parameter": shown(name), "detail": rule}])


def shown(text: str) -> str:
    """Input as an answer may repeat it: short, and without characters that cannot be encoded."""
    return UNFIT.sub("\ufffd", text[: LIMITS.reflected_characters])


def parse_json(body: bytes) -> Any:
    """One JSON value, or Refusal `invalid-json`. Whole numbers come as int, others as Decimal; no float ever exists."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal("invalid-json", "The body is not UTF-8.") from None
    if _depth(text) > LIMITS.json_depth:
        raise Refusal("invalid-json", f"The body nests deeper than {LIMITS.json_depth} levels.")
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_int=_number, parse_float=_number, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        raise Refusal("invalid-json", f"{error.msg} at line {error.lineno}, column {error.colno}.") from None


def _depth(text: str) -> int:
    """The deepest nesting of the text, found before the parser recurses into it."""
    depth = deepest = 0
    for character in re.sub(r"[^\[\]{}]+", "", _STRING.sub("", text)):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise Refusal("invalid-json", "An object names one member twice.")
    return members


def _number(text: str) -> int | Decimal:
    """1e2 and 100.0 are the integer 100: JSON Schema says so, and outside tools send them."""
    if len(text) > LIMITS.number_digits or not _NUMBER.fullmatch(text):
        raise Refusal("invalid-json", f"A number has more than {LIMITS.number_digits} digits or a huge exponent.")
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else value


def _constant(text: str) -> None:
    raise Refusal("invalid-json", f"{text} is not JSON.")
