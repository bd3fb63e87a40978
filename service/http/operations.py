"""/health, /ready and /metrics, for operators. They need no token and no connection of the pool."""

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service import drain
from service.http.request import Dependencies, Request
from service.http.response import Response, json_response


def health(request: Request, dependencies: Dependencies) -> Response:
    """GET /health: 200 while the process responds. It does not use the database, so an outage causes no restart."""
    return json_response(200, {"status": "ok"})


def ready(request: Request, dependencies: Dependencies) -> Response:
    """GET /ready: 200 if each check of readiness.py passes and the process does not drain; else 503.

    While it drains, a load balancer sends new connections to another process.
    """
    checks = dependencies.readiness.checks() | {"serving": not drain.is_active()}
    is_ready = all(checks.values())
    return json_response(200 if is_ready else 503, {"ready": is_ready, "checks": checks})


def metrics(request: Request, dependencies: Dependencies) -> Response:
    """GET /metrics: the Prometheus text format."""
    return Response(200, generate_latest(), {"Content-Type": CONTENT_TYPE_LATEST})
