"""The OpenAPI document is valid, tells what the code does, and the checker that holds answers against it can refuse."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from service import config, wire
from service.app import ROUTES
from service.contract import LIMITS, PROBLEMS, openapi_bytes
from service.endpoints import accounts, fields
from tests import openapi

DOCUMENT: dict[str, Any] = json.loads(openapi_bytes())  # as callers get it; openapi.DOCUMENT is closed
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
QUERY: dict[str, Any] = {name: node["schema"] for name, node in DOCUMENT["components"]["parameters"].items()}
OPERATIONS: dict[tuple[str, str], dict[str, Any]] = {
    (method.upper(), path): operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
NOTES = {"description", "default", "discriminator", "x-extensible-enum", "x-problems"}  # keywords that validate nothing
OTHER_BOUNDS = {  # than that of amounts, balances and numbers
    "/parameters/Limit/schema/maximum": LIMITS.page_max,
    "/schemas/AccountToOpen/properties/min_balance/maximum": 0,
    "/schemas/Batch/properties/transfers/maxItems": LIMITS.batch_transfers,
    "/schemas/BodyError/properties/pointer/maxLength": LIMITS.reflected_characters,
    "/schemas/Id/maxLength": LIMITS.id_characters,
    "/schemas/Metadata/additionalProperties/maxLength": LIMITS.metadata_value_characters,
    "/schemas/Metadata/maxProperties": LIMITS.metadata_members,
    "/schemas/Metadata/propertyNames/maxLength": LIMITS.metadata_name_characters,
    "/schemas/Problem/properties/errors/maxItems": LIMITS.errors_listed,
    "/schemas/Problem/properties/index/maximum": LIMITS.batch_transfers - 1,
    "/schemas/Problem/properties/status/maximum": 599,
    "/schemas/ProblemType/properties/status/maximum": 599,
    "/schemas/QueryError/properties/parameter/maxLength": LIMITS.reflected_characters,
}

ACCOUNT = OPERATIONS["GET", "/v1/accounts/{id}"]["responses"]["200"]["content"]["application/json"]["example"]
HOLD = OPERATIONS["GET", "/v1/holds/{id}"]["responses"]["200"]["content"]["application/json"]["example"]
NOT_FOUND = {"type": "/problems/not-found", "title": "…", "status": 404, "detail": "…", "request_id": "r1"}
NO_METHOD = {**NOT_FOUND, "type": "/problems/method-not-allowed", "status": 405}
HEADERS = {"X-Request-Id": "r1", "Content-Type": "application/json"}
PROBLEM = {"X-Request-Id": "r1", "Content-Type": "application/problem+json", "Allow": "GET"}


def batch_refused(slug: str) -> dict[str, Any]:
    """The answer to a batch whose one item was refused."""
    return {"results": [{"status": 422, "problem": NOT_FOUND | {"type": f"/problems/{slug}", "status": 422}}]}


def test_every_reference_leads_somewhere() -> None:
    """Each $ref is a pointer to a component, and each component is used."""
    used = {node["$ref"] for _, node in objects(DOCUMENT) if "$ref" in node}
    groups = {name: group for name, group in DOCUMENT["components"].items() if name != "securitySchemes"}
    assert used == {f"#/components/{name}/{entry}" for name, group in groups.items() for entry in group}


def test_every_schema_is_a_json_schema() -> None:
    """Each schema is valid JSON Schema 2020-12, and has no keyword that a reader would silently pass over."""
    for schema in [*SCHEMAS.values(), *(node["schema"] for _, node in objects(DOCUMENT) if "schema" in node)]:
        Draft202012Validator.check_schema(schema)
        for place, node in objects(schema):
            if not place.endswith(("/properties", "/discriminator", "/mapping")):
                assert node.keys() <= Draft202012Validator.VALIDATORS.keys() | NOTES, place


def test_every_operation_is_described() -> None:
    """The document says its version; an operation has an id of its own, texts, a known tag and described answers."""
    assert (DOCUMENT["openapi"], DOCUMENT["info"]["version"]) == ("3.1.0", "1")
    assert len({operation["operationId"] for operation in OPERATIONS.values()}) == len(OPERATIONS)
    for operation in OPERATIONS.values():
        assert operation["summary"]
        assert operation["description"].endswith(".")
        assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    assert all(response["description"].endswith(".") for _, _, response in answers())


def test_every_answer_has_the_headers_of_its_status() -> None:
    """X-Request-Id stands on all; what a caller must know to go on stands on 401, 405 and 503."""
    further = {401: {"WWW-Authenticate"}, 405: {"Allow"}, 503: {"Retry-After"}}
    for _, status, response in answers():
        due = further.get(status, set()) if "x-problems" in response else set()
        assert response["headers"].keys() == {"X-Request-Id"} | due
        assert ("x-problems" in response) == ("application/problem+json" in response["content"])


@pytest.mark.promise(21)
def test_the_operations_are_the_route_table() -> None:
    """Method, path, scope, query parameters and whether there is a body are the same in document and code."""
    assert {(route.method, route.path, route.scope, route.query, route.body_bytes > 0) for route in ROUTES} == {
        (method, path, operation.get("x-scope"), parameters(operation, "query"), "requestBody" in operation)
        for (method, path), operation in OPERATIONS.items()
    }


def test_paths_and_scopes_are_told_in_the_way_of_openapi() -> None:
    """Each {name} of a path is declared once, and a token is asked for where there is a scope."""
    for (_, path), operation in OPERATIONS.items():
        assert list(parameters(operation, "path")) == re.findall(r"\{([a-z]+)\}", path)
        assert operation["security"] == ([{"bearer": []}] if "x-scope" in operation else [])


def test_every_upper_bound_is_that_of_the_limits() -> None:
    """No maximum stands in the document that the code does not hold, and none is another number."""
    found = {
        f"{place}/{name}": node[name]
        for place, node in objects(DOCUMENT["components"])
        for name in ("maximum", "maxLength", "maxItems", "maxProperties")
        if name in node
    }
    assert {place: bound for place, bound in found.items() if bound != LIMITS.amount_max} == OTHER_BOUNDS
    assert list(found.values()).count(LIMITS.amount_max) == 12


def test_the_other_numbers_are_those_of_the_limits() -> None:
    """Lower bounds, defaults, and the size and depth of a body, which no schema can say, are the same, too."""
    assert {node["minimum"] for _, node in objects(SCHEMAS) if "minimum" in node} == {-LIMITS.amount_max, 0, 1, 400}
    assert (SCHEMAS["Amount"]["minimum"], SCHEMAS["Balance"]["minimum"]) == (1, -LIMITS.amount_max)
    assert (QUERY["Limit"]["minimum"], QUERY["Limit"]["default"]) == (1, LIMITS.page_default)
    assert (QUERY["After"]["default"], QUERY["Before"]["default"]) == (0, LIMITS.amount_max)
    for route in [route for route in ROUTES if route.body_bytes]:
        told = f"At most {route.body_bytes} bytes of JSON, nested at most {LIMITS.json_depth} levels."
        assert told in OPERATIONS[route.method, route.path]["requestBody"]["description"]
    assert f"up to {LIMITS.batch_transfers} transfers" in OPERATIONS["POST", "/v1/transfers"]["description"]


def test_patterns_and_closed_lists_are_those_of_the_code() -> None:
    """What an id, a currency, a request id, a scope and a retry may be is the same in document and code."""
    assert SCHEMAS["Id"]["pattern"] == f"^{fields.ID.pattern}$"
    assert SCHEMAS["Currency"]["pattern"] == f"^{fields.CURRENCY.pattern}$"
    assert SCHEMAS["Moment"]["pattern"] == f"^{fields._MOMENT.pattern}$"
    assert SCHEMAS["AccountStatus"]["enum"] == list(accounts.STATUSES)
    assert SCHEMAS["RequestId"]["pattern"] == f"^{wire._REQUEST_ID.pattern}$"
    assert SCHEMAS["Problem"]["properties"]["scope"]["enum"] == list(config.SCOPES)
    assert set(SCHEMAS["ProblemType"]["properties"]["retry"]["enum"]) == {entry.retry for entry in PROBLEMS.values()}


def test_the_problems_of_the_answers_are_the_catalogue() -> None:
    """Answers list no slug that is unknown or has another status, and every slug is listed by some answer."""
    listed = {(slug, status) for _, status, response in answers() for slug in response.get("x-problems", [])}
    assert listed == {(slug, entry.status) for slug, entry in PROBLEMS.items()}


def test_the_members_and_reasons_of_a_problem_are_those_of_the_catalogue() -> None:
    """Each extension member is described and optional; what is declined has a reason that is remembered."""
    optional = SCHEMAS["Problem"]["properties"].keys() - set(SCHEMAS["Problem"]["required"])
    assert optional == {member for entry in PROBLEMS.values() for member in entry.members}
    remembered = {slug for slug, entry in PROBLEMS.items() if "Remembered under the id" in entry.when}
    refusals = remembered | {"id-conflict", "account-not-found", "hold-not-found", "transfer-not-found"}
    of_transfers = {"capture-exceeds-hold", "reversal-exceeds-transfer"}
    assert set(SCHEMAS["DeclinedTransfer"]["properties"]["reason"]["x-extensible-enum"]) == remembered
    assert set(SCHEMAS["DeclinedHold"]["properties"]["reason"]["x-extensible-enum"]) == remembered - of_transfers
    assert set(SCHEMAS["Problem"]["properties"]["reason"]["x-extensible-enum"]) == refusals
    assert set(SCHEMAS["RefusedResult"]["properties"]["problem"]["x-problems"]) == refusals


@pytest.mark.parametrize("schema", ["TransferToPost", "BatchItem"])
def test_the_three_forms_of_a_transfer_exclude_each_other(schema: str) -> None:
    """A body fits one form at most: each has members that the others need or do not know."""
    forms = {"TransferToPost": ("CaptureToPost", "ReversalToPost"), "BatchItem": ("BatchCapture", "BatchReversal")}
    for one, other in itertools.permutations([schema, *forms[schema]], 2):
        assert set(SCHEMAS[one]["required"]) - SCHEMAS[other]["properties"].keys()


def test_requests_are_closed_and_answers_are_open() -> None:
    """A caller may send nothing unknown, and must be ready to get something unknown."""
    closed = {place for place, node in objects(DOCUMENT) if node.get("additionalProperties") is False}
    plain = {"AccountToOpen", "AccountToChange", "HoldToPlace", "TransferToPost", "Batch", "BatchItem"}
    following = {"CaptureToPost", "ReversalToPost", "BatchCapture", "BatchReversal"}
    assert {place.rpartition("/")[2] for place in closed} == plain | following


def test_every_example_fits() -> None:
    """Who copies a body from the document sends a valid one, and the checker takes the answers that it shows."""
    for body in [operation["requestBody"] for operation in OPERATIONS.values() if "requestBody" in operation]:
        media = body["content"]["application/json"]
        openapi.read("the example", json.dumps(media["example"]).encode(), media["schema"])
    for (method, path), status, response in answers():
        for media_type, media in response["content"].items():
            if "example" in media:
                headers = {**dict.fromkeys(response["headers"], "1"), "Content-Type": media_type}
                check(method=method, path=path, status=status, headers=headers, body=media["example"])


@pytest.mark.promise(21)
@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ({"body": ACCOUNT | {"colour": "red"}}, "'colour' was unexpected"),
        ({"body": {name: ACCOUNT[name] for name in ACCOUNT if name != "held"}}, "'held' is a required property"),
        ({"body": ACCOUNT | {"balance": "0"}}, "'0' is not of type 'integer'"),
        ({"body": ACCOUNT | {"balance": LIMITS.amount_max + 1}}, "greater than the maximum"),
        ({"body": ACCOUNT | {"status": "asleep"}}, "'asleep' is not one of"),
        ({"body": None}, "the body is not JSON"),
        ({"method": "HEAD"}, "has a body"),
        ({"status": 202}, "is not in the document"),
        ({"path": "/v1/accounts/a/friends"}, "is not in the document"),
        ({"method": "DELETE"}, "is not in the document"),
        ({"method": "PUT", "path": "/v1/holds/a", "body": HOLD | {"available": 1}}, "'available' was unexpected"),
        ({"method": "DELETE", "path": "/v1/holds/a", "body": HOLD | {"status": "declined"}}, "is not one of"),
        ({"method": "OPTIONS", "status": 204, "body": None}, "the header Allow is missing"),
        ({"method": "OPTIONS", "status": 204, "path": "/nowhere"}, "is not in the document"),
        ({"headers": PROBLEM}, "has the Content-Type 'application/problem.json'"),
        ({"headers": {"Content-Type": "application/json"}}, "headers are missing: .'X-Request-Id'."),
        ({"status": 404, "headers": PROBLEM, "body": NO_METHOD | {"status": 404}}, "is /problems/method-not-allowed"),
        ({"status": 404, "headers": PROBLEM, "body": NOT_FOUND | {"status": 409}}, "has the status 409 in the body"),
        ({"status": 404, "headers": PROBLEM, "body": NOT_FOUND | {"reason": "mood"}}, "'mood' is not one of"),
        ({"status": 404, "headers": PROBLEM, "body": NOT_FOUND, "path": "/nowhere"}, "is /problems/not-found"),
        ({"method": "POST", "path": "/v1/transfers", "body": batch_refused("forbidden")}, "is not one of"),
    ],
)
def test_the_checker_refuses_what_the_document_lacks(answer: dict[str, Any], fault: str) -> None:
    """Not the status, path, method, media type or a header; not a member too many, too few, or of another type."""
    with pytest.raises(AssertionError, match=fault):
        check(**answer)


@pytest.mark.parametrize(
    "answer",
    [
        {"path": "/v1/accounts/%61"},
        {"path": "http://localhost/v1/accounts/a"},
        {"method": "HEAD", "body": None},
        {"method": "OPTIONS", "status": 204, "headers": PROBLEM, "body": None},
        {"status": 404, "headers": PROBLEM, "body": NOT_FOUND},
        {"status": 404, "headers": PROBLEM, "body": NOT_FOUND | {"type": "/problems/route-not-found"}, "path": "/no"},
        {"status": 405, "headers": PROBLEM, "body": NO_METHOD, "method": "BREW"},
        {"method": "POST", "path": "/v1/transfers", "body": batch_refused("account-not-found")},
    ],
)
def test_the_checker_takes_what_holds_for_any_path(answer: dict[str, Any]) -> None:
    """An encoded path is the same path, HEAD is GET without a body, and a wrong path or method has its own refusal."""
    check(**answer)


def check(
    method: str = "GET", path: str = "/v1/accounts/a", status: int = 200, headers: Any = HEADERS, body: Any = ACCOUNT
) -> None:
    """The checker's verdict on an account that was looked at; a test says what differs."""
    openapi.check(method, path, status, headers, b"" if body is None else json.dumps(body).encode())


def parameters(operation: dict[str, Any], place: str) -> tuple[str, ...]:
    """The names of the operation's parameters in the query, which are optional, or in the path."""
    shared = {f"#/components/parameters/{name}": node for name, node in DOCUMENT["components"]["parameters"].items()}
    found = [shared[node["$ref"]] if "$ref" in node else node for node in operation.get("parameters", [])]
    assert all(parameter.get("required", False) == (parameter["in"] == "path") for parameter in found)
    return tuple(parameter["name"] for parameter in found if parameter["in"] == place)


def answers() -> Iterator[tuple[tuple[str, str], int, Any]]:
    """Method and path, status and response of every answer in the document."""
    for method_and_path, operation in OPERATIONS.items():
        for status in map(int, operation["responses"]):
            yield method_and_path, status, openapi.response_of(operation, status)


def objects(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in the node with its place, the node itself among them; examples are not looked into."""
    if isinstance(node, dict):
        yield place, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        if name != "example":
            yield from objects(value, f"{place}/{name}")
