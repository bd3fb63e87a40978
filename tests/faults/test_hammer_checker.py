"""The checker of the hammer accepts a correct history, and finds each kind of violation in one that was changed."""

from typing import Any

import pytest

from tests.faults.hammer import checker
from tests.faults.hammer.history import (
    ACCOUNT,
    DECLINED,
    FEED,
    HOLD,
    LOOKUP,
    OK,
    OPENING,
    REFUSED,
    RELEASE,
    TRANSFER,
    UNKNOWN,
    Attempt,
)
from tests.faults.hammer.ledger import Ledger, Lists

NO_DECLINE: dict[str, Any] = {"reason": None, "account": None, "available": None}


def time_of(number: int) -> str:
    return f"2026-11-24T00:00:{number:02}.000000Z"


def transfer(id: str, number: int, amount: int, from_balance: int, to_balance: int, **members: Any) -> dict[str, Any]:
    """The row of a transfer from `a` to `b`."""
    ends = {"from": "a", "to": "b", "from_balance": from_balance, "to_balance": to_balance}
    fixed = {"status": "posted", "currency": "EUR", "captures": None, "reverses": None, "created_at": time_of(number)}
    return {"id": id, "number": number, "amount": amount, "reference": None} | ends | fixed | NO_DECLINE | members


def hold(id: str, amount: int, placed: int, resolved: int | None = None, **members: Any) -> dict[str, Any]:
    """The row of a hold from `a` to `b`: open, or released at `resolved`."""
    status = "open" if resolved is None else "released"
    times = {"created_at": time_of(placed), "resolved_at": time_of(resolved) if resolved else None}
    row = {"id": id, "status": status, "from": "a", "to": "b", "amount": amount, "captured_by": None}
    return row | times | NO_DECLINE | members


def attempt(kind: str, row: Any, invoked: float, outcome: str = OK, **members: Any) -> Attempt:
    """An attempt that lasted 1 s and returned this row."""
    body = {"amount": row["amount"]} if "amount" in row else None
    status = {OK: 201, DECLINED: 422, REFUSED: 503, UNKNOWN: 0}[outcome]
    members = {"status": status, "response": dict(row) if outcome == OK else None} | members
    return Attempt(kind, row["id"], body, 0, invoked, invoked + 1, outcome, **members)


class Run:
    """A correct history, and the rows that belong to it. The floor of `a` is -10.

    An atomic batch opens `a` and `b`, and another one, which opens `c`, is refused.
    """

    def __init__(self) -> None:
        self.first, self.second = transfer("t1", 1, 5, -5, 5, reference="r"), transfer("t2", 2, 3, -8, 8)
        declined = {"number": None, "status": "declined", "from_balance": None, "to_balance": None, "created_at": ""}
        self.declined = transfer("t3", 0, 99, 0, 0) | declined
        self.declined |= {"reason": "insufficient-funds", "account": "a", "available": 2}
        self.hold = hold("h", 2, placed=3, resolved=4)
        self.accounts: dict[str, dict[str, Any]] = {
            "a": {"id": "a", "min_balance": -10, "max_balance": None, "balance": -8},
            "b": {"id": "b", "min_balance": None, "max_balance": 8, "balance": 8},
        }
        self.by_reference = {"r": [dict(self.first)]}
        self.trial_balance: dict[str, Any] = {
            "currency": "EUR",
            "accounts": 2,
            "credit": "8",
            "debit": "8",
            "balance": "0",
        }
        problem = {"type": "/problems/insufficient-funds", "account": "a", "available": 2}
        openings = [
            attempt(OPENING, row, 0, response=row | {"balance": 0}, batch="opened") for row in self.accounts.values()
        ]
        self.attempts = [
            attempt(TRANSFER, self.first, 0, UNKNOWN),
            attempt(TRANSFER, self.first, 2),
            attempt(TRANSFER, self.second, 4, REFUSED),
            attempt(TRANSFER, self.second, 6),
            attempt(TRANSFER, self.declined, 8, DECLINED, response=problem),
            attempt(HOLD, self.hold, 8, response=self.hold | {"status": "open", "resolved_at": None}),
            attempt(RELEASE, self.hold, 10, status=200),
            attempt(ACCOUNT, {"id": "a", "balance": -5}, 4, status=200),
            attempt(LOOKUP, self.first, 4, status=200),
            attempt(LOOKUP, self.second, 4, REFUSED, status=404),
            attempt(FEED, {"id": "0", "transfers": [dict(self.first), dict(self.second)]}, 8, status=200),
            *openings,
            attempt(OPENING, {"id": "c"}, 4, REFUSED, status=422, batch="refused"),
            attempt(ACCOUNT, {"id": "c"}, 6, REFUSED, status=404),
        ]

    def kinds(self) -> set[str]:
        """The kinds of the violations."""
        transfers = {row["id"]: row for row in (self.first, self.second, self.declined) if row}
        holds = {self.hold["id"]: self.hold} if self.hold else {}
        lists = Lists(self.by_reference, {"number": 2, "currencies": [self.trial_balance]})
        ledger = Ledger(self.accounts, transfers, holds, lists)
        return {violation.kind for violation in checker.check(self.attempts, ledger)}


