"""The WSGI application: the route table, and the one function that handles every request.

The checks run in the order of docs/contract.md, and the first failure is the response: host, path, method,
credentials, scope, batches in progress, query, then length, type and completeness of the body, JSON, and requests and
lists in progress. Then the endpoint checks members and rules. gunicorn checks the framing before.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIEnvironment

from service import logs, metrics
from service.config import Caller
from service.contract import LIMITS
from service.errors import Refusal
from service.http import accounts, auth, batches, documents, holds, operations, transfers, trial_balance
from service.http.request import (
    Dependencies,
    Request,
    identify,
    match_path,
    path_of,
    path_pattern,
    read_body,
    read_query,
)
from service.http.response import Response, problem_response

# Requests in progress. They wait for the database until their deadline of 5 s: all of them get a response if the
# service completes 400 a second. With a limit of 112, refusals to 1,000 clients that repeat at once took most of the
# CPU.
MAX_IN_FLIGHT = 2000
# Batches. All get a response within the deadline if the service posts 6 of 1,000 items a second. A batch needs up
# to 9 MB, so it takes this place before its body is read.
MAX_BATCHES_IN_FLIGHT = 32
# Of them, lists. The largest pages take 25 ms of CPU time each, so other requests wait up to 2.5 s for them. A page
# needs up to 2 MiB until it is sent, and a client that does not read keeps it for RESPONSE_SEND_SECONDS.
MAX_LISTS_IN_FLIGHT = 100
# A response with more bytes keeps the places of its request until it is sent. A smaller one usually fits into the
# buffers of the operating system.
LARGE_RESPONSE_BYTES = 65_536
# How late a refusal is sent. It costs as much CPU as another response, and clients repeat the request at once. With
# 2,500 clients, the rate of transfers was 0.9 of the best with 2 s, 0.65 with 1 s, and 0.45 with 0.5 s.
REFUSAL_DELAY_SECONDS = 2.0


@dataclass(frozen=True)
class Route:
    """One operation. HEAD is handled like GET, and OPTIONS from this table."""

    method: str
    path: str
    scope: str | None  # None: needs no token, and is not counted in MAX_IN_FLIGHT
    endpoint: Callable[[Request, Dependencies], Response]
    query: tuple[str, ...] = ()
    body_bytes: int = 0  # the largest body; 0: the operation has none


_ENTRIES_QUERY = ("from", "until", "after", "before", "order", "limit")
ROUTES = (
    Route("PUT", "/v1/accounts/{id}", "write", accounts.put, body_bytes=LIMITS.body_bytes),
    Route("GET", "/v1/accounts/{id}", "read", accounts.get),
    Route("PATCH", "/v1/accounts/{id}", "admin", accounts.patch, body_bytes=LIMITS.body_bytes),
    Route("GET", "/v1/accounts", "read", accounts.list_by_id, ("prefix", "after", "limit")),
    Route("GET", "/v1/accounts/{id}/entries", "read", accounts.list_entries, _ENTRIES_QUERY),
    Route("GET", "/v1/accounts/{id}/balance", "read", accounts.balance, ("at", "number")),
    Route("GET", "/v1/accounts/{id}/changes", "read", accounts.list_changes, ("after", "limit")),
    Route("GET", "/v1/accounts/{id}/holds", "read", accounts.list_holds, ("after", "limit")),
    Route("PUT", "/v1/transfers/{id}", "write", transfers.put, body_bytes=LIMITS.body_bytes),
    Route("GET", "/v1/transfers/{id}", "read", transfers.get),
    Route("GET", "/v1/transfers", "read", transfers.list_after, ("after", "reference", "limit")),
    Route("PUT", "/v1/holds/{id}", "write", holds.put, body_bytes=LIMITS.body_bytes),
    Route("GET", "/v1/holds/{id}", "read", holds.get),
    Route("DELETE", "/v1/holds/{id}", "write", holds.delete),
    Route("POST", "/v1/batches", "write", batches.post, body_bytes=LIMITS.batch_body_bytes),
    Route("GET", "/v1/trial-balance", "read", trial_balance.get, ("prefix",)),
    Route("GET", "/v1/openapi.json", None, documents.openapi),
    Route("GET", "/problems/{slug}", None, documents.problem),
    Route("GET", "/health", None, operations.health),
    Route("GET", "/ready", None, operations.ready),
    Route("GET", "/metrics", None, operations.metrics),
)

_ROUTES_BY_PATH = {
    path: {route.method: route for route in ROUTES if route.path == path} for path in (route.path for route in ROUTES)
}
_PATTERNS = {path: path_pattern(path) for path in _ROUTES_BY_PATH}
PATH_CHARACTERS = 256  # of a path in a log line
_COMMON_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
UNMATCHED = "unmatched"  # the route of log lines and metrics if no route matches
_PROBES = frozenset({"/health", "/ready", "/metrics"})  # requested every few seconds: logged at debug


@dataclass
class RequestContext:
    """What is known about one request, for its response and its log line."""

    environ: WSGIEnvironment
    method: str
    path: str  # as sent
    request_id: str
    places: contextlib.ExitStack  # what it keeps until its response is sent
    route: str = UNMATCHED
    caller: str = ""
    problem: str = ""  # slug


class Body:
    """The body of a response. gunicorn closes it after it has sent it, or when the connection has ended."""

    def __init__(self, data: bytes, places: contextlib.ExitStack) -> None:
        self._data = data
        self._places = places

    def __iter__(self) -> Iterator[bytes]:
        yield self._data

    def close(self) -> None:
        """Give back the places of the request."""
        self._places.close()


class Application:
    """The WSGI application."""

    def __init__(self, dependencies: Dependencies, callers: tuple[Caller, ...]) -> None:
        self.dependencies = dependencies
        self._callers = callers
        self._in_flight = threading.BoundedSemaphore(MAX_IN_FLIGHT)
        self._batches = threading.BoundedSemaphore(MAX_BATCHES_IN_FLIGHT)
        self._lists = threading.BoundedSemaphore(MAX_LISTS_IN_FLIGHT)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Body:
        with contextlib.ExitStack() as places:
            return self._call(environ, start_response, places)

    def _call(self, environ: WSGIEnvironment, start_response: StartResponse, places: contextlib.ExitStack) -> Body:
        started_at = time.perf_counter()
        request_id, trace_id, span_id = identify(environ.get("HTTP_X_REQUEST_ID"), environ.get("HTTP_TRACEPARENT"))
        context = RequestContext(environ, environ["REQUEST_METHOD"], path_of(environ["RAW_URI"]), request_id, places)
        ids = {"request_id": request_id, "trace_id": trace_id, "span_id": span_id}
        logs.request_fields.set({**ids, "db_ms": 0.0, "queue_ms": 0.0})
        with metrics.ACTIVE_REQUESTS.track_inprogress():
            response = self._respond(context)
        if len(response.body) <= LARGE_RESPONSE_BYTES:
            places.close()
        _log_and_count(context, response, time.perf_counter() - started_at)
        logs.request_fields.set(None)
        headers = {**response.headers, **_COMMON_HEADERS, "X-Request-Id": request_id}
        if response.status != 204:
            headers["Content-Length"] = str(len(response.body))
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", list(headers.items()))
        return Body(b"" if context.method == "HEAD" else response.body, places.pop_all())

    def _respond(self, context: RequestContext) -> Response:
        """The one place that turns refusals and unexpected errors into responses."""
        try:
            return self._handle(context)
        except Refusal as raised:
            refusal = raised
        except Exception:
            logs.log.exception("unexpected error", extra={"event": "request.failed"})
            refusal = Refusal("internal-error", "The service's log has the cause under this request_id.")
        context.problem = refusal.slug
        return problem_response(refusal, context.request_id, _allowed_methods(context.route))

    def _handle(self, context: RequestContext) -> Response:
        environ = context.environ
        if environ["SERVER_PROTOCOL"] == "HTTP/1.1" and "HTTP_HOST" not in environ:
            raise Refusal("bad-request", "HTTP/1.1 requires the header Host.")
        context.route, parameters = match_path(context.path, _PATTERNS)
        if context.method == "OPTIONS":
            return Response(204, headers={"Allow": _allowed_methods(context.route)})
        route = _ROUTES_BY_PATH[context.route].get("GET" if context.method == "HEAD" else context.method)
        if route is None:
            raise Refusal("method-not-allowed", "The Allow header lists the methods of this path.")
        scopes: frozenset[str] = frozenset()
        if route.scope:
            caller = auth.authenticate(environ.get("HTTP_AUTHORIZATION"), self._callers)
            context.caller, scopes = caller.name, caller.scopes
            auth.authorize(scopes, route.scope)
        if route.body_bytes == LIMITS.batch_body_bytes:
            self._take_place(self._batches, f"{MAX_BATCHES_IN_FLIGHT} batches", context.places)
        query = read_query(environ["QUERY_STRING"], route.query)
        body = read_body(environ, route.body_bytes) if route.body_bytes else None
        if route.scope:  # after the body, so that a client that sends slowly takes none
            self._take_place(self._in_flight, f"{MAX_IN_FLIGHT} requests", context.places)
        if "limit" in route.query:
            self._take_place(self._lists, f"{MAX_LISTS_IN_FLIGHT} lists", context.places)
        request = Request(context.request_id, context.caller, scopes, parameters, query, body)
        return route.endpoint(request, self.dependencies)

    def _take_place(self, semaphore: threading.BoundedSemaphore, limit: str, places: contextlib.ExitStack) -> None:
        """Take a place, until the response is sent at the latest, or refuse: an unlimited queue hides the overload."""
        if not semaphore.acquire(blocking=False):
            metrics.SHED.labels("in_flight").inc()
            places.close()  # a refusal that waits takes no place
            time.sleep(REFUSAL_DELAY_SECONDS)
            raise Refusal("overloaded", f"{limit} are in progress.", outcome="not_applied")
        places.callback(semaphore.release)


def _allowed_methods(path: str) -> str:
    """The value of the header Allow for a path."""
    methods = {"OPTIONS", *_ROUTES_BY_PATH.get(path, ())}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _log_and_count(context: RequestContext, response: Response, seconds: float) -> None:
    """One observation and one log line per request."""
    method = context.method if context.method in metrics.KNOWN_METHODS else "_OTHER"
    metrics.REQUEST_SECONDS.labels(method, context.route, str(response.status)).observe(seconds)
    level = logging.DEBUG if context.route in _PROBES else logging.WARNING if response.status >= 500 else logging.INFO
    logs.log_request(
        level,
        f"{method} {context.route} {response.status}",
        {
            "event": "request.shed" if context.problem == "overloaded" else "request",
            "caller": context.caller,
            "method": method,
            "route": context.route,
            "path": context.path[:PATH_CHARACTERS],
            "status": response.status,
            "problem": context.problem or None,
            "duration_ms": round(seconds * 1000, 3),
            "bytes": len(response.body),
            "client": context.environ.get("REMOTE_ADDR", ""),
        },
    )
