"""What crosses the wire: requests, answers, problems and strict JSON. Knows no route, no rule and no SQL.

The standard library reads JSON too kindly for money: it takes NaN and a member named twice, turns 1e2 into a float and
fails on deep nesting. `parse_json` does not.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from service.contract import LIMITS, PROBLEMS
from service.ledger.errors import Refusal

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?"
)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)  # the last one may lack its end: the parser then says where
_FLOAT = re.compile(
    r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?"
)  # an exponent of three digits is no amount of anything


@dataclass(frozen=True)
class Request:
    """A request that passed the front door: its caller may do this, and its envelope is in order."""

    id: str  # of the request, for its log line and its problems
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


def json_response(status: int, value: Any) -> Response:
    """An answer in JSON, with a line end that is kind to terminals."""
    return Response(status, _dump(value), {"Content-Type": "application/json"})


def problem_response(refusal: Refusal, request_id: str) -> Response:
    """The refusal as application/problem+json (RFC 9457)."""
    headers = {"Content-Type": "application/problem+json"}
    problem = PROBLEMS[refusal.slug]
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if problem.status == 503:
        headers["Retry-After"] = str(LIMITS.retry_after_seconds)
    return Response(problem.status, _dump(problem_members(refusal, request_id)), headers)


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
    known = match and match["version"] != "ff" and set(match["trace"]) != {"0"} and set(match["span"]) != {"0"}
    return match["trace"] if match and known else secrets.token_hex(16), secrets.token_hex(8)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


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
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
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


def _integer(text: str) -> int:
    if len(text) > LIMITS.number_digits:
        raise Refusal("invalid-json", f"A number has more than {LIMITS.number_digits} digits.")
    return int(text)


def _number(text: str) -> int | Decimal:
    """1e2 and 100.0 are the integer 100: JSON Schema says so, and outside tools send them."""
    if len(text) > LIMITS.number_digits or not _FLOAT.fullmatch(text):
        raise Refusal("invalid-json", f"A number has more than {LIMITS.number_digits} digits or a huge exponent.")
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else value


def _constant(text: str) -> None:
    raise Refusal("invalid-json", f"{text} is not JSON.")


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8") + b"\n"
