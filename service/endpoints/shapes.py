"""How what the ledger keeps is shown to callers."""

from collections.abc import Sequence
from typing import Any

from service.ledger.accounts import Account, Change
from service.ledger.posting import declined_refusal
from service.ledger.records import Hold, Transfer
from service.ledger.transfers import Entry
from service.wire import Response, json_response

MEMBERS: dict[type, str] = {
    Account: "id currency balance held available min_balance status metadata created_by created_at",
    Change: "change before after changed_at changed_by",
    Transfer: "id number status from to amount currency from_balance to_balance captures reverses metadata created_by "
    "created_at",
    Entry: "number transfer amount balance counterparty created_at",
    Hold: "id status from to amount currency expires_at captured_by metadata created_by created_at resolved_at",
}
_ATTRIBUTES = {"from": "from_account", "to": "to_account"}  # where callers have another name


def show(record: Any) -> dict[str, Any]:
    """The members of one record; a declined one has its reason too, and what belongs to it."""
    shape = {name: getattr(record, _ATTRIBUTES.get(name, name)) for name in MEMBERS[type(record)].split()}
    if shape.get("status") == "declined":
        shape |= {"reason": record.reason, **declined_refusal(record).members}
    return shape


def page(name: str, found: Sequence[Any], limit: int, cursor: str) -> Response:
    """One page of a list, of which one more than the limit was looked for: is there a next page?"""
    following = str(getattr(found[limit - 1], cursor)) if len(found) > limit else None
    return json_response(200, {name: [show(record) for record in found[:limit]], "next": following})
