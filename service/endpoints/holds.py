"""/v1/holds: set money aside, look at it, release it."""

from service.endpoints import Parts, fields
from service.endpoints.shapes import show
from service.ledger import holds, journal
from service.ledger.records import HoldRequest, Release
from service.wire import Request, Response, json_response

_MEMBERS = ("from", "to", "amount", "currency", "expires_at", "metadata")


def put(request: Request, parts: Parts) -> Response:
    """PUT /v1/holds/{id}: 201 set aside, 200 set aside before; declined and conflicting ones are problems."""
    id = fields.new_id(request.parameters)
    with fields.reading() as faults:
        members = fields.Members(request.body, _MEMBERS, faults)
        hold = HoldRequest(
            id=id, **members.movement(), expires_at=members.moment("expires_at"), metadata=members.metadata("metadata")
        )
    outcome = parts.database.run(lambda connection: journal.post_one(connection, hold, caller=request.caller))
    return json_response(201 if outcome.is_new else 200, show(outcome.record))


def get(request: Request, parts: Parts) -> Response:
    """GET /v1/holds/{id}: open, captured, released, expired or declined."""
    id = fields.known_id(request.parameters)
    hold = parts.database.run(lambda connection: holds.get(connection, id))
    return json_response(200, show(fields.found(hold)))


def delete(request: Request, parts: Parts) -> Response:
    """DELETE /v1/holds/{id}: 200 released or expired, now or before; a captured or declined hold is a problem."""
    release = Release(fields.known_id(request.parameters))
    outcome = parts.database.run(lambda connection: journal.post_one(connection, release, caller=request.caller))
    return json_response(200, show(outcome.record))
