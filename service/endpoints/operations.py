"""/health, /ready, /metrics: for those who run the service. They need no token and no connection of the pool."""

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.endpoints import Parts
from service.wire import Request, Response, json_response


def health(request: Request, parts: Parts) -> Response:
    """GET /health: 200 as long as the process answers. It never asks the database, so that no outage restarts us."""
    return json_response(200, {"status": "ok"})


def ready(request: Request, parts: Parts) -> Response:
    """GET /ready: 200 when the database answers, may be written to and has the schema of this code; else 503."""
    checks = parts.readiness.findings()
    is_ready = all(checks.values())
    return json_response(200 if is_ready else 503, {"ready": is_ready, "checks": checks})


def metrics(request: Request, parts: Parts) -> Response:
    """GET /metrics: the Prometheus text format."""
    return Response(200, generate_latest(), {"Content-Type": CONTENT_TYPE_LATEST})
