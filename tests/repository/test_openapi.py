"""The OpenAPI document is valid and agrees with the code, and the check of responses against it can fail."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from service import config, worker
from service.contract import LIMITS, PROBLEMS, openapi_bytes
from service.http import accounts, app, fields, request
from service.http.app import ROUTES
from tests.support import openapi

DOCUMENT: dict[str, Any] = json.loads(openapi_bytes())  # as callers get it; openapi.DOCUMENT is closed
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
QUERY: dict[str, Any] = {name: node["schema"] for name, node in DOCUMENT["components"]["parameters"].items()}
OPERATIONS: dict[tuple[str, str], dict[str, Any]] = {
    (method.upper(), path): operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
ANNOTATIONS = {
    "description",
    "default",
    "discriminator",
    "x-extensible-enum",
    "x-problems",
}  # keywords that validate nothing
OTHER_BOUNDS = {  # bounds other than LIMITS.amount_max
    "/parameters/Limit/schema/maximum": LIMITS.page_max,
    "/schemas/AccountToOpen/properties/min_balance/maximum": 0,
    "/schemas/Batch/properties/items/maxItems": LIMITS.batch_items,
    "/schemas/BatchAccount/properties/min_balance/maximum": 0,
    "/schemas/BodyError/properties/pointer/maxLength": LIMITS.reflected_characters,
    "/schemas/Id/maxLength": LIMITS.id_characters,
    "/schemas/Metadata/additionalProperties/maxLength": LIMITS.metadata_value_characters,
    "/schemas/Metadata/maxProperties": LIMITS.metadata_members,
    "/schemas/Metadata/propertyNames/maxLength": LIMITS.metadata_name_characters,
    "/schemas/Problem/properties/errors/maxItems": LIMITS.errors_listed,
    "/schemas/Problem/properties/index/maximum": LIMITS.batch_items - 1,
    "/schemas/Problem/properties/status/maximum": 599,
    "/schemas/ProblemType/properties/status/maximum": 599,
    "/schemas/QueryError/properties/parameter/maxLength": LIMITS.reflected_characters,
}
FORMS = [  # of a transfer: plain, capture, reversal
    ("TransferToPost", "CaptureToPost", "ReversalToPost"),
    ("BatchTransfer", "BatchCapture", "BatchReversal"),
]

ACCOUNT = OPERATIONS["GET", "/v1/accounts/{id}"]["responses"]["200"]["content"]["application/json"]["example"]
HOLD = OPERATIONS["GET", "/v1/holds/{id}"]["responses"]["200"]["content"]["application/json"]["example"]
NOT_FOUND = {"type": "/problems/not-found", "title": "…", "status": 404, "detail": "…", "request_id": "r1"}
NO_METHOD = {**NOT_FOUND, "type": "/problems/method-not-allowed", "status": 405}
HEADERS = {"X-Request-Id": "r1", "Content-Type": "application/json"}
PROBLEM = {"X-Request-Id": "r1", "Content-Type": "application/problem+json", "Allow": "GET"}


def batch_refused(slug: str) -> dict[str, Any]:
    """The response to a batch whose only item was refused."""
    return {"results": [{"status": 422, "problem": NOT_FOUND | {"type": f"/problems/{slug}", "status": 422}}]}


def test_every_reference_points_to_a_component() -> None:
    """Each $ref points to a component, and each component is used."""
    used = {node["$ref"] for _, node in objects(DOCUMENT) if "$ref" in node}
    groups = {name: group for name, group in DOCUMENT["components"].items() if name != "securitySchemes"}
    assert used == {f"#/components/{name}/{entry}" for name, group in groups.items() for entry in group}


def test_every_schema_is_a_json_schema() -> None:
    """Each schema is valid JSON Schema 2020-12 and has no keyword that a validator would ignore silently."""
    for schema in [*SCHEMAS.values(), *(node["schema"] for _, node in objects(DOCUMENT) if "schema" in node)]:
        Draft202012Validator.check_schema(schema)
        for pointer, node in objects(schema):
            if not pointer.endswith(("/properties", "/discriminator", "/mapping")):
                assert node.keys() <= Draft202012Validator.VALIDATORS.keys() | ANNOTATIONS, pointer


def test_every_operation_is_described() -> None:
    """The versions are set. Each operation has a unique id, texts, known tags and described responses."""
    assert (DOCUMENT["openapi"], DOCUMENT["info"]["version"]) == ("3.1.0", "1")
    assert len({operation["operationId"] for operation in OPERATIONS.values()}) == len(OPERATIONS)
    for operation in OPERATIONS.values():
        assert operation["summary"]
        assert operation["description"].endswith(".")
        assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    assert all(response["description"].endswith(".") for _, _, response in responses())


def test_every_response_has_the_headers_of_its_status() -> None:
    """Each response has X-Request-Id; a problem with 401, 405 or 503 also has the header that belongs to it."""
    further_headers = {401: {"WWW-Authenticate"}, 405: {"Allow"}, 503: {"Retry-After"}}
    for _, status, response in responses():
        expected = further_headers.get(status, set()) if "x-problems" in response else set()
        assert response["headers"].keys() == {"X-Request-Id"} | expected
        assert ("x-problems" in response) == ("application/problem+json" in response["content"])


@pytest.mark.promise(21)
def test_the_operations_equal_the_route_table() -> None:
    """The document and the code have the same methods, paths, scopes, query parameters and request bodies."""
    assert {(route.method, route.path, route.scope, route.query, route.body_bytes > 0) for route in ROUTES} == {
        (method, path, operation.get("x-scope"), parameters(operation, "query"), "requestBody" in operation)
        for (method, path), operation in OPERATIONS.items()
    }


def test_path_parameters_and_security_are_declared() -> None:
    """Each {name} in a path is declared once, and an operation requires a token exactly if it has a scope."""
    for (_, path), operation in OPERATIONS.items():
        assert list(parameters(operation, "path")) == re.findall(r"\{([a-z]+)\}", path)
        assert operation["security"] == ([{"bearer": []}] if "x-scope" in operation else [])


def test_every_upper_bound_equals_its_limit() -> None:
    """The upper bounds in the document are those of limits.json, and there are no others."""
    found = {
        f"{pointer}/{name}": node[name]
        for pointer, node in objects(DOCUMENT["components"])
        for name in ("maximum", "maxLength", "maxItems", "maxProperties")
        if name in node
    }
    assert {pointer: bound for pointer, bound in found.items() if bound != LIMITS.amount_max} == OTHER_BOUNDS
    assert list(found.values()).count(LIMITS.amount_max) == 18


def test_the_other_numbers_equal_their_limits() -> None:
    """Lower bounds and defaults, and the numbers in texts, are those of limits.json."""
    assert {node["minimum"] for _, node in objects(SCHEMAS) if "minimum" in node} == {-LIMITS.amount_max, 0, 1, 400}
    assert (SCHEMAS["Amount"]["minimum"], SCHEMAS["Balance"]["minimum"]) == (1, -LIMITS.amount_max)
    assert (QUERY["Limit"]["minimum"], QUERY["Limit"]["default"]) == (1, LIMITS.page_default)
    limit = DOCUMENT["components"]["parameters"]["Limit"]["description"]
    assert f"over {LIMITS.page_bytes} bytes" in limit
    assert (QUERY["After"]["default"], QUERY["Before"]["default"]) == (0, LIMITS.amount_max)
    for route in [route for route in ROUTES if route.body_bytes]:
        text = f"At most {route.body_bytes} bytes of JSON, nested at most {LIMITS.json_depth} levels."
        assert text in OPERATIONS[route.method, route.path]["requestBody"]["description"]
    assert f"up to {LIMITS.batch_items} items" in OPERATIONS["POST", "/v1/batches"]["description"]
    assert f"at most {LIMITS.errors_listed}." in SCHEMAS["Problem"]["properties"]["errors"]["description"]
    for schema, member in (("BodyError", "pointer"), ("QueryError", "parameter")):
        text = f"cut after {LIMITS.reflected_characters} characters"
        assert text in SCHEMAS[schema]["properties"][member]["description"]


def test_the_numbers_in_the_problem_texts_equal_their_limits() -> None:
    """The limits are those of limits.json, and the delays are those of the code."""
    assert f"deeper than {LIMITS.json_depth} levels" in PROBLEMS["invalid-json"].when
    assert f"more than {LIMITS.batch_metadata_characters} characters" in PROBLEMS["batch-too-large"].when
    assert f"more than {LIMITS.number_digits} characters" in PROBLEMS["invalid-json"].when
    assert f"at most {LIMITS.errors_listed} errors" in PROBLEMS["invalid-request"].when
    assert f"within {LIMITS.request_deadline_seconds} seconds" in PROBLEMS["deadline-exceeded"].when
    assert f" {app.REFUSAL_DELAY_SECONDS:g} seconds later" in PROBLEMS["overloaded"].when
    assert f" {worker.REQUEST_READ_SECONDS:g} seconds after the first byte" in PROBLEMS["bad-request"].when


def test_patterns_and_closed_lists_equal_those_of_the_code() -> None:
    """The values of an id, a currency, a time, a request id, a status, a scope and a retry are those of the code."""
    assert SCHEMAS["Id"]["pattern"] == f"^{fields.ID.pattern}$"
    assert SCHEMAS["Currency"]["pattern"] == f"^{fields.CURRENCY.pattern}$"
    assert SCHEMAS["TimeInput"]["pattern"] == f"^{fields.TIME.pattern}$"
    assert SCHEMAS["AccountStatus"]["enum"] == list(accounts.STATUSES)
    assert SCHEMAS["RequestId"]["pattern"] == f"^{request.REQUEST_ID.pattern}$"
    assert SCHEMAS["Problem"]["properties"]["scope"]["enum"] == list(config.SCOPES)
    assert set(SCHEMAS["ProblemType"]["properties"]["retry"]["enum"]) == {entry.retry for entry in PROBLEMS.values()}


def test_the_problems_of_the_responses_are_the_catalogue() -> None:
    """Responses list only known slugs with their own status, and each slug is listed by a response."""
    listed = {(slug, status) for _, status, response in responses() for slug in response.get("x-problems", [])}
    assert listed == {(slug, entry.status) for slug, entry in PROBLEMS.items()}


def test_the_members_and_reasons_of_a_problem_are_in_the_catalogue() -> None:
    """Each extension member is optional, and the reason of a declined transfer or hold is a problem that is stored."""
    optional = SCHEMAS["Problem"]["properties"].keys() - set(SCHEMAS["Problem"]["required"])
    assert optional == {member for entry in PROBLEMS.values() for member in entry.members}
    stored = {slug for slug, entry in PROBLEMS.items() if "is stored under its id" in entry.when}
    refusals = stored | {"id-conflict", "not-found", "account-not-found", "hold-not-found", "transfer-not-found"}
    only_transfers = {"max-balance-exceeded", "capture-exceeds-hold", "reversal-exceeds-transfer"}
    assert set(SCHEMAS["DeclinedTransfer"]["properties"]["reason"]["x-extensible-enum"]) == stored
    assert set(SCHEMAS["DeclinedHold"]["properties"]["reason"]["x-extensible-enum"]) == stored - only_transfers
    assert set(SCHEMAS["Problem"]["properties"]["reason"]["x-extensible-enum"]) == refusals
    assert set(SCHEMAS["RefusedResult"]["properties"]["problem"]["x-problems"]) == refusals


@pytest.mark.parametrize("forms", FORMS)
def test_the_three_forms_of_a_transfer_exclude_each_other(forms: tuple[str, str, str]) -> None:
    """A body matches at most one form: each form requires a value that each other form does not allow."""
    for one, other in itertools.permutations(forms, 2):
        allowed = {name for name, node in SCHEMAS[other]["properties"].items() if node.get("type") != "null"}
        assert set(SCHEMAS[one]["required"]) - allowed


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("nulls", [{}, {"captures": None}, {"reverses": None}, {"captures": None, "reverses": None}])
def test_null_is_the_same_as_absent_in_a_transfer(forms: tuple[str, str, str], nulls: dict[str, None]) -> None:
    """A body matches the same form with and without the members `captures` and `reverses` that are null."""
    plain: dict[str, Any] = {"from": "a", "to": "b", "amount": 1, "currency": "EUR"}
    for form, members in zip(forms, [plain, {"captures": "h"}, {"reverses": "t"}], strict=True):
        assert matching(forms, {**nulls, **members}) == [form]


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize(
    "members", [{"captures": None}, {"captures": "h", "reverses": "t"}, {"captures": "h", "to": "b"}]
)
def test_a_body_that_mixes_forms_matches_none(forms: tuple[str, str, str], members: dict[str, Any]) -> None:
    """A body without the members of a form, or with members of two forms, is invalid."""
    assert matching(forms, members) == []


def test_requests_are_closed_and_responses_are_open() -> None:
    """A request may not have unknown members; a response may."""
    closed = {pointer for pointer, node in objects(DOCUMENT) if node.get("additionalProperties") is False}
    single = {"AccountToOpen", "AccountToChange", "HoldToPlace", "TransferToPost", "CaptureToPost", "ReversalToPost"}
    values = {"BatchAccount", "BatchTransfer", "BatchCapture", "BatchReversal", "BatchHold", "BatchRelease"}
    items = {"AccountItem", "TransferItem", "HoldItem", "ReleaseItem"}
    assert {pointer.rpartition("/")[2] for pointer in closed} == single | {"Batch"} | items | values


def test_every_example_matches_its_schema() -> None:
    """Each example of a request body is valid, and the check accepts each example of a response."""
    for body in [operation["requestBody"] for operation in OPERATIONS.values() if "requestBody" in operation]:
        media = body["content"]["application/json"]
        openapi.parse("the example", json.dumps(media["example"]).encode(), media["schema"])
    for (method, path), status, response in responses():
        for media_type, media in response["content"].items():
            if "example" in media:
                headers = {**dict.fromkeys(response["headers"], "1"), "Content-Type": media_type}
                check(method=method, path=path, status=status, headers=headers, body=media["example"])


def test_every_example_of_a_problem_equals_the_catalogue() -> None:
    """Each example of a problem has the title and status of its slug, and the example of an entry is that entry."""
    examples = [node for _, node in objects([node["example"] for _, node in objects(DOCUMENT) if "example" in node])]
    problems = [example for example in examples if str(example.get("type")).startswith("/problems/")]
    for example in problems:
        entry = PROBLEMS[example["type"].removeprefix("/problems/")]
        assert (example["title"], example["status"]) == (entry.title, entry.status)
    (example,) = [example for example in examples if "slug" in example]
    assert example == {"slug": example["slug"], **vars(PROBLEMS[example["slug"]])}
    assert problems


@pytest.mark.promise(21)
@pytest.mark.parametrize(
    ("response", "error"),
    [
        ({"body": ACCOUNT | {"colour": "red"}}, "'colour' was unexpected"),
        ({"body": {name: ACCOUNT[name] for name in ACCOUNT if name != "held"}}, "'held' is a required property"),
        ({"body": ACCOUNT | {"balance": "0"}}, "'0' is not of type 'integer'"),
        ({"body": ACCOUNT | {"balance": LIMITS.amount_max + 1}}, "greater than the maximum"),
        ({"body": ACCOUNT | {"status": "unknown-status"}}, "'unknown-status' is not one of"),
        ({"body": None}, "the body is not JSON"),
        ({"method": "HEAD"}, "has a body"),
        ({"status": 202}, "is not in the document"),
        ({"path": "/v1/accounts/a/unknown"}, "is not in the document"),
        ({"method": "DELETE"}, "is not in the document"),
        ({"method": "PUT", "path": "/v1/holds/a", "body": HOLD | {"available": 1}}, "'available' was unexpected"),
        ({"method": "DELETE", "path": "/v1/holds/a", "body": HOLD | {"status": "declined"}}, "is not one of"),
        ({"method": "OPTIONS", "status": 204, "body": None}, "the header Allow is missing"),
        ({"method": "OPTIONS", "status": 204, "path": "/nowhere"}, "is not in the document"),
        ({"headers": PROBLEM}, "has the Content-Type 'application/problem.json'"),
        ({"headers": {"Content-Type": "application/json"}}, "headers are missing: .'X-Request-Id'."),
        ({"status": 404, "headers": PROBLEM, "body": NO_METHOD | {"status": 404}}, "is /problems/method-not-allowed"),
        ({"status": 404, "headers": PROBLEM, "body": NOT_FOUND | {"status": 409}}, "has the status 409 in the body"),
        ({"status": 404, "headers": PROBLEM, "body": NOT_FOUND | {"reason": "unknown"}}, "'unknown' is not one of"),
        ({"status": 404, "headers": PROBLEM, "body": NOT_FOUND, "path": "/nowhere"}, "is /problems/not-found"),
        ({"method": "POST", "path": "/v1/batches", "body": batch_refused("forbidden")}, "is not one of"),
    ],
)
def test_the_check_refuses_an_undocumented_response(response: dict[str, Any], error: str) -> None:
    """Another status, path, method, media type, header, member or type of member makes the check fail."""
    with pytest.raises(AssertionError, match=error):
        check(**response)


@pytest.mark.parametrize(
    "response",
    [
        {"path": "/v1/accounts/%61"},
        {"path": "http://localhost/v1/accounts/a"},
        {"method": "HEAD", "body": None},
        {"method": "OPTIONS", "status": 204, "headers": PROBLEM, "body": None},
        {"status": 404, "headers": PROBLEM, "body": NOT_FOUND},
        {"status": 404, "headers": PROBLEM, "body": NOT_FOUND | {"type": "/problems/route-not-found"}, "path": "/no"},
        {"status": 405, "headers": PROBLEM, "body": NO_METHOD, "method": "BREW"},
        {"method": "POST", "path": "/v1/batches", "body": batch_refused("account-not-found")},
    ],
)
def test_the_check_accepts_the_responses_common_to_all_paths(response: dict[str, Any]) -> None:
    """Encoded paths, absolute URLs, HEAD, OPTIONS, and the problems of an unknown id, path or method are accepted."""
    check(**response)


def check(
    method: str = "GET", path: str = "/v1/accounts/a", status: int = 200, headers: Any = HEADERS, body: Any = ACCOUNT
) -> None:
    """Check the response to GET of an account, with what the test changes."""
    openapi.check(method, path, status, headers, b"" if body is None else json.dumps(body).encode())


def matching(forms: tuple[str, ...], body: dict[str, Any]) -> list[str]:
    """The forms of a transfer that the body matches; in a batch it also has an id."""
    body = body | {"id": "t"} if "id" in SCHEMAS[forms[0]]["required"] else body
    validators = {form: Draft202012Validator({**SCHEMAS[form], "components": DOCUMENT["components"]}) for form in forms}
    return [form for form, validator in validators.items() if validator.is_valid(body)]


def parameters(operation: dict[str, Any], location: str) -> tuple[str, ...]:
    """The names of the operation's parameters in this location: query (all optional) or path (all required)."""
    shared = {f"#/components/parameters/{name}": node for name, node in DOCUMENT["components"]["parameters"].items()}
    found = [shared[node["$ref"]] if "$ref" in node else node for node in operation.get("parameters", [])]
    assert all(parameter.get("required", False) == (parameter["in"] == "path") for parameter in found)
    return tuple(parameter["name"] for parameter in found if parameter["in"] == location)


def responses() -> Iterator[tuple[tuple[str, str], int, Any]]:
    """Method and path, status and description of each response in the document."""
    for method_and_path, operation in OPERATIONS.items():
        for status in map(int, operation["responses"]):
            yield method_and_path, status, openapi.response_of(operation, status)


def objects(node: Any, pointer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object in the node with its JSON Pointer, including the node itself and excluding examples."""
    if isinstance(node, dict):
        yield pointer, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        if name != "example":
            yield from objects(value, f"{pointer}/{name}")
