"""/v1/openapi.json and /problems/{slug}: the contract, and each problem explained."""

from service.contract import PROBLEMS, openapi_bytes
from service.errors import Refusal
from service.http.request import Dependencies, Request
from service.http.response import Response, json_response


def openapi(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/openapi.json: the file of the repository, byte for byte."""
    return Response(200, openapi_bytes(), {"Content-Type": "application/json"})


def problem(request: Request, dependencies: Dependencies) -> Response:
    """GET /problems/{slug}: what the `type` of a problem means, when it is sent, and whether to retry."""
    slug = request.parameters["slug"]
    if slug not in PROBLEMS:
        raise Refusal("not-found", "No problem has this slug.")
    return json_response(200, {"slug": slug, **vars(PROBLEMS[slug])})
