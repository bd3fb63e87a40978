"""Compares the history with the ledger: a pure function of the attempts and of the rows.

The posted transfers have a gapless order, their numbers. If each balance after a transfer follows from the order, and
if the order agrees with real time, the history is strictly serialisable: a write that was acknowledged before another
one began comes before it, and a read shows a state between its request and its response.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.faults.hammer import lists, reads, timeline
from tests.faults.hammer.history import DECLINED, FINAL, HOLD, OK, OPENING, REFUSED, RELEASE, TRANSFER, Attempt
from tests.faults.hammer.ledger import Ledger, Row

# The kinds of violations. The first two are what the summary counts as lost and as doubled.
LOST = "lost"  # an acknowledged write is not in the ledger
DOUBLED = "doubled"  # a write took effect twice, or is in the ledger although no client sent it
CHANGED = "changed"  # the ledger has other values than a response, or than the request
FALSE_REFUSAL = "false refusal"  # a write that was refused as not applied is in the ledger
DECLINE = "decline"  # a decline did not stay, or its repeat said something else
NUMBER = "number"  # the numbers are not 1, 2, 3 …
BALANCE = "balance"  # a balance does not follow from the transfers before it
LIMIT = "limit"  # a balance is below its floor or above its ceiling
ATOMIC = "atomic"  # some items of an atomic batch are in the ledger, and others are not
ORDER = "order"  # a transfer has a lower number than one that was acknowledged before it began
READ = "read"  # a read shows a state that the ledger did not have between its request and its response
LIST = "list"  # at the end, the list of a reference or the trial balance is not what the rows give

RESULTS_OF_HOLD = ("status", "captured_by", "resolved_at")  # members of a hold that change after it was placed
AMOUNTS_OF_ACCOUNT = ("balance", "held")  # members of an account that change after it was opened
DECLINE_MEMBERS = ("reason", "account", "available")


class Violation(NamedTuple):
    """One contradiction between the history and the ledger, or within one of them."""

    kind: str
    text: str


def check(attempts: list[Attempt], ledger: Ledger) -> list[Violation]:
    """All violations. The attempts must have ended, and no client may write meanwhile."""
    by_command: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_command[attempt.kind, attempt.id].append(attempt)
    found: list[Violation] = []
    rows = {TRANSFER: ledger.transfers, HOLD: ledger.holds, OPENING: ledger.accounts}
    for (kind, id), of_command in by_command.items():
        if kind in rows:
            found += check_write(kind, id, of_command, rows[kind].get(id))
        elif kind == RELEASE:
            found += check_release(id, of_command, ledger.holds.get(id))
    found += check_atomicity(by_command, rows)
    found += check_origin(by_command, rows)
    found += check_chain(ledger)
    found += [Violation(LIMIT, text) for text in timeline.find_exceeded_limits(ledger)]
    found += [Violation(ORDER, text) for text in reads.find_inversions(attempts, ledger)]
    found += [Violation(READ, text) for text in reads.find_stale_reads(attempts, ledger)]
    found += [Violation(LIST, text) for text in lists.find_differences(ledger)]
    return found


def check_write(kind: str, id: str, attempts: list[Attempt], row: Row | None) -> Iterator[Violation]:
    """A transfer, a hold or an account: what was acknowledged is stored, and each response agrees with the row."""
    outcomes = {attempt.outcome for attempt in attempts}
    if row is None:
        if outcomes & set(FINAL):
            yield Violation(LOST, f"{kind} {id} was acknowledged and is not in the ledger")
        return
    if sum(attempt.status == 201 for attempt in attempts) > 1:
        yield Violation(DOUBLED, f"{kind} {id} was new in two responses")
    if outcomes == {REFUSED} and not any(attempt.copied for attempt in attempts):
        yield Violation(FALSE_REFUSAL, f"{kind} {id} was refused as not applied and is in the ledger")
    for attempt in attempts:
        if attempt.outcome == OK and (differs := find_differences(attempt.response, row)):
            is_decline = row.get("status") == "declined"
            yield Violation(DECLINE if is_decline else CHANGED, f"{kind} {id} was acknowledged with other {differs}")
        if attempt.outcome == DECLINED and not is_same_decline(attempt.response, row):
            yield Violation(DECLINE, f"{kind} {id} was declined with {attempt.response} and is {row}")


def find_differences(response: Any, row: Row) -> dict[str, Any]:
    """The members of the response that differ from the row. An open hold may have ended meanwhile."""
    ignored = {*DECLINE_MEMBERS, *AMOUNTS_OF_ACCOUNT, *(RESULTS_OF_HOLD if response.get("status") == "open" else ())}
    return {name: response.get(name) for name in row if name not in ignored and response.get(name) != row[name]}


def is_same_decline(problem: Any, row: Row) -> bool:
    """Whether the row is the decline of this problem."""
    slug = str(problem.get("type", "")).removeprefix("/problems/")
    members = {name: problem[name] for name in ("account", "available") if name in problem}
    return row.get("status") == "declined" and row["reason"] == slug and members.items() <= row.items()


def check_release(id: str, attempts: list[Attempt], row: Row | None) -> Iterator[Violation]:
    """A release that was acknowledged is final, and so is one that was declined."""
    for attempt in attempts:
        if attempt.outcome == OK and (row is None or (differs := find_differences(attempt.response, row))):
            yield Violation(LOST if row is None else CHANGED, f"the release of {id}: {differs if row else 'no hold'}")
        if attempt.outcome == DECLINED and (row is None or row["status"] not in ("captured", "declined")):
            yield Violation(DECLINE, f"the release of {id} was declined, and the hold is {row}")


def check_atomicity(
    by_command: dict[tuple[str, str], list[Attempt]], rows: dict[str, dict[str, Row]]
) -> Iterator[Violation]:
    """All items of an atomic batch are in the ledger, or none of them. Each of its ids is used in this batch only."""
    stored: dict[str, list[bool]] = defaultdict(list)
    for (kind, id), attempts in by_command.items():
        if attempts[0].batch:
            stored[attempts[0].batch].append(id in rows[kind])
    for batch, items in stored.items():
        if any(items) and not all(items):
            yield Violation(ATOMIC, f"{sum(items)} of {len(items)} items of the batch {batch} are in the ledger")


def check_origin(
    by_command: dict[tuple[str, str], list[Attempt]], rows: dict[str, dict[str, Row]]
) -> Iterator[Violation]:
    """Each row is of a command, and has the values of its request."""
    for kind, rows_of_kind in rows.items():
        for id, row in rows_of_kind.items():
            attempts = by_command.get((kind, id))
            if not attempts:
                yield Violation(DOUBLED, f"{kind} {id} is in the ledger, and no client sent it")
            elif differs := {name: value for name, value in (attempts[0].body or {}).items() if row[name] != value}:
                yield Violation(CHANGED, f"{kind} {id} was requested with {differs}, and is {row}")


def check_chain(ledger: Ledger) -> Iterator[Violation]:
    """The numbers are 1, 2, 3 …, and each balance follows from the one before, up to the balance of the account."""
    balances = dict.fromkeys(ledger.accounts, 0)
    for number, row in enumerate(ledger.posted, start=1):
        if row["number"] != number:
            yield Violation(NUMBER, f"transfer {row['id']} has the number {row['number']}, expected {number}")
        for side, change in (("from", -row["amount"]), ("to", row["amount"])):
            account = row[side]
            if row[f"{side}_balance"] != balances[account] + change:
                yield Violation(BALANCE, f"number {number}: {account} is {row}, expected {balances[account] + change}")
            balances[account] = row[f"{side}_balance"]
    for id, row in ledger.accounts.items():
        if row["balance"] != balances[id]:
            yield Violation(BALANCE, f"{id} has the balance {row['balance']}, after its last transfer {balances[id]}")
