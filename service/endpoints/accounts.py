"""/v1/accounts: open an account, look at it, read its statement."""

from typing import Any

from service.contract import LIMITS
from service.database import Connection
from service.endpoints import Parts, fields
from service.ledger import accounts, journal
from service.ledger.accounts import Account
from service.ledger.errors import Refusal
from service.ledger.journal import Entry
from service.wire import Request, Response, json_response, timestamp

_MEMBERS = frozenset({"currency", "min_balance", "metadata"})


def put(request: Request, parts: Parts) -> Response:
    """PUT /v1/accounts/{id}: 201 opened, 200 opened before with the same content."""
    id = request.parameters["id"]
    fields.require_id(id)
    with fields.reading() as faults:
        members = fields.Members(request.body, _MEMBERS, faults)
        currency = members.currency("currency")
        min_balance = members.floor("min_balance")  # above 0 it would be broken from the start
        metadata = members.metadata("metadata")
    account, is_new = parts.database.run(
        lambda connection: accounts.open(
            connection, id, currency=currency, min_balance=min_balance, metadata=metadata, caller=request.caller
        )
    )
    return json_response(201 if is_new else 200, _shape(account))


def get(request: Request, parts: Parts) -> Response:
    """GET /v1/accounts/{id}: balances, limits, status."""
    account = parts.database.run(lambda connection: _find(connection, request.parameters["id"]))
    return json_response(200, _shape(account))


def entries(request: Request, parts: Parts) -> Response:
    """GET /v1/accounts/{id}/entries: the statement. `next` goes into `after`, or into `before` with order=desc."""
    order = fields.query_choice(request.query, "order", ("asc", "desc"))
    after = fields.query_number(request.query, "after", 0, 0, LIMITS.amount_max)
    before = fields.query_number(request.query, "before", LIMITS.amount_max, 0, LIMITS.amount_max)
    limit = fields.query_number(request.query, "limit", LIMITS.page_default, 1, LIMITS.page_max)
    id = request.parameters["id"]

    def work(connection: Connection) -> list[Entry]:
        _find(connection, id)
        newest = order == "desc"
        return journal.entries(connection, id, after=after, before=before, newest_first=newest, limit=limit + 1)

    found = parts.database.run(work)
    page = found[:limit]
    following = str(page[-1].number) if len(found) > limit else None
    return json_response(200, {"entries": [_entry_shape(entry) for entry in page], "next": following})


def _find(connection: Connection, id: str) -> Account:
    account = accounts.get(connection, id) if fields.ID.fullmatch(id) else None
    if account is None:
        raise Refusal("not-found", "No account has this id.")
    return account


def _shape(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "currency": account.currency,
        "balance": account.balance,
        "held": account.held,
        "available": account.available,
        "min_balance": account.min_balance,
        "status": account.status,
        "metadata": account.metadata,
        "created_by": account.created_by,
        "created_at": timestamp(account.created_at),
    }


def _entry_shape(entry: Entry) -> dict[str, Any]:
    return {**vars(entry), "created_at": timestamp(entry.created_at)}
