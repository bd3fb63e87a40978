"""/v1/holds: place, read and release holds."""

from typing import Any

from service.http import fields
from service.http.fields import FieldErrors, FieldReader
from service.http.request import Dependencies, Request
from service.http.response import Response, json_response, show_hold, show_record
from service.ledger import holds
from service.ledger.types import HoldCommand, ReleaseCommand

_MEMBERS = ("from", "to", "amount", "currency", "expires_at", "reference", "metadata")


def put(request: Request, dependencies: Dependencies) -> Response:
    """PUT /v1/holds/{id}: 201 placed, 200 placed before. Declined and conflicting holds are problems."""
    id = fields.id_to_create(request.parameters)
    errors = FieldErrors()
    command = read_hold(request.body, errors, request.caller, id=id)
    errors.raise_if_any()
    result = dependencies.group_posting.post(command)
    return json_response(201 if result.is_new else 200, show_record(result.record))


def read_hold(body: Any, errors: FieldErrors, caller: str, *, id: str = "", pointer: str = "") -> HoldCommand:
    """A hold to place. In a batch the id is a member; else `id` is the one in the path."""
    reader = FieldReader(body, _MEMBERS if id else ("id", *_MEMBERS), errors, pointer)
    return HoldCommand(
        id=id or reader.id("id"),
        **reader.movement(),
        expires_at=reader.time("expires_at"),
        reference=reader.reference(),
        metadata=reader.metadata(),
        created_by=caller,
    )


def read_release(body: Any, errors: FieldErrors, caller: str, *, pointer: str) -> ReleaseCommand:
    """The release of a hold, as an item of a batch."""
    return ReleaseCommand(FieldReader(body, ("id",), errors, pointer).id("id"))


def get(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/holds/{id}: open, captured, released, expired or declined."""
    id = fields.id_to_find(request.parameters)
    hold = dependencies.database.run(lambda connection: holds.get_and_advance_time(connection, id))
    return json_response(200, show_hold(fields.require_found(hold)))


def delete(request: Request, dependencies: Dependencies) -> Response:
    """DELETE /v1/holds/{id}: 200 released or expired, now or before. A captured or declined hold is a problem."""
    command = ReleaseCommand(fields.id_to_find(request.parameters))
    result = dependencies.group_posting.post(command)
    return json_response(200, show_record(result.record))
