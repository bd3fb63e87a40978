"""The response side of HTTP: JSON, problems, and one function per record type that shows it to callers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any, TypeVar

from service.contract import LIMITS, PROBLEMS
from service.errors import Refusal
from service.ledger.rules import declined_refusal
from service.ledger.types import Account, AccountChange, Entry, Hold, Record, Transfer
from service.logs import format_time

T = TypeVar("T")

PAGE_FRAME_BYTES = 128  # of a page without its rows: the names, `next` with an id of 64 characters, and brackets
_format_time = lru_cache(maxsize=8)(format_time)  # the records of one posting have the same time
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_format_time)  # made once; json.dumps would make one per call


@dataclass(frozen=True)
class Response:
    """Status, encoded body, and headers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(
    status: int, value: Any, media_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> Response:
    """A response with a JSON body that ends with a newline, for terminals."""
    return Response(status, _ENCODER.encode(value).encode() + b"\n", {"Content-Type": media_type, **(headers or {})})


def problem_response(refusal: Refusal, request_id: str, allowed_methods: str) -> Response:
    """The refusal as application/problem+json (RFC 9457), with the header that its status requires."""
    problem = show_problem(refusal, request_id)
    headers = {
        401: {"WWW-Authenticate": "Bearer"},
        405: {"Allow": allowed_methods},
        503: {"Retry-After": str(LIMITS.retry_after_seconds)},
    }.get(problem["status"], {})
    return json_response(problem["status"], problem, "application/problem+json", headers)


def page_response(
    name: str, rows: Sequence[T], limit: int, *, show: Callable[[T], Any], cursor: Callable[[T], Any]
) -> Response:
    """One page of a list: at most `limit` rows and page_bytes, but at least one row if there is one.

    `rows` has more rows than the page if there is a next page. `cursor` returns the value of a row after which the
    next page starts.
    """
    shown = [show(row) for row in rows[:limit]]
    response = _page(name, shown, rows, cursor)
    if len(response.body) > LIMITS.page_bytes:  # rare, so only then each row is measured
        sizes = accumulate(len(_ENCODER.encode(row).encode()) + len(", ") for row in shown)
        count = sum(size <= LIMITS.page_bytes - PAGE_FRAME_BYTES for size in sizes)
        response = _page(name, shown[: max(count, 1)], rows, cursor)
    return response


def _page(name: str, shown: Sequence[Any], rows: Sequence[T], cursor: Callable[[T], Any]) -> Response:
    next_cursor = str(cursor(rows[len(shown) - 1])) if len(rows) > len(shown) else None
    return json_response(200, {name: shown, "next": next_cursor})


def show_problem(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """The members of a problem, as a body or as one result of a batch."""
    problem = PROBLEMS[refusal.slug]
    return {
        "type": f"/problems/{refusal.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": refusal.detail,
        "request_id": request_id,
        **refusal.members,
    }


def show_account(account: Account) -> dict[str, Any]:
    """The members of an account."""
    return {
        "id": account.id,
        "currency": account.currency,
        "balance": account.balance,
        "held": account.held,
        "available": account.available,
        "min_balance": account.min_balance,
        "max_balance": account.max_balance,
        "status": account.status,
        "metadata": account.metadata,
        "created_by": account.created_by,
        "created_at": account.created_at,
    }


def show_change(change: AccountChange) -> dict[str, Any]:
    """The members of a change of an account."""
    return {
        "change": change.change,
        "before": change.before,
        "after": change.after,
        "changed_at": change.changed_at,
        "changed_by": change.changed_by,
    }


def show_transfer(transfer: Transfer) -> dict[str, Any]:
    """The members of a transfer. If it was declined, also the reason and the members of that problem."""
    return {
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
        "reference": transfer.reference,
        "metadata": transfer.metadata,
        "created_by": transfer.created_by,
        "created_at": transfer.created_at,
        **_decline_members(transfer),
    }


def show_entry(entry: Entry) -> dict[str, Any]:
    """The members of an entry of a statement."""
    return {
        "number": entry.number,
        "transfer": entry.transfer,
        "amount": entry.amount,
        "balance": entry.balance,
        "counterparty": entry.counterparty,
        "created_at": entry.created_at,
    }


def show_hold(hold: Hold) -> dict[str, Any]:
    """The members of a hold. If it was declined, also the reason and the members of that problem."""
    return {
        "id": hold.id,
        "status": hold.status,
        "from": hold.from_account,
        "to": hold.to_account,
        "amount": hold.amount,
        "currency": hold.currency,
        "expires_at": hold.expires_at,
        "captured_by": hold.captured_by,
        "reference": hold.reference,
        "metadata": hold.metadata,
        "created_by": hold.created_by,
        "created_at": hold.created_at,
        "resolved_at": hold.resolved_at,
        **_decline_members(hold),
    }


def show_record(record: Account | Transfer | Hold | None) -> dict[str, Any]:
    """The members of an account, a transfer or a hold."""
    match record:
        case Account():
            return show_account(record)
        case Transfer():
            return show_transfer(record)
        case Hold():
            return show_hold(record)
    raise AssertionError("bug: a result without a refusal has a record")


def _decline_members(record: Record) -> dict[str, Any]:
    if record.status != "declined":
        return {}
    return {"reason": record.reason, **declined_refusal(record).members}