def test_a_correct_history_has_no_violation() -> None:
    """It has an unknown attempt, a refused one, a decline, a hold and reads."""
    assert Run().kinds() == set()


def lose_a_transfer(run: Run) -> None:
    run.second = {}


def lose_a_hold(run: Run) -> None:
    run.hold = {}


def store_a_decline_as_posted(run: Run) -> None:
    run.declined = transfer("t3", 3, 99, -107, 107)


def decline_what_was_acknowledged(run: Run) -> None:
    run.second |= {"status": "declined", "number": None, "reason": "insufficient-funds"}


def forget_a_decline(run: Run) -> None:
    run.declined = {}


def post_under_another_id(run: Run) -> None:
    run.second["id"] = "t2-again"


def acknowledge_twice_as_new(run: Run) -> None:
    run.attempts.append(attempt(TRANSFER, run.first, 20))


def acknowledge_another_amount(run: Run) -> None:
    run.attempts[1].response["amount"] = 6


def store_another_amount(run: Run) -> None:
    assert run.attempts[0].body
    run.attempts[0].body["amount"] = 4


def apply_what_was_refused(run: Run) -> None:
    run.attempts[3].outcome = REFUSED


def leave_a_gap(run: Run) -> None:
    run.second["number"] = run.attempts[3].response["number"] = 3


def write_a_wrong_balance(run: Run) -> None:
    run.second["to_balance"] = run.attempts[3].response["to_balance"] = 9


def lose_an_update_of_an_account(run: Run) -> None:
    run.accounts["b"]["balance"] = 5


def go_below_the_floor(run: Run) -> None:
    run.accounts["a"]["min_balance"] = -7


def hold_more_than_there_is(run: Run) -> None:
    run.hold["amount"] = run.attempts[5].response["amount"] = run.attempts[6].response["amount"] = 3
    run.attempts[5].body = {"amount": 3}


def number_against_real_time(run: Run) -> None:
    run.attempts[0].invoked, run.attempts[1].invoked = 7.5, 8.0


def read_a_balance_too_early(run: Run) -> None:
    run.attempts[7].invoked, run.attempts[7].returned = 0.0, 1.5
    run.attempts[7].response["balance"] = -8


def read_a_balance_too_late(run: Run) -> None:
    run.attempts[7].invoked, run.attempts[7].returned = 7.5, 8.0


def not_find_what_was_acknowledged(run: Run) -> None:
    run.attempts[9].invoked = 7.5


def read_other_members(run: Run) -> None:
    run.attempts[8].response["amount"] = 6


def miss_a_transfer_in_the_feed(run: Run) -> None:
    del run.attempts[10].response["transfers"][0]


def end_the_feed_too_early(run: Run) -> None:
    del run.attempts[10].response["transfers"][1]


def show_another_amount_in_the_feed(run: Run) -> None:
    run.attempts[10].response["transfers"][0]["amount"] = 6


def undo_a_release(run: Run) -> None:
    run.hold |= {"status": "open", "resolved_at": None}


