"""The front door: the route table, and the one function that every request goes through.

Checks come in the order of docs/contract.md, and the first failure answers: host, path, method, a place in flight,
credentials, scope, query, body envelope, JSON. Members and rules belong to the endpoint, framing to the server.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIEnvironment

from service import callers, logs, metrics, wire
from service.config import Caller
from service.contract import LIMITS
from service.endpoints import Parts, accounts, contract, holds, operations, transfers
from service.ledger.errors import Refusal
from service.wire import Request, Response

MAX_IN_FLIGHT = 112  # of the server's 128 threads: the rest answer health, readiness and refusals at once

_SMALL, _BATCH = LIMITS.body_bytes, LIMITS.batch_body_bytes


@dataclass(frozen=True)
class Route:
    """One operation. HEAD is answered like GET and OPTIONS from this table."""

    method: str
    path: str
    scope: str | None  # None: no token needed, and never refused for too much in flight
    endpoint: Callable[[Request, Parts], Response]
    query: tuple[str, ...] = ()
    body_bytes: int = 0  # the largest body; 0: the operation has none


ROUTES = (
    Route("PUT", "/v1/accounts/{id}", "write", accounts.put, body_bytes=_SMALL),
    Route("GET", "/v1/accounts/{id}", "read", accounts.get),
    Route("PATCH", "/v1/accounts/{id}", "admin", accounts.patch, body_bytes=_SMALL),
    Route("GET", "/v1/accounts", "read", accounts.page, ("prefix", "after", "limit")),
    Route("GET", "/v1/accounts/{id}/entries", "read", accounts.entries, ("after", "before", "order", "limit")),
    Route("GET", "/v1/accounts/{id}/balance", "read", accounts.balance, ("at", "number")),
    Route("GET", "/v1/accounts/{id}/changes", "read", accounts.changes, ("after", "limit")),
    Route("PUT", "/v1/transfers/{id}", "write", transfers.put, body_bytes=_SMALL),
    Route("GET", "/v1/transfers/{id}", "read", transfers.get),
    Route("POST", "/v1/transfers", "write", transfers.post, body_bytes=_BATCH),
    Route("GET", "/v1/transfers", "read", transfers.feed, ("after", "limit")),
    Route("PUT", "/v1/holds/{id}", "write", holds.put, body_bytes=_SMALL),
    Route("GET", "/v1/holds/{id}", "read", holds.get),
    Route("DELETE", "/v1/holds/{id}", "write", holds.delete),
    Route("GET", "/v1/openapi.json", None, contract.openapi),
    Route("GET", "/problems/{slug}", None, contract.problem),
    Route("GET", "/health", None, operations.health),
    Route("GET", "/ready", None, operations.ready),
    Route("GET", "/metrics", None, operations.metrics),
)

_PATHS = {route.path: {same.method: same for same in ROUTES if same.path == route.path} for route in ROUTES}
PATH_CHARACTERS = 256  # a log line shows no more of a path
_COMMON_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
UNMATCHED = "unmatched"  # the route of log lines and metrics when no route was found
_QUIET = frozenset({"/health", "/ready", "/metrics"})  # asked every few seconds: their log lines are at debug


@dataclass
class Visit:
    """What is known of one request on its way, for its answer and its log line."""

    environ: WSGIEnvironment
    method: str
    path: str  # as sent
    id: str
    route: str = UNMATCHED
    caller: str = ""
    refusal: str = ""  # slug


class Application:
    """The WSGI application."""

    def __init__(self, parts: Parts, known_callers: tuple[Caller, ...]) -> None:
        self.parts = parts
        self._callers = known_callers
        self._places = threading.BoundedSemaphore(MAX_IN_FLIGHT)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started_at = time.perf_counter()
        id = wire.request_id(environ.get("HTTP_X_REQUEST_ID"))
        trace_id, span_id = wire.trace_context(environ.get("HTTP_TRACEPARENT"))
        visit = Visit(environ, environ["REQUEST_METHOD"], wire.path_of(environ["RAW_URI"]), id)
        ids = {"request_id": id, "trace_id": trace_id, "span_id": span_id}
        logs.context.set({**ids, "db_ms": 0.0, "queue_ms": 0.0})
        with metrics.ACTIVE_REQUESTS.track_inprogress():
            response = self._answer(visit)
        _record(visit, response, time.perf_counter() - started_at)
        logs.context.set(None)
        headers = {**response.headers, **_COMMON_HEADERS, "X-Request-Id": id}
        if response.status != 204:
            headers["Content-Length"] = str(len(response.body))
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", list(headers.items()))
        return [b"" if visit.method == "HEAD" else response.body]

    def _answer(self, visit: Visit) -> Response:
        """The one place that turns refusals and unforeseen errors into answers."""
        try:
            return self._handle(visit)
        except Refusal as raised:
            refusal = raised
        except Exception:
            logs.log.exception("unforeseen error", extra={"event": "request.failed"})
            refusal = Refusal("internal-error", "The log has the cause under this request_id.")
        visit.refusal = refusal.slug
        response = wire.problem_response(refusal, visit.id)
        if response.status == 405:
            response.headers["Allow"] = _allowed(visit.route)
        return response

    def _handle(self, visit: Visit) -> Response:
        environ = visit.environ
        if environ["SERVER_PROTOCOL"] == "HTTP/1.1" and "HTTP_HOST" not in environ:
            raise Refusal("bad-request", "HTTP/1.1 needs the header Host.")
        visit.route, parameters = wire.match_path(visit.path, _PATHS)
        if visit.method == "OPTIONS":
            return Response(204, headers={"Allow": _allowed(visit.route)})
        route = _PATHS[visit.route].get("GET" if visit.method == "HEAD" else visit.method)
        if route is None:
            raise Refusal("method-not-allowed", "The Allow header lists the methods of this path.")
        if route.scope and not self._places.acquire(blocking=False):  # a queue without bounds would hide the overload
            metrics.SHED.labels("in_flight").inc()
            raise Refusal("overloaded", f"{MAX_IN_FLIGHT} requests are in flight.", outcome="not_applied")
        try:
            if route.scope:
                caller = callers.authenticate(environ.get("HTTP_AUTHORIZATION"), self._callers)
                visit.caller = caller.name
                callers.authorize(caller, route.scope)
            query = wire.read_query(environ["QUERY_STRING"], route.query)
            body = wire.read_body(environ, route.body_bytes) if route.body_bytes else None
            return route.endpoint(Request(visit.id, visit.caller, parameters, query, body), self.parts)
        finally:
            if route.scope:
                self._places.release()


def _allowed(path: str) -> str:
    """The methods of a path, as the header Allow has them."""
    methods = {"OPTIONS", *_PATHS[path]}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _record(visit: Visit, response: Response, seconds: float) -> None:
    """One observation and one log line for each request."""
    method = visit.method if visit.method in metrics.KNOWN_METHODS else "_OTHER"
    metrics.REQUEST_SECONDS.labels(method, visit.route, str(response.status)).observe(seconds)
    level = logging.DEBUG if visit.route in _QUIET else logging.WARNING if response.status >= 500 else logging.INFO
    logs.log.log(
        level,
        f"{method} {visit.route} {response.status}",
        extra={
            "event": "request.shed" if visit.refusal == "overloaded" else "request",
            "caller": visit.caller,
            "method": method,
            "route": visit.route,
            "path": visit.path[:PATH_CHARACTERS],
            "status": response.status,
            "problem": visit.refusal or None,
            "duration_ms": round(seconds * 1000, 3),
            "bytes": len(response.body),
            "client": visit.environ.get("REMOTE_ADDR", ""),
        },
    )
