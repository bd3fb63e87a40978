"""The rules of posting, as a pure function: what is asked and what stands in the books go in, what to write comes out.

The order of the rules for one request:
1. An id that stands in the books keeps its outcome: the same content is a replay, other content a conflict.
2. Both accounts must be there. If one is not, nothing is remembered, for the caller may open it and ask again.
3. Currency, status, floor and range decide between posted and declined. Either is remembered for ever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from service.contract import LIMITS
from service.ledger.errors import Refusal


@dataclass(frozen=True)
class LockedAccount:
    """What the rules need of an account, read under its lock."""

    id: str
    currency: str
    min_balance: int | None  # None: no floor
    balance: int
    held: int
    status: str

    @property
    def available(self) -> int:
        return self.balance - self.held


@dataclass(frozen=True)
class TransferRequest:
    """A transfer as the caller asks for it. `amount` is in the currency's smallest unit."""

    id: str
    from_account: str
    to_account: str
    amount: int
    currency: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Transfer(TransferRequest):
    """One row of the table transfer; sql/0001 says what each None means. It gets number and time when it is written."""

    created_by: str
    status: str = "posted"  # or declined
    number: int | None = None
    created_at: datetime | None = None
    from_balance: int | None = None
    to_balance: int | None = None
    reason: str | None = None
    declined_account: str | None = None
    declined_available: int | None = None
    captures: str | None = None
    reverses: str | None = None


@dataclass(frozen=True)
class Posted:
    """The answer to one request: the money moved, now or before."""

    transfer: Transfer
    is_new: bool  # False: a replay


@dataclass(frozen=True)
class Refused:
    """The answer to one request: no money moved."""

    refusal: Refusal
    transfer: Transfer | None = None  # the declined transfer; None: nothing is remembered under the id
    is_new: bool = False  # False: a replay, or nothing to remember


Outcome = Posted | Refused


@dataclass(frozen=True)
class Decisions:
    """The answers in the order of the requests, and what is to be written."""

    outcomes: list[Outcome]
    transfers: list[Transfer]  # new rows, in the order in which they are numbered
    accounts: list[LockedAccount]  # those whose balance changes, with the new balance


def decide(
    accounts: Mapping[str, LockedAccount],
    transfers: Mapping[str, Transfer],
    requests: Sequence[TransferRequest],
    *,
    atomic: bool,
    caller: str,
) -> Decisions:
    """Decide the requests one after another, each on the books as the ones before it leave them.

    `accounts` and `transfers` hold what exists of all that the requests name. An atomic batch ends with Refusal
    `batch-refused` at the first request that would not be posted.
    """
    accounts_after = dict(accounts)
    transfers_after = dict(transfers)
    outcomes: list[Outcome] = []
    for index, request in enumerate(requests):
        outcome = _decide_one(accounts_after, transfers_after, request, caller)
        if atomic and isinstance(outcome, Refused):
            raise _batch_refused(index, outcome.refusal)
        if outcome.is_new and outcome.transfer:
            transfers_after[request.id] = outcome.transfer
        outcomes.append(outcome)
    return Decisions(
        outcomes,
        transfers=[outcome.transfer for outcome in outcomes if outcome.is_new and outcome.transfer],
        accounts=[account for id, account in accounts_after.items() if account is not accounts[id]],
    )


def declined_refusal(transfer: Transfer) -> Refusal:
    """Why a transfer was declined, told from its row alone, so that it is told the same for ever."""
    account, available = transfer.declined_account, transfer.declined_available
    match transfer.reason:
        case "insufficient-funds":
            detail = f"{account} had {available} available, and {transfer.amount} would pass its min_balance."
            return Refusal("insufficient-funds", detail, account=account, available=available)
        case "currency-mismatch":
            return Refusal("currency-mismatch", f"{account} does not hold {transfer.currency}.", account=account)
        case "balance-out-of-range":
            return Refusal("balance-out-of-range", f"{account} would pass the range of balances.", account=account)
        case "account-frozen" | "account-closed":
            return Refusal(transfer.reason, f"{account} did not take part in transfers then.", account=account)
    raise AssertionError(f"bug: {transfer.id} was declined for an unknown reason")


def _decide_one(
    accounts: dict[str, LockedAccount], transfers: Mapping[str, Transfer], request: TransferRequest, caller: str
) -> Outcome:
    if known := transfers.get(request.id):
        return _replay(known, request)
    for account_id in (request.from_account, request.to_account):
        if account_id not in accounts:
            return Refused(Refusal("account-not-found", f"{account_id} was never opened.", account=account_id))
    source, target = accounts[request.from_account], accounts[request.to_account]
    transfer = Transfer(**vars(request), created_by=caller)
    if broken := _broken_rule(source, target, request):
        reason, account = broken
        available = account.available if reason == "insufficient-funds" else None
        transfer = replace(
            transfer, status="declined", reason=reason, declined_account=account.id, declined_available=available
        )
        return Refused(declined_refusal(transfer), transfer, is_new=True)
    source = replace(source, balance=source.balance - request.amount)
    target = replace(target, balance=target.balance + request.amount)
    accounts[source.id], accounts[target.id] = source, target
    return Posted(replace(transfer, from_balance=source.balance, to_balance=target.balance), is_new=True)


def _replay(known: Transfer, request: TransferRequest) -> Outcome:
    differs = [
        name.removesuffix("_account")  # from and to, as the caller knows them
        for name, value in vars(request).items()
        if getattr(known, name) != value
    ]
    if differs:
        return Refused(Refusal("id-conflict", f"{known.id} was used before with other content.", differs=differs))
    if known.status == "declined":
        return Refused(declined_refusal(known), known)
    return Posted(known, is_new=False)


def _broken_rule(
    source: LockedAccount, target: LockedAccount, request: TransferRequest
) -> tuple[str, LockedAccount] | None:
    """The first rule that the transfer would break, and the account whose rule it is."""
    for account in (source, target):
        if account.currency != request.currency:
            return "currency-mismatch", account
    for account in (source, target):
        if account.status != "open":
            return f"account-{account.status}", account
    if source.min_balance is not None and source.available - request.amount < source.min_balance:
        return "insufficient-funds", source
    if source.balance - request.amount < -LIMITS.amount_max:
        return "balance-out-of-range", source
    if target.balance + request.amount > LIMITS.amount_max:
        return "balance-out-of-range", target
    return None


def _batch_refused(index: int, refusal: Refusal) -> Refusal:
    detail = f"Item {index} was refused: {refusal.detail} Nothing of the batch was kept."
    return Refusal("batch-refused", detail, index=index, reason=refusal.slug, **refusal.members)
