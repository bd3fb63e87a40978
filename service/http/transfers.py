"""/v1/transfers: post, read and list transfers."""

from typing import Any

from service.contract import LIMITS
from service.http import fields
from service.http.fields import FieldErrors, FieldReader
from service.http.request import Dependencies, Request
from service.http.response import Response, json_response, page_response, show_record, show_transfer
from service.ledger import transfers
from service.ledger.types import TransferCommand

_SOURCES = ("captures", "reverses")  # null is the same as absent, because responses show null


def put(request: Request, dependencies: Dependencies) -> Response:
    """PUT /v1/transfers/{id}: 201 posted, 200 posted before. Declined and conflicting transfers are problems."""
    id = fields.id_to_create(request.parameters)
    errors = FieldErrors()
    command = read_transfer(request.body, errors, request.caller, id=id)
    errors.raise_if_any()
    result = dependencies.group_posting.post(command)
    return json_response(201 if result.is_new else 200, show_record(result.record))


def get(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/transfers/{id}: posted or declined."""
    id = fields.id_to_find(request.parameters)
    transfer = dependencies.database.run(lambda connection: transfers.get(connection, id))
    return json_response(200, show_transfer(fields.require_found(transfer)))


def list_after(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/transfers: the posted transfers by number, with `reference` only those that have it.

    A consumer that resumes after a number misses none.
    """
    after = fields.query_integer(request.query, "after", 0, 0, LIMITS.amount_max)
    reference = fields.query_id(request.query, "reference")
    limit = fields.query_limit(request.query)
    rows = dependencies.read_list(
        limit, lambda connection: transfers.list_after(connection, after=after, limit=limit + 1, reference=reference)
    )
    return page_response("transfers", rows, limit, show=show_transfer, cursor=lambda transfer: transfer.number)


def read_transfer(body: Any, errors: FieldErrors, caller: str, *, id: str = "", pointer: str = "") -> TransferCommand:
    """A transfer, a capture or a reversal. In a batch the id is a member; else `id` is the one in the path."""
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if value is not None or name not in _SOURCES}
        if source := next((name for name in _SOURCES if name in body), None):
            return _read_capture_or_reversal(source, body, errors, caller, id, pointer)
    members = ("from", "to", "amount", "currency", "reference", "metadata")
    reader = FieldReader(body, members if id else ("id", *members), errors, pointer)
    return TransferCommand(
        id=id or reader.id("id"),
        **reader.movement(),
        reference=reader.reference(),
        metadata=reader.metadata(),
        created_by=caller,
    )


def _read_capture_or_reversal(
    source: str, body: Any, errors: FieldErrors, caller: str, id: str, pointer: str
) -> TransferCommand:
    """A capture or a reversal: the hold or transfer that `source` names defines the accounts and the currency."""
    members = (source, "amount", "reference", "metadata")
    unknown = f"is not allowed with {source}"
    reader = FieldReader(body, members if id else ("id", *members), errors, pointer, unknown)
    return TransferCommand(
        id=id or reader.id("id"),
        amount=reader.amount() if "amount" in reader else None,
        reference=reader.reference(),
        metadata=reader.metadata(),
        created_by=caller,
        captures=reader.id("captures") if source == "captures" else None,
        reverses=reader.id("reverses") if source == "reverses" else None,
    )
