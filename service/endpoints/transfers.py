"""/v1/transfers: post one or many, look one up, read the feed."""

from typing import Any

from service.contract import LIMITS
from service.endpoints import Parts, fields
from service.ledger import journal
from service.ledger.errors import Refusal
from service.ledger.posting import Outcome, Refused, Transfer, TransferRequest, declined_refusal
from service.wire import Request, Response, json_response, problem_members, timestamp

_MEMBERS = frozenset({"from", "to", "amount", "currency", "metadata"})


def put(request: Request, parts: Parts) -> Response:
    """PUT /v1/transfers/{id}: 201 posted, 200 posted before; declined and conflicting ones are problems."""
    id = request.parameters["id"]
    fields.require_id(id)
    with fields.reading() as faults:
        members = fields.Members(request.body, _MEMBERS, faults)
        transfer = _read(members, id)
    (outcome,) = _post(request, parts, [transfer], atomic=False)
    if isinstance(outcome, Refused):
        raise outcome.refusal
    return json_response(201 if outcome.is_new else 200, _shape(outcome.transfer))


def post(request: Request, parts: Parts) -> Response:
    """POST /v1/transfers: up to 1,000 at once. One result for each; an atomic batch stands or falls whole."""
    with fields.reading() as faults:
        batch = fields.Members(request.body, frozenset({"atomic", "transfers"}), faults)
        atomic = batch.boolean("atomic")
        transfers = []
        for index, item in enumerate(batch.items("transfers", LIMITS.batch_transfers)):
            members = fields.Members(item, _MEMBERS | {"id"}, faults, f"/transfers/{index}")
            transfers.append(_read(members, members.id("id")))
    outcomes = _post(request, parts, transfers, atomic=atomic)
    return json_response(200, {"results": [_result(outcome, request.id) for outcome in outcomes]})


def get(request: Request, parts: Parts) -> Response:
    """GET /v1/transfers/{id}: posted or declined."""
    id = request.parameters["id"]
    transfer = parts.database.run(lambda connection: journal.get(connection, id)) if fields.ID.fullmatch(id) else None
    if transfer is None:
        raise Refusal("not-found", "No transfer has this id.")
    return json_response(200, _shape(transfer))


def feed(request: Request, parts: Parts) -> Response:
    """GET /v1/transfers: the posted transfers by number. Whoever reads on from the last number seen misses nothing."""
    after = fields.query_number(request.query, "after", 0, 0, LIMITS.amount_max)
    limit = fields.query_number(request.query, "limit", LIMITS.page_default, 1, LIMITS.page_max)
    found = parts.database.run(lambda connection: journal.read_on(connection, after=after, limit=limit + 1))
    page = found[:limit]
    following = str(page[-1].number) if len(found) > limit else None
    return json_response(200, {"transfers": [_shape(transfer) for transfer in page], "next": following})


def _read(members: fields.Members, id: str) -> TransferRequest:
    transfer = TransferRequest(
        id=id,
        from_account=members.id("from"),
        to_account=members.id("to"),
        amount=members.whole_number("amount", 1, LIMITS.amount_max),
        currency=members.currency("currency"),
        metadata=members.metadata("metadata"),
    )
    if transfer.from_account and transfer.from_account == transfer.to_account:
        members.refuse("to", "must be another account than from")
    return transfer


def _post(request: Request, parts: Parts, transfers: list[TransferRequest], *, atomic: bool) -> list[Outcome]:
    return parts.database.run(
        lambda connection: journal.post(connection, transfers, atomic=atomic, caller=request.caller)
    )


def _result(outcome: Outcome, request_id: str) -> dict[str, Any]:
    if isinstance(outcome, Refused):
        problem = problem_members(outcome.refusal, request_id)
        return {"status": problem["status"], "problem": problem}
    return {"status": 201 if outcome.is_new else 200, "transfer": _shape(outcome.transfer)}


def _shape(transfer: Transfer) -> dict[str, Any]:
    if transfer.created_at is None:
        raise AssertionError(f"bug: {transfer.id} is shown before it is written")
    shape = {
        "id": transfer.id,
        "number": transfer.number,
        "status": transfer.status,
        "from": transfer.from_account,
        "to": transfer.to_account,
        "amount": transfer.amount,
        "currency": transfer.currency,
        "from_balance": transfer.from_balance,
        "to_balance": transfer.to_balance,
        "captures": transfer.captures,
        "reverses": transfer.reverses,
        "metadata": transfer.metadata,
        "created_by": transfer.created_by,
        "created_at": timestamp(transfer.created_at),
    }
    if transfer.status == "declined":
        shape |= {"reason": transfer.reason, **declined_refusal(transfer).members}
    return shape
