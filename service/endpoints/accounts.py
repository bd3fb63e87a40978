"""/v1/accounts: open and change accounts, look at them, read their statements and past balances."""

from typing import Any

from service.contract import LIMITS
from service.database import Connection
from service.endpoints import Parts, fields, shapes
from service.endpoints.shapes import show
from service.ledger import accounts, transfers
from service.ledger.accounts import Account, Change
from service.ledger.transfers import Entry
from service.wire import Request, Response, invalid_query, json_response

STATUSES = ("open", "frozen", "closed")


def put(request: Request, parts: Parts) -> Response:
    """PUT /v1/accounts/{id}: 201 opened, 200 opened before with the same content."""
    id = fields.new_id(request.parameters)
    with fields.reading() as faults:
        members = fields.Members(request.body, ("currency", "min_balance", "metadata"), faults)
        wanted = {
            "currency": members.currency("currency"),
            "min_balance": members.floor("min_balance", highest=0),  # above 0 it would be broken from the start
            "metadata": members.metadata("metadata"),
        }
    account, is_new = parts.database.run(lambda connection: accounts.open(connection, id, wanted, request.caller))
    return json_response(201 if is_new else 200, show(account))


def patch(request: Request, parts: Parts) -> Response:
    """PATCH /v1/accounts/{id}: set min_balance, status or metadata as a whole. 200, also when nothing changed."""
    id = fields.known_id(request.parameters)
    with fields.reading() as faults:
        members = fields.Members(request.body, ("min_balance", "status", "metadata"), faults)
        wanted: dict[str, Any] = {}
        if "min_balance" in members:
            wanted["min_balance"] = members.floor("min_balance", highest=LIMITS.amount_max)
        if "status" in members:
            wanted["status"] = members.choice("status", STATUSES)
        if "metadata" in members:
            wanted["metadata"] = members.metadata("metadata")
        if not wanted:
            faults.add("", "must have min_balance, status or metadata")
    account = parts.database.run(lambda connection: accounts.change(connection, id, wanted, request.caller))
    return json_response(200, show(fields.found(account)))


def get(request: Request, parts: Parts) -> Response:
    """GET /v1/accounts/{id}: balances, limits, status."""
    id = fields.known_id(request.parameters)
    account = parts.database.run(lambda connection: _find(connection, id))
    return json_response(200, show(account))


def entries(request: Request, parts: Parts) -> Response:
    """GET /v1/accounts/{id}/entries: the statement. `next` goes into `after`, or into `before` with order=desc."""
    order = fields.query_choice(request.query, "order", ("asc", "desc"))
    after = fields.query_number(request.query, "after", 0, 0, LIMITS.amount_max)
    before = fields.query_number(request.query, "before", LIMITS.amount_max, 0, LIMITS.amount_max)
    limit = fields.query_limit(request.query)
    id = fields.known_id(request.parameters)

    def work(connection: Connection) -> list[Entry]:
        _find(connection, id)
        newest = order == "desc"
        return transfers.entries(connection, id, after=after, before=before, newest_first=newest, limit=limit + 1)

    return shapes.page("entries", parts.database.run(work), limit, "number")


def page(request: Request, parts: Parts) -> Response:
    """GET /v1/accounts: by id, those whose id begins with `prefix`."""
    prefix, after = fields.query_id(request.query, "prefix"), fields.query_id(request.query, "after")
    limit = fields.query_limit(request.query)
    found = parts.database.run(
        lambda connection: accounts.page(connection, prefix=prefix, after=after, limit=limit + 1)
    )
    return shapes.page("accounts", found, limit, "id")


def balance(request: Request, parts: Parts) -> Response:
    """GET /v1/accounts/{id}/balance: after the transfer `number`, or at the moment `at`; for ever the same."""
    at = fields.query_moment(request.query, "at")
    if (at is None) == ("number" not in request.query):
        raise invalid_query("at", "or number is needed, and not both")
    asked = fields.query_number(request.query, "number", 0, 0, LIMITS.amount_max)
    id = fields.known_id(request.parameters)

    def work(connection: Connection) -> tuple[int, list[Entry]]:
        _find(connection, id)
        number = transfers.number_at(connection, at) if at else asked
        if number is None:
            raise invalid_query("at", "must not be in the future")
        if at is None and number > transfers.last_number(connection):
            raise invalid_query("number", "must not be above that of the newest transfer")
        last = transfers.entries(connection, id, after=0, before=number + 1, newest_first=True, limit=1)
        return number, last

    number, last = parts.database.run(work)
    balance = last[0].balance if last else 0
    return json_response(200, {"account": id, "balance": balance, "number": number, "at": at})


def changes(request: Request, parts: Parts) -> Response:
    """GET /v1/accounts/{id}/changes: who changed limit, status or metadata, when, from what to what."""
    after = fields.query_number(request.query, "after", 0, 0, LIMITS.amount_max)
    limit = fields.query_limit(request.query)
    id = fields.known_id(request.parameters)

    def work(connection: Connection) -> list[Change]:
        _find(connection, id)
        return accounts.changes(connection, id, after=after, limit=limit + 1)

    return shapes.page("changes", parts.database.run(work), limit, "change")


def _find(connection: Connection, id: str) -> Account:
    return fields.found(accounts.get(connection, id))
