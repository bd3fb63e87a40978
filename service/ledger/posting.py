"""The rules of posting, as a pure function: what is asked and what stands in the books go in, what to write comes out.

The order of the rules for one request:
1. An id that stands in the books keeps its outcome: the same content is a replay, other content a conflict.
2. What it names must be there: accounts, hold, transfer. If not, nothing is remembered, for it may come yet.
3. Hold, currency, status, floor and range decide between done and declined. Either is remembered for ever.

A frozen account takes part in nothing new: no transfer and no hold. What was decided before it was frozen goes on:
its open holds may be captured or released, and its transfers reversed. A closed account takes part in nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from service.contract import LIMITS
from service.ledger.errors import Refusal
from service.ledger.records import (
    AccountState,
    Hold,
    HoldRequest,
    Outcome,
    Record,
    Release,
    Request,
    Transfer,
    TransferRequest,
)


@dataclass(frozen=True)
class Books:
    """What exists of all that the requests name, read under the locks of the accounts. `decide` brings it forward."""

    accounts: dict[str, AccountState]
    transfers: dict[str, Transfer]
    holds: dict[str, Hold]  # those that are due are expired here already, and not in an account's `held`
    reversed: dict[str, int]  # the sum of what was given back of a transfer
    now: datetime  # the database's time after the locks


class Broken(NamedTuple):
    """The rule that a request would break, the account whose rule it is, and what was available."""

    reason: str  # slug
    account: AccountState
    available: int | None = None


def decide(books: Books, requests: Sequence[Request], *, atomic: bool, caller: str) -> tuple[list[Outcome], Books]:
    """Decide the requests one after another, each on the books as the ones before it leave them.

    Returns the outcomes in the order of the requests, and the books with what is to be written. An atomic batch ends
    with Refusal `batch-refused` at the first request that would not be done.
    """
    books = Books(dict(books.accounts), dict(books.transfers), dict(books.holds), dict(books.reversed), books.now)
    outcomes: list[Outcome] = []
    for index, request in enumerate(requests):
        try:
            match request:
                case TransferRequest():
                    outcome = _transfer(books, request, caller)
                case HoldRequest():
                    outcome = _hold(books, request, caller)
                case Release():
                    outcome = _release(books, request)
        except Refusal as refusal:  # raised before anything was changed, and not remembered
            outcome = Outcome(None, refusal)
        if atomic and outcome.refusal:
            detail = f"Item {index} was refused: {outcome.refusal.detail} Nothing of the batch was kept."
            members = {"index": index, "reason": outcome.refusal.slug, **outcome.refusal.members}
            raise Refusal("batch-refused", detail, **members)
        outcomes.append(outcome)
    return outcomes, books


def declined_refusal(record: Record) -> Refusal:
    """Why a transfer or hold was declined, told from its row alone, so that it is told the same for ever."""
    account, available = record.declined_account, record.declined_available
    match record.reason:
        case "insufficient-funds":
            detail = f"{account} had {available} available, and {record.amount} would pass its min_balance."
            return Refusal("insufficient-funds", detail, account=account, available=available)
        case "currency-mismatch":
            return Refusal("currency-mismatch", f"{account} does not hold {record.currency}.", account=account)
        case "balance-out-of-range":
            return Refusal("balance-out-of-range", f"{account} would pass the range of balances.", account=account)
        case "account-frozen" | "account-closed":
            return Refusal(
                record.reason, f"{account} was {record.reason.removeprefix('account-')} then.", account=account
            )
        case "hold-not-open":
            return Refusal("hold-not-open", "The hold was captured, released or due, or never placed.")
        case "capture-exceeds-hold" | "reversal-exceeds-transfer":
            return Refusal(record.reason, f"{available} was left, {record.amount} was asked.", available=available)
    raise AssertionError(f"bug: {record.id} was declined for an unknown reason")


def _transfer(books: Books, request: TransferRequest, caller: str) -> Outcome:
    if known := books.transfers.get(request.id):
        given = {name: value for name, value in vars(request).items() if value not in ("", None)}
        given |= {"captures": request.captures, "reverses": request.reverses, "takes_rest": request.amount is None}
        return _replay(known, given)
    transfer = _draft(books, request, caller)
    source, target = books.accounts[transfer.from_account], books.accounts[transfer.to_account]
    hold = books.holds[transfer.captures] if transfer.captures else None
    if broken := _broken_by_transfer(books, transfer, source, target, hold):
        return _declined(books.transfers, transfer, broken)
    source = replace(source, balance=source.balance - transfer.amount, held=source.held - (hold.amount if hold else 0))
    target = replace(target, balance=target.balance + transfer.amount)
    books.accounts.update({source.id: source, target.id: target})
    transfer = replace(transfer, from_balance=source.balance, to_balance=target.balance)
    books.transfers[transfer.id] = transfer
    if hold:
        books.holds[hold.id] = replace(hold, status="captured", captured_by=transfer.id)
    if transfer.reverses:
        books.reversed[transfer.reverses] = books.reversed.get(transfer.reverses, 0) + transfer.amount
    return Outcome(transfer, is_new=True)


def _draft(books: Books, request: TransferRequest, caller: str) -> Transfer:
    """The transfer with what it has from the hold or transfer that it names. Raises Refusal when one is missing.

    What came between the reading and the locking has accounts that are not locked: the next try finds it.
    """
    source, target, currency, rest = request.from_account, request.to_account, request.currency, 0
    if request.captures:
        hold = books.holds.get(request.captures)
        if hold is None or not {hold.from_account, hold.to_account} <= books.accounts.keys():
            raise Refusal("hold-not-found", f"No hold has the id {request.captures}.")
        source, target, currency, rest = hold.from_account, hold.to_account, hold.currency, hold.amount
    if request.reverses:
        original = books.transfers.get(request.reverses)
        if original is None or not {original.from_account, original.to_account} <= books.accounts.keys():
            raise Refusal("transfer-not-found", f"No transfer has the id {request.reverses}.")
        source, target, currency = original.to_account, original.from_account, original.currency
        rest = _left(books, original) or original.amount  # when nothing is left, this is what it is declined for
    _require_accounts(books, source, target)
    return Transfer(
        id=request.id,
        from_account=source,
        to_account=target,
        amount=request.amount or rest,
        currency=currency,
        metadata=request.metadata,
        created_by=caller,
        captures=request.captures,
        reverses=request.reverses,
        takes_rest=request.amount is None,
    )


def _broken_by_transfer(
    books: Books, transfer: Transfer, source: AccountState, target: AccountState, hold: Hold | None
) -> Broken | None:
    if hold and hold.status != "open":
        return Broken("hold-not-open", source)
    if hold and transfer.amount > hold.amount:
        return Broken("capture-exceeds-hold", source, hold.amount)
    if transfer.reverses and transfer.amount > (left := _left(books, books.transfers[transfer.reverses])):
        return Broken("reversal-exceeds-transfer", source, left)
    was_decided = bool(transfer.captures or transfer.reverses)
    freed = hold.amount if hold else 0
    if broken := _broken_by_any(source, target, transfer, freed=freed, was_decided=was_decided):
        return broken
    if target.balance + transfer.amount > LIMITS.amount_max:
        return Broken("balance-out-of-range", target)
    return None


def _hold(books: Books, request: HoldRequest, caller: str) -> Outcome:
    if known := books.holds.get(request.id):
        return _replay(known, vars(request))
    _require_accounts(books, request.from_account, request.to_account)
    hold = Hold(**vars(request), created_by=caller)
    source, target = books.accounts[hold.from_account], books.accounts[hold.to_account]
    broken = _broken_by_any(source, target, hold, freed=0, was_decided=False)
    if hold.expires_at and hold.expires_at <= books.now:
        broken = Broken("hold-not-open", source)  # it came too late to hold anything
    if source.held + hold.amount > LIMITS.amount_max:
        broken = broken or Broken("balance-out-of-range", source)
    if broken:
        return _declined(books.holds, hold, broken)
    books.accounts[source.id] = replace(source, held=source.held + hold.amount)
    books.holds[hold.id] = hold
    return Outcome(hold, is_new=True)


def _release(books: Books, request: Release) -> Outcome:
    hold = books.holds.get(request.id)
    if hold is None or hold.from_account not in books.accounts:
        raise Refusal("not-found", "No hold has this id.")
    if hold.status in ("released", "expired"):
        return Outcome(hold)
    if hold.status != "open":
        return Outcome(hold, Refusal("hold-not-open", f"The hold is {hold.status}, and stays so."))
    source = books.accounts[hold.from_account]
    books.accounts[source.id] = replace(source, held=source.held - hold.amount)
    books.holds[hold.id] = replace(hold, status="released")
    return Outcome(books.holds[hold.id], is_new=True)


def _replay(known: Record, given: Mapping[str, Any]) -> Outcome:
    names = {"from_account": "from", "to_account": "to", "takes_rest": "amount"}  # as the caller knows them
    differs = {names.get(name, name): None for name, value in given.items() if getattr(known, name) != value}
    if differs:
        raise Refusal("id-conflict", f"{known.id} was used before with other content.", differs=list(differs))
    if known.status == "declined":
        return Outcome(known, declined_refusal(known))
    return Outcome(known)


def _declined(records: dict[str, Any], record: Record, broken: Broken) -> Outcome:
    reason, account, available = broken
    why: dict[str, Any] = {"reason": reason, "declined_account": account.id, "declined_available": available}
    records[record.id] = declined = replace(record, status="declined", **why)
    return Outcome(declined, declined_refusal(declined), is_new=True)


def _require_accounts(books: Books, *ids: str) -> None:
    for id in ids:
        if id not in books.accounts:
            raise Refusal("account-not-found", f"{id} was never opened.", account=id)


def _left(books: Books, original: Transfer) -> int:
    """What of a transfer was not given back yet; nothing of one that was declined."""
    return original.amount - books.reversed.get(original.id, 0) if original.status == "posted" else 0


def _broken_by_any(
    source: AccountState, target: AccountState, record: Record, *, freed: int, was_decided: bool
) -> Broken | None:
    """The rules that transfers and holds share: currency, status, floor, range. `freed` is what a capture frees."""
    for account in (source, target):
        if account.currency != record.currency:
            return Broken("currency-mismatch", account)
    for account in (source, target):
        if account.status == "closed" or (account.status == "frozen" and not was_decided):
            return Broken(f"account-{account.status}", account)
    if source.min_balance is not None and source.available + freed - record.amount < source.min_balance:
        return Broken("insufficient-funds", source, source.available)
    if source.available + freed - record.amount < -LIMITS.amount_max:
        return Broken("balance-out-of-range", source)
    return None
