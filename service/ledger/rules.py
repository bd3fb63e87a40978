"""The rules of posting as a pure function: state and commands go in, results and the new state come out.

The rules apply to each command in this order:
1. If the id is already used, the first result is final: the same values are a replay, different values a conflict.
2. The accounts, the hold or the transfer that the command names must exist. If one does not, nothing is stored, because
   it may be created later.
3. These decide whether the command is applied or declined: the state of the hold, or what is left of the transfer; the
   currencies; the status of the accounts; the floor and the range of the account that pays; the ceiling and the range
   of the account that receives. Both results are stored permanently.

The opening of an account is never declined: the account is new, or the command is a replay or a conflict.

A frozen account accepts no new transfer and no new hold. Its open holds can still be captured or released, and its
transfers can still be reversed. A closed account accepts nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from service.contract import LIMITS, PROBLEMS
from service.errors import Refusal
from service.ledger.types import (
    Account,
    AccountCommand,
    AccountState,
    Command,
    Hold,
    HoldCommand,
    Record,
    ReleaseCommand,
    Result,
    Transfer,
    TransferCommand,
    copy_with,
)


@dataclass(frozen=True)
class LedgerState:
    """The rows that the commands name, as read under the locks of their accounts."""

    accounts: dict[str, AccountState]  # an Account for each id of an AccountCommand
    transfers: dict[str, Transfer]
    holds: dict[str, Hold]
    reversed: dict[str, int]  # the sum of the posted reversals of a transfer, by the transfer's id
    first_values: Mapping[str, Mapping[str, Any]]  # the changed members of an Account as they were at its opening
    now: datetime  # the ledger's time; no open hold of these accounts expires at or before it


class Violation(NamedTuple):
    """The rule that a command would break."""

    reason: str  # slug of the problem
    account: AccountState  # the account whose rule it is
    available: int | None = None  # for a rule about an amount: the amount that was available


def decide(state: LedgerState, commands: Sequence[Command], *, atomic: bool) -> tuple[list[Result], LedgerState]:
    """Decide the commands in order, each on the state that the commands before it leave.

    Returns one result per command, in order, and the new state. Raises Refusal `batch-refused` at the first command of
    an atomic batch that is refused.
    """
    state = replace(
        state,
        accounts=dict(state.accounts),
        transfers=dict(state.transfers),
        holds=dict(state.holds),
        reversed=dict(state.reversed),
    )
    results: list[Result] = []
    for index, command in enumerate(commands):
        result = _decide_one(state, command)
        if atomic and result.refusal:
            detail = f"Item {index} was refused: {result.refusal.detail} The batch was rolled back."
            members = {"index": index, "reason": result.refusal.slug, **result.refusal.members}
            raise Refusal("batch-refused", detail, **members)
        results.append(result)
    return results, state


def _decide_one(state: LedgerState, command: Command) -> Result:
    """Apply one command to the state, which is changed only if the command is applied or declined."""
    try:
        match command:
            case AccountCommand():
                return decide_account(state, command)
            case TransferCommand():
                return decide_transfer(state, command)
            case HoldCommand():
                return decide_hold(state, command)
            case ReleaseCommand():
                return decide_release(state, command)
    except Refusal as refusal:
        return Result(None, refusal)


def decide_account(state: LedgerState, command: AccountCommand) -> Result:
    """Open an account, or replay its opening. Raises Refusal `id-conflict` if it was opened with other members.

    They are compared with those at the opening, so it can be repeated after a change of the account.
    """
    known = state.accounts.get(command.id)
    if known is None:
        account = Account(**vars(command), balance=0, held=0, status="open", created_at=None)
        state.accounts[account.id] = account
        return Result(account, is_new=True)
    if not isinstance(known, Account):
        raise AssertionError(f"bug: only the state of {known.id} was read")
    opened_with = {**vars(known), **state.first_values.get(known.id, {})}
    given = {name: value for name, value in vars(command).items() if name != "created_by"}
    if differs := [name for name, value in given.items() if opened_with[name] != value]:
        raise Refusal("id-conflict", f"{known.id} was already opened with different values.", differs=differs)
    return Result(known)


def decide_transfer(state: LedgerState, command: TransferCommand) -> Result:
    """Post or decline a transfer, or replay it. Raises Refusal if nothing is to be stored."""
    if known := state.transfers.get(command.id):
        # A capture or reversal has no accounts and no currency, and may have no amount and no reference of its own:
        # these are not compared.
        given = {name: value for name, value in vars(command).items() if value not in ("", None)}
        given |= {"captures": command.captures, "reverses": command.reverses, "takes_rest": command.amount is None}
        given |= {"has_own_reference": command.reference is not None}
        return replay(known, given)
    transfer = build_transfer(state, command)
    source, target = state.accounts[transfer.from_account], state.accounts[transfer.to_account]
    hold = state.holds[transfer.captures] if transfer.captures else None
    if violation := find_transfer_violation(state, transfer, source, target, hold):
        return decline(state.transfers, transfer, violation)
    source = copy_with(
        source, balance=source.balance - transfer.amount, held=source.held - (hold.amount if hold else 0)
    )
    target = copy_with(target, balance=target.balance + transfer.amount)
    state.accounts.update({source.id: source, target.id: target})
    transfer = copy_with(transfer, from_balance=source.balance, to_balance=target.balance)
    if transfer.reverses:
        reversed_total = state.reversed.get(transfer.reverses, 0) + transfer.amount
        state.reversed[transfer.reverses] = reversed_total
        transfer = copy_with(transfer, reversed_total=reversed_total)
    state.transfers[transfer.id] = transfer
    if hold:
        state.holds[hold.id] = copy_with(hold, status="captured", captured_by=transfer.id)
    return Result(transfer, is_new=True)


def build_transfer(state: LedgerState, command: TransferCommand) -> Transfer:
    """The transfer, with what it takes from the hold or transfer that it names. Raises Refusal if that is missing.

    A hold or transfer that was written after the accounts were found and before they were locked is treated as missing,
    because its accounts are not locked.
    """
    source, target, currency, rest = command.from_account, command.to_account, command.currency, 0
    reference = command.reference
    if command.captures:
        hold = state.holds.get(command.captures)
        if hold is None or not {hold.from_account, hold.to_account} <= state.accounts.keys():
            raise Refusal("hold-not-found", f"No hold has the id {command.captures}.")
        source, target, currency, rest = hold.from_account, hold.to_account, hold.currency, hold.amount
        reference = reference or hold.reference
    if command.reverses:
        original = state.transfers.get(command.reverses)
        if original is None or not {original.from_account, original.to_account} <= state.accounts.keys():
            raise Refusal("transfer-not-found", f"No transfer has the id {command.reverses}.")
        source, target, currency = original.to_account, original.from_account, original.currency
        rest = reversible_amount(state, original) or original.amount  # with nothing left, the whole amount is declined
        reference = reference or original.reference
    _require_accounts(state, source, target)
    return Transfer(
        id=command.id,
        from_account=source,
        to_account=target,
        amount=command.amount or rest,
        currency=currency,
        reference=reference,
        metadata=command.metadata,
        created_by=command.created_by,
        captures=command.captures,
        reverses=command.reverses,
        takes_rest=command.amount is None,
        has_own_reference=command.reference is not None,
    )


def find_transfer_violation(
    state: LedgerState, transfer: Transfer, source: AccountState, target: AccountState, hold: Hold | None
) -> Violation | None:
    """The first rule that the transfer would break."""
    if hold and hold.status != "open":
        return Violation("hold-not-open", source)
    if hold and transfer.amount > hold.amount:
        return Violation("capture-exceeds-hold", source, hold.amount)
    if transfer.reverses and transfer.amount > (left := reversible_amount(state, state.transfers[transfer.reverses])):
        return Violation("reversal-exceeds-transfer", source, left)
    freed = hold.amount if hold else 0
    allow_frozen = bool(transfer.captures or transfer.reverses)
    if violation := find_common_violation(source, target, transfer, freed=freed, allow_frozen=allow_frozen):
        return violation
    if target.max_balance is not None and target.balance + transfer.amount > target.max_balance:
        return Violation("max-balance-exceeded", target, target.max_balance - target.balance)
    if target.balance + transfer.amount > LIMITS.amount_max:
        return Violation("balance-out-of-range", target)
    return None


def decide_hold(state: LedgerState, command: HoldCommand) -> Result:
    """Place or decline a hold, or replay it. Raises Refusal if nothing is to be stored."""
    if known := state.holds.get(command.id):
        return replay(known, vars(command))
    _require_accounts(state, command.from_account, command.to_account)
    hold = Hold(**vars(command))
    source, target = state.accounts[hold.from_account], state.accounts[hold.to_account]
    if violation := find_hold_violation(state, hold, source, target):
        return decline(state.holds, hold, violation)
    state.accounts[source.id] = copy_with(source, held=source.held + hold.amount)
    state.holds[hold.id] = hold
    return Result(hold, is_new=True)


def find_hold_violation(state: LedgerState, hold: Hold, source: AccountState, target: AccountState) -> Violation | None:
    """The first rule that the hold would break."""
    if hold.expires_at and hold.expires_at <= state.now:
        return Violation("hold-not-open", source)
    if violation := find_common_violation(source, target, hold, freed=0, allow_frozen=False):
        return violation
    if source.held + hold.amount > LIMITS.amount_max:
        return Violation("balance-out-of-range", source)
    return None


def find_common_violation(
    source: AccountState, target: AccountState, record: Record, *, freed: int, allow_frozen: bool
) -> Violation | None:
    """The rules that transfers and holds share: currency, status, floor, range. `freed` is the hold of a capture."""
    for account in (source, target):
        if account.currency != record.currency:
            return Violation("currency-mismatch", account)
    for account in (source, target):
        if account.status == "closed" or (account.status == "frozen" and not allow_frozen):
            return Violation(f"account-{account.status}", account)
    remaining = source.available + freed - record.amount
    if source.min_balance is not None and remaining < source.min_balance:
        return Violation("insufficient-funds", source, source.available)
    if remaining < -LIMITS.amount_max:
        return Violation("balance-out-of-range", source)
    return None


def decide_release(state: LedgerState, command: ReleaseCommand) -> Result:
    """Release a hold. A hold that is already released or expired is a replay."""
    hold = state.holds.get(command.id)
    if hold is None or hold.from_account not in state.accounts:
        raise Refusal("not-found", "No hold has this id.")
    if hold.status in ("released", "expired"):
        return Result(hold)
    if hold.status != "open":
        return Result(hold, Refusal("hold-not-open", f"The hold is {hold.status} and cannot be released."))
    source = state.accounts[hold.from_account]
    state.accounts[source.id] = copy_with(source, held=source.held - hold.amount)
    state.holds[hold.id] = copy_with(hold, status="released")
    return Result(state.holds[hold.id])


def replay(known: Transfer | Hold, given: Mapping[str, Any]) -> Result:
    """The first result of the id, or Refusal `id-conflict` with the members that differ. Any caller may repeat it."""
    member_names = {
        "from_account": "from",
        "to_account": "to",
        "takes_rest": "amount",
        "has_own_reference": "reference",
    }
    differs = {
        member_names.get(name, name): None
        for name, value in given.items()
        if name != "created_by" and getattr(known, name) != value
    }
    if differs:
        raise Refusal("id-conflict", f"{known.id} was already used with different values.", differs=list(differs))
    if known.status == "declined":
        return Result(known, declined_refusal(known))
    return Result(known)


def decline(records: dict[str, Any], record: Transfer | Hold, violation: Violation) -> Result:
    """Store the declined transfer or hold with the rule that it would break."""
    declined = copy_with(
        record,
        status="declined",
        reason=violation.reason,
        declined_account=violation.account.id,
        declined_available=violation.available,
    )
    records[record.id] = declined
    return Result(declined, declined_refusal(declined), is_new=True)


def _require_accounts(state: LedgerState, *ids: str) -> None:
    for id in ids:
        if id not in state.accounts:
            raise Refusal("account-not-found", f"No account has the id {id}.", account=id)


def reversible_amount(state: LedgerState, original: Transfer) -> int:
    """The part of a transfer that is not reversed yet; 0 if it was declined."""
    return original.amount - state.reversed.get(original.id, 0) if original.status == "posted" else 0


def declined_refusal(record: Record) -> Refusal:
    """Why a transfer or hold was declined. It depends on the stored row alone, so every repeat returns the same."""
    if record.reason not in _DECLINED_DETAILS:
        raise AssertionError(f"bug: {record.id} was declined for an unknown reason")
    if record.reason == "hold-not-open" and isinstance(record, Hold):
        return Refusal("hold-not-open", "expires_at is not after the time of the posting.")
    members = {"account": record.declined_account, "available": record.declined_available}
    detail = _DECLINED_DETAILS[record.reason].format(**members, amount=record.amount, currency=record.currency)
    return Refusal(record.reason, detail, **{name: members[name] for name in PROBLEMS[record.reason].members})


_DECLINED_DETAILS = {
    "insufficient-funds": "{account} had {available} available; {amount} would reduce it below its min_balance.",
    "max-balance-exceeded": "{account} could receive {available}; {amount} would take it above its max_balance.",
    "currency-mismatch": "The currency of {account} is not {currency}.",
    "balance-out-of-range": "The balance of {account} would exceed the range of balances.",
    "account-frozen": "{account} was frozen.",
    "account-closed": "{account} was closed.",
    "hold-not-open": "The hold was captured, released, expired or declined.",
    "capture-exceeds-hold": "{available} is left; {amount} was requested.",
    "reversal-exceeds-transfer": "{available} is left; {amount} was requested.",
}
