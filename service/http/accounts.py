"""/v1/accounts: open, read and change accounts, and read their statements, past balances and open holds."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from service.contract import LIMITS
from service.errors import Refusal
from service.http import auth, fields
from service.http.fields import FieldErrors, FieldReader
from service.http.request import Dependencies, Request, invalid_query
from service.http.response import (
    Response,
    json_response,
    page_response,
    show_account,
    show_change,
    show_entry,
    show_hold,
    show_record,
)
from service.ledger import accounts, clock, holds, transfers
from service.ledger.types import AccountChange, AccountCommand, Entry, Hold, PastBalance
from service.session import Connection

STATUSES = ("open", "frozen", "closed")
_MICROSECOND = timedelta(microseconds=1)  # the resolution of the ledger's time


def put(request: Request, dependencies: Dependencies) -> Response:
    """PUT /v1/accounts/{id}: 201 opened, 200 opened before with the same members."""
    id = fields.id_to_create(request.parameters)
    errors = FieldErrors()
    command = read_account(request.body, errors, request.caller, id=id)
    errors.raise_if_any()
    require_scope(request, command)
    result = dependencies.group_posting.post(command)
    return json_response(201 if result.is_new else 200, show_record(result.record))


def read_account(body: Any, errors: FieldErrors, caller: str, *, id: str = "", pointer: str = "") -> AccountCommand:
    """An account to open. In a batch the id is a member; else `id` is the one in the path."""
    members = ("currency", "min_balance", "max_balance", "metadata")
    reader = FieldReader(body, members if id else ("id", *members), errors, pointer)
    return AccountCommand(
        id=id or reader.id("id"),
        currency=reader.currency("currency"),
        # A new account has the balance 0, which is below a higher floor, and above a lower ceiling.
        min_balance=reader.min_balance(highest=0),
        max_balance=reader.max_balance(lowest=0),
        metadata=reader.metadata(),
        created_by=caller,
    )


def require_scope(request: Request, command: AccountCommand) -> None:
    """Raise Refusal `forbidden` unless the caller may open this account: one that can go below 0 creates money."""
    if command.min_balance is None or command.min_balance < 0:
        auth.authorize(request.scopes, "admin")


def patch(request: Request, dependencies: Dependencies) -> Response:
    """PATCH /v1/accounts/{id}: set min_balance, max_balance, status or metadata. 200, also if nothing changed."""
    id = fields.id_to_find(request.parameters)
    errors = FieldErrors()
    reader = FieldReader(request.body, ("min_balance", "max_balance", "status", "metadata"), errors)
    members: dict[str, Any] = {}
    if "min_balance" in reader:
        members["min_balance"] = reader.min_balance(highest=LIMITS.amount_max)
    if "max_balance" in reader:
        members["max_balance"] = reader.max_balance(lowest=-LIMITS.amount_max)
    if "status" in reader:
        members["status"] = reader.choice("status", STATUSES)
    if "metadata" in reader:
        members["metadata"] = reader.metadata()
    if not members and isinstance(request.body, dict):
        errors.add("", "must have min_balance, max_balance, status or metadata")
    errors.raise_if_any()
    key = uuid4()  # one for all attempts of this request
    account = dependencies.database.run_long(
        lambda connection: accounts.change(connection, id, members, caller=request.caller, idempotency_key=key)
    )
    return json_response(200, show_account(fields.require_found(account)))


def get(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/accounts/{id}: balances, limits, status."""
    id = fields.id_to_find(request.parameters)
    account = dependencies.database.run(lambda connection: accounts.get_and_advance_time(connection, id))
    return json_response(200, show_account(fields.require_found(account)))


