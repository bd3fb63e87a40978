"""/v1/openapi.json and /problems/{slug}: the contract, and each problem explained."""

from service.contract import PROBLEMS, openapi_bytes
from service.endpoints import Parts
from service.ledger.errors import Refusal
from service.wire import Request, Response, json_response


def openapi(request: Request, parts: Parts) -> Response:
    """GET /v1/openapi.json: byte for byte the file of the repository."""
    return Response(200, openapi_bytes(), {"Content-Type": "application/json"})


def problem(request: Request, parts: Parts) -> Response:
    """GET /problems/{slug}: what the `type` of a problem means, when it is sent, and whether to try again."""
    slug = request.parameters["slug"]
    if slug not in PROBLEMS:
        raise Refusal("not-found", "No problem has this slug.")
    return json_response(200, {"slug": slug, **vars(PROBLEMS[slug])})