def decline_the_release_of_an_open_hold(run: Run) -> None:
    run.attempts[6].outcome = DECLINED


def go_above_the_ceiling(run: Run) -> None:
    run.accounts["b"]["max_balance"] = 7


def lose_an_account(run: Run) -> None:
    run.attempts[13] = attempt(OPENING, {"id": "c"}, 4, response={"id": "c"})


def open_an_account_of_a_refused_batch(run: Run) -> None:
    run.accounts["c"] = {"id": "c", "min_balance": 0, "max_balance": None, "balance": 0}


def open_some_accounts_of_an_atomic_batch(run: Run) -> None:
    run.attempts[13] = attempt(OPENING, {"id": "c"}, 4, UNKNOWN, batch="opened")


def open_with_another_ceiling(run: Run) -> None:
    run.attempts[12].response["max_balance"] = 9


def not_find_an_account(run: Run) -> None:
    run.attempts[14].id = "b"


def miss_a_transfer_of_a_reference(run: Run) -> None:
    run.by_reference["r"].pop()


def list_a_transfer_twice(run: Run) -> None:
    run.by_reference["r"] *= 2


def list_a_transfer_of_another_reference(run: Run) -> None:
    run.by_reference["r"].append(run.second)


def list_another_amount(run: Run) -> None:
    run.by_reference["r"][0]["amount"] = 6


def show_a_trial_balance_above_0(run: Run) -> None:
    run.trial_balance["balance"] = "1"


def leave_an_account_out_of_the_trial_balance(run: Run) -> None:
    run.trial_balance["accounts"] = 1


def miss_a_currency_in_the_trial_balance(run: Run) -> None:
    run.trial_balance["currency"] = "USD"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lose_a_transfer, checker.LOST),
        (lose_a_hold, checker.LOST),
        (forget_a_decline, checker.LOST),
        (post_under_another_id, checker.DOUBLED),
        (acknowledge_twice_as_new, checker.DOUBLED),
        (acknowledge_another_amount, checker.CHANGED),
        (store_another_amount, checker.CHANGED),
        (undo_a_release, checker.CHANGED),
        (apply_what_was_refused, checker.FALSE_REFUSAL),
        (store_a_decline_as_posted, checker.DECLINE),
        (decline_what_was_acknowledged, checker.DECLINE),
        (decline_the_release_of_an_open_hold, checker.DECLINE),
        (leave_a_gap, checker.NUMBER),
        (write_a_wrong_balance, checker.BALANCE),
        (lose_an_update_of_an_account, checker.BALANCE),
        (go_below_the_floor, checker.LIMIT),
        (hold_more_than_there_is, checker.LIMIT),
        (number_against_real_time, checker.ORDER),
        (read_a_balance_too_early, checker.READ),
        (read_a_balance_too_late, checker.READ),
        (not_find_what_was_acknowledged, checker.READ),
        (read_other_members, checker.READ),
        (miss_a_transfer_in_the_feed, checker.READ),
        (end_the_feed_too_early, checker.READ),
        (show_another_amount_in_the_feed, checker.READ),
        (go_above_the_ceiling, checker.LIMIT),
        (lose_an_account, checker.LOST),
        (open_an_account_of_a_refused_batch, checker.FALSE_REFUSAL),
        (open_some_accounts_of_an_atomic_batch, checker.ATOMIC),
        (open_with_another_ceiling, checker.CHANGED),
        (not_find_an_account, checker.READ),
        (miss_a_transfer_of_a_reference, checker.LIST),
        (list_a_transfer_twice, checker.LIST),
        (list_a_transfer_of_another_reference, checker.LIST),
        (list_another_amount, checker.LIST),
        (show_a_trial_balance_above_0, checker.LIST),
        (leave_an_account_out_of_the_trial_balance, checker.LIST),
        (miss_a_currency_in_the_trial_balance, checker.LIST),
    ],
)
def test_a_violation_is_found(change: Any, kind: str) -> None:
    """One change of the history or of the rows is a violation of this kind."""
    run = Run()
    change(run)
    assert kind in run.kinds()