def list_by_id(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/accounts: the accounts whose ids start with `prefix`, by id."""
    prefix = fields.query_id(request.query, "prefix")
    after = fields.query_id(request.query, "after")
    limit = fields.query_limit(request.query)
    rows = dependencies.read_list(
        limit,
        lambda connection: accounts.list_and_advance_time(connection, prefix=prefix, after=after, limit=limit + 1),
    )
    return page_response("accounts", rows, limit, show=show_account, cursor=lambda account: account.id)


def list_entries(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/accounts/{id}/entries: the statement. Send `next` as `after`, or as `before` with order=desc."""
    order = fields.query_choice(request.query, "order", ("asc", "desc"))
    limit = fields.query_limit(request.query)
    until = fields.query_time(request.query, "until")
    read = partial(
        transfers.list_entries,
        after=fields.query_integer(request.query, "after", 0, 0, LIMITS.amount_max),
        before=fields.query_integer(request.query, "before", LIMITS.amount_max, 0, LIMITS.amount_max),
        earliest=fields.query_time(request.query, "from"),
        until=until,
        newest_first=order == "desc",
        limit=limit + 1,
    )
    id = fields.id_to_find(request.parameters)

    def work(connection: Connection) -> list[Entry]:
        rows = read(connection, id)
        if not rows:  # an account with an entry exists
            _require_account(connection, id)
        if rows is None and until and clock.advance_past(connection, until - _MICROSECOND) is not None:
            rows = read(connection, id)
        if rows is None:
            raise invalid_query("until", "must not be in the future")
        return rows

    rows = dependencies.read_list(limit, work)
    return page_response("entries", rows, limit, show=show_entry, cursor=lambda entry: entry.number)


def balance(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/accounts/{id}/balance: after the transfer `number`, or at the time `at`. It never changes."""
    at = fields.query_time(request.query, "at")
    if (at is None) == ("number" not in request.query):
        error = {"parameter": "at", "detail": "exactly one of at and number is required"}
        raise Refusal("invalid-query", "Exactly one of at and number is required.", errors=[error])
    requested = fields.query_integer(request.query, "number", 0, 0, LIMITS.amount_max)
    id = fields.id_to_find(request.parameters)

    past = dependencies.database.run(lambda connection: _read_balance(connection, id, at, requested))
    return json_response(200, {"account": id, "balance": past.balance or 0, "number": past.number, "at": at})


def _read_balance(connection: Connection, id: str, at: datetime | None, number: int) -> PastBalance:
    """The balance at the time `at`, or without it after the transfer `number`."""
    found = transfers.balance_at(connection, id, at) if at else transfers.balance_after(connection, id, number)
    if found is None or found.balance is None:  # an account with an entry exists
        _require_account(connection, id)
    if found is None and at and (final := clock.advance_past(connection, at)) is not None:
        found = transfers.balance_after(connection, id, final)
    if found is None and at:
        raise invalid_query("at", "must be in the past")
    if found is None:
        raise invalid_query("number", "must not be greater than the number of the newest transfer")
    return found


def list_changes(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/accounts/{id}/changes: who changed limits, status or metadata, when, from what to what."""
    after = fields.query_integer(request.query, "after", 0, 0, LIMITS.amount_max)
    limit = fields.query_limit(request.query)
    id = fields.id_to_find(request.parameters)

    def work(connection: Connection) -> list[AccountChange]:
        rows = accounts.list_changes(connection, id, after=after, limit=limit + 1)
        if not rows:
            _require_account(connection, id)
        return rows

    rows = dependencies.read_list(limit, work)
    return page_response("changes", rows, limit, show=show_change, cursor=lambda change: change.change)


def list_holds(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/accounts/{id}/holds: the open holds from the account, by id. Their amounts add up to its `held`."""
    after = fields.query_id(request.query, "after")
    limit = fields.query_limit(request.query)
    id = fields.id_to_find(request.parameters)

    def work(connection: Connection) -> list[Hold]:
        rows = holds.list_open_and_advance_time(connection, id, after=after, limit=limit + 1)
        if not rows:  # an account with a hold exists
            _require_account(connection, id)
        return rows

    rows = dependencies.read_list(limit, work)
    return page_response("holds", rows, limit, show=show_hold, cursor=lambda hold: hold.id)


def _require_account(connection: Connection, id: str) -> None:
    """Raise Refusal `not-found` if the account was never opened."""
    if not accounts.exists(connection, id):
        raise Refusal("not-found", "Nothing has the id in the path.")
