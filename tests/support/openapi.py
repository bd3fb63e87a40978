"""Checks a response against the OpenAPI document, more strictly than a caller may.

A caller must accept members and values that it does not know. This check does not: it treats each object as closed
and each extensible list of values as complete, so that the service cannot return anything that is not documented.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from service.contract import openapi_bytes

UNKNOWN_PATH_OR_METHOD = {404: "RouteNotFound", 405: "MethodNotAllowed"}  # status: response


def check(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raise AssertionError if the document does not allow this response. `path` is as sent, without the query."""
    context = f"{method} {path} {status}"
    operations = operations_of(path)
    if method == "OPTIONS" and operations and status == 204:
        assert headers.get("Allow"), f"{context}: the header Allow is missing"
        assert not body, f"{context}: has a body"
        return
    response = response_of(operations.get("get" if method == "HEAD" else method.lower()), status)
    assert response, f"{context}: is not in the document"
    missing = response["headers"].keys() - headers.keys()
    assert not missing, f"{context}: headers are missing: {sorted(missing)}"
    media_type = headers.get("Content-Type", "").partition(";")[0]
    assert media_type in response["content"], f"{context}: has the Content-Type {media_type!r}"
    if method == "HEAD":
        assert not body, f"{context}: has a body"
    elif media_type.endswith("json"):
        value = parse(context, body, response["content"][media_type]["schema"])
        if "x-problems" in response:
            assert value["type"].removeprefix("/problems/") in response["x-problems"], f"{context}: is {value['type']}"
            assert value["status"] == status, f"{context}: has the status {value['status']} in the body"


def operations_of(path: str) -> dict[str, Any]:
    """The operations of the path by method in lower case. Empty if the path is not in the document."""
    path = unquote(re.sub("%2f", "%252F", path, flags=re.IGNORECASE))  # an encoded slash does not separate segments
    for template, operations in DOCUMENT["paths"].items():
        pattern = re.sub(r"\\\{[a-z]+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(f"(?:https?://[^/]+)?{pattern}", path):
            return dict(operations)
    return {}


def response_of(operation: Any, status: int) -> Any:
    """The documented response with this status; empty or None if there is none."""
    responses = DOCUMENT["components"]["responses"]
    if operation is None:
        return responses.get(UNKNOWN_PATH_OR_METHOD.get(status))
    response = operation["responses"].get(str(status), {})
    return responses[response["$ref"].rpartition("/")[2]] if "$ref" in response else response


def parse(context: str, body: bytes, schema: dict[str, Any]) -> Any:
    """The JSON value of the body. Raises AssertionError if it does not match the schema."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise AssertionError(f"{context}: the body is not JSON: {error}") from None
    violation = best_match(Draft202012Validator({**schema, "components": DOCUMENT["components"]}).iter_errors(value))
    assert violation is None, f"{context}: {violation.message} at {violation.json_path}"
    return value


def closed(node: Any) -> Any:
    """A copy of the document that allows no further members, values or problems."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: closed(value) for name, value in node.items()}
    if "properties" in node and node.get("type") == "object":
        node.setdefault("additionalProperties", False)
    if "x-extensible-enum" in node:
        node["enum"] = node["x-extensible-enum"]
    if "x-problems" in node and "$ref" in node:  # a problem inside another body
        node["properties"] = {"type": {"enum": [f"/problems/{slug}" for slug in node["x-problems"]]}}
    return node


DOCUMENT: dict[str, Any] = closed(json.loads(openapi_bytes()))
