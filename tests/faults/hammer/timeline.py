"""Limits over time: at no moment is an account's balance, minus its open holds, below its floor, or above its ceiling.

Holds do not count for the ceiling.
"""

from collections.abc import Iterator
from itertools import groupby

from tests.faults.hammer.ledger import Ledger

Event = tuple[str, str, int, int]  # time, account, change of the balance, change of the held amount


def find_exceeded_limits(ledger: Ledger) -> Iterator[str]:
    """Each account and time with less available than its floor allows, or with a balance above its ceiling.

    What one transaction wrote has one time, so the accounts are compared after all events of a time.
    """
    balance, held = dict.fromkeys(ledger.accounts, 0), dict.fromkeys(ledger.accounts, 0)
    for time, events in groupby(sorted(find_events(ledger)), key=lambda event: event[0]):
        changed = set()
        for _, account, change, held_change in events:
            balance[account] += change
            held[account] += held_change
            changed.add(account)
        for account in changed:
            floor, ceiling = ledger.accounts[account]["min_balance"], ledger.accounts[account]["max_balance"]
            if floor is not None and balance[account] - held[account] < floor:
                yield f"{account} had {balance[account]} with {held[account]} held at {time}; its floor is {floor}"
            if ceiling is not None and balance[account] > ceiling:
                yield f"{account} had {balance[account]} at {time}; its ceiling is {ceiling}"


def find_events(ledger: Ledger) -> Iterator[Event]:
    """Every change of a balance or a held amount, with its time as the text of a response, which sorts by time."""
    for row in ledger.posted:
        yield row["created_at"], row["from"], -row["amount"], 0
        yield row["created_at"], row["to"], row["amount"], 0
    for hold in ledger.holds.values():
        if hold["status"] == "declined":
            continue
        yield hold["created_at"], hold["from"], 0, hold["amount"]
        if hold["resolved_at"]:
            yield hold["resolved_at"], hold["from"], 0, -hold["amount"]
