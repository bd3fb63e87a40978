"""Holds an answer against the OpenAPI document, more strictly than callers may: what the document lacks is refused.

Every object is taken as closed and every list of values that may grow as complete, so that no answer says more than
the document tells.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from service.contract import openapi_bytes

OF_ANY_PATH = {404: "RouteNotFound", 405: "MethodNotAllowed"}  # answers to a path or method that is not in the document


def check(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raise AssertionError unless the document has this answer. `path` is as sent, without the query."""
    place = f"{method} {path} {status}"
    operations = operations_of(path)
    if method == "OPTIONS" and operations and status == 204:
        assert headers.get("Allow"), f"{place}: the header Allow is missing"
        assert not body, f"{place}: has a body"
        return
    response = response_of(operations.get("get" if method == "HEAD" else method.lower()), status)
    assert response, f"{place}: is not in the document"
    missing = response["headers"].keys() - headers.keys()
    assert not missing, f"{place}: headers are missing: {sorted(missing)}"
    media_type = headers.get("Content-Type", "").partition(";")[0]
    assert media_type in response["content"], f"{place}: has the Content-Type {media_type!r}"
    if method == "HEAD":
        assert not body, f"{place}: has a body"
    elif media_type.endswith("json"):
        value = read(place, body, response["content"][media_type]["schema"])
        if "x-problems" in response:
            assert value["type"].removeprefix("/problems/") in response["x-problems"], f"{place}: is {value['type']}"
            assert value["status"] == status, f"{place}: has the status {value['status']} in the body"


def operations_of(path: str) -> dict[str, Any]:
    """The operations of the path by their methods in small letters; none if the document lacks the path."""
    path = unquote(re.sub("%2f", "%252F", path, flags=re.IGNORECASE))  # an encoded slash separates nothing
    for template, operations in DOCUMENT["paths"].items():
        pattern = re.sub(r"\\\{[a-z]+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(f"(?:https?://[^/]+)?{pattern}", path):
            return dict(operations)
    return {}


def response_of(operation: Any, status: int) -> Any:
    """What the document says of this answer; nothing if it lacks the answer."""
    responses = DOCUMENT["components"]["responses"]
    if operation is None:
        return responses.get(OF_ANY_PATH.get(status))
    response = operation["responses"].get(str(status), {})
    return responses[response["$ref"].rpartition("/")[2]] if "$ref" in response else response


def read(place: str, body: bytes, schema: dict[str, Any]) -> Any:
    """The JSON value of the body. Raises AssertionError unless it fits the schema."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise AssertionError(f"{place}: the body is not JSON: {error}") from None
    fault = best_match(Draft202012Validator({**schema, "components": DOCUMENT["components"]}).iter_errors(value))
    assert fault is None, f"{place}: {fault.message} at {fault.json_path}"
    return value


def closed(node: Any) -> Any:
    """The document with further members, values and problems shut out."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: closed(value) for name, value in node.items()}
    if "properties" in node and node.get("type") == "object":
        node.setdefault("additionalProperties", False)
    if "x-extensible-enum" in node:
        node["enum"] = node["x-extensible-enum"]
    if "x-problems" in node and "$ref" in node:  # a problem inside of another body
        node["properties"] = {"type": {"enum": [f"/problems/{slug}" for slug in node["x-problems"]]}}
    return node


DOCUMENT: dict[str, Any] = closed(json.loads(openapi_bytes()))
