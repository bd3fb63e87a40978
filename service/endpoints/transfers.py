"""/v1/transfers: post one or many, look one up, read the feed."""

from typing import Any

from service.contract import LIMITS
from service.endpoints import Parts, fields, shapes
from service.endpoints.shapes import show
from service.ledger import journal, transfers
from service.ledger.records import Outcome, TransferRequest
from service.wire import Request, Response, json_response, problem_members

_PLAIN = ("from", "to", "amount", "currency", "metadata")
_FOLLOWING = ("captures", "reverses")  # a hold, or a transfer, that has the accounts and the currency


def put(request: Request, parts: Parts) -> Response:
    """PUT /v1/transfers/{id}: 201 posted, 200 posted before; declined and conflicting ones are problems."""
    id = fields.new_id(request.parameters)
    with fields.reading() as faults:
        transfer = _read(request.body, faults, id=id)
    outcome = parts.database.run(lambda connection: journal.post_one(connection, transfer, caller=request.caller))
    return json_response(201 if outcome.is_new else 200, show(outcome.record))


def post(request: Request, parts: Parts) -> Response:
    """POST /v1/transfers: up to 1,000 at once. One result for each; an atomic batch stands or falls whole."""
    with fields.reading() as faults:
        batch = fields.Members(request.body, ("atomic", "transfers"), faults)
        atomic = batch.boolean("atomic")
        items = batch.items("transfers", LIMITS.batch_transfers)
        asked = [_read(item, faults, pointer=f"/transfers/{index}") for index, item in enumerate(items)]
    outcomes = parts.database.run(
        lambda connection: journal.post(connection, asked, atomic=atomic, caller=request.caller)
    )
    return json_response(200, {"results": [_result(outcome, request.request_id) for outcome in outcomes]})


def get(request: Request, parts: Parts) -> Response:
    """GET /v1/transfers/{id}: posted or declined."""
    id = fields.known_id(request.parameters)
    transfer = parts.database.run(lambda connection: transfers.get(connection, id))
    return json_response(200, show(fields.found(transfer)))


def feed(request: Request, parts: Parts) -> Response:
    """GET /v1/transfers: the posted transfers by number. Whoever reads on from the last number seen misses nothing."""
    after = fields.query_number(request.query, "after", 0, 0, LIMITS.amount_max)
    limit = fields.query_limit(request.query)
    found = parts.database.run(lambda connection: transfers.read_on(connection, after=after, limit=limit + 1))
    return shapes.page("transfers", found, limit, "number")


def _read(body: Any, faults: fields.Faults, *, id: str = "", pointer: str = "") -> TransferRequest:
    """One transfer; in a batch, where it has no id yet, its id is a member."""
    named = next((name for name in _FOLLOWING if isinstance(body, dict) and name in body), None)
    own = () if id else ("id",)
    known = (*own, named, "amount", "metadata") if named else (*own, *_PLAIN)
    members = fields.Members(body, known, faults, pointer, f"does not go with {named}" if named else "is not known")
    id = id or members.id("id")
    if named:
        amount = members.amount() if "amount" in members else None
        moved: dict[str, Any] = {"amount": amount, named: members.id(named)}
    else:
        moved = members.movement()
    return TransferRequest(id=id, **moved, metadata=members.metadata("metadata"))


def _result(outcome: Outcome, request_id: str) -> dict[str, Any]:
    if outcome.refusal:
        problem = problem_members(outcome.refusal, request_id)
        return {"status": problem["status"], "problem": problem}
    return {"status": 201 if outcome.is_new else 200, "transfer": show(outcome.record)}
