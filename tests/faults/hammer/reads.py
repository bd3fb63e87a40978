"""Real time: the order of the transfers agrees with it, and each read shows a state within its own time."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from tests.faults.hammer.history import ACCOUNT, FEED, FEED_ROWS, LOOKUP, OK, OPENING, REFUSED, TRANSFER, Attempt
from tests.faults.hammer.ledger import Ledger


class Times:
    """When each posted transfer was first sent, and when it was first acknowledged; infinity if it never was.

    A refused attempt applied nothing, so it does not count as sent, unless the network may have sent it twice.
    """

    def __init__(self, attempts: list[Attempt], ledger: Ledger) -> None:
        self.invoked: dict[str, float] = {}
        self.acknowledged: dict[str, float] = {}
        for attempt in attempts:
            if attempt.kind == TRANSFER and (attempt.outcome != REFUSED or attempt.copied):
                self.invoked.setdefault(attempt.id, attempt.invoked)
                if attempt.outcome == OK:
                    earlier = self.acknowledged.get(attempt.id, float("inf"))
                    self.acknowledged[attempt.id] = min(attempt.returned, earlier)
        posted = [row for row in ledger.posted if row["id"] in self.invoked]
        self.numbers = [int(row["number"]) for row in posted]
        self.ids = [str(row["id"]) for row in posted]


def find_inversions(attempts: list[Attempt], ledger: Ledger) -> Iterator[str]:
    """Each transfer that has a lower number than one that was acknowledged before it was first sent."""
    times = Times(attempts, ledger)
    earliest, earliest_id = float("inf"), ""  # the first acknowledgement of those with higher numbers
    for id in reversed(times.ids):
        if earliest < times.invoked[id]:
            yield f"{id} began after {earliest_id} was acknowledged, and has a lower number"
        acknowledged = times.acknowledged.get(id, float("inf"))
        if acknowledged < earliest:
            earliest, earliest_id = acknowledged, id


class Window:
    """For a time, the numbers that must be visible by then, and those that can be."""

    def __init__(self, times: Times) -> None:
        by_acknowledgement = sorted(
            (times.acknowledged[id], number)
            for number, id in zip(times.numbers, times.ids, strict=True)
            if id in times.acknowledged
        )
        self._acknowledged_at = [at for at, _ in by_acknowledgement]
        self._highest = list(accumulate((number for _, number in by_acknowledgement), max))
        by_invocation = sorted((times.invoked[id], number) for number, id in zip(times.numbers, times.ids, strict=True))
        self._invoked_at = [at for at, _ in by_invocation]
        self._lowest = list(accumulate((number for _, number in reversed(by_invocation)), min))[::-1]
        self._last = times.numbers[-1] if times.numbers else 0

    def must_include(self, time: float) -> int:
        """The highest number that was acknowledged before this time; 0 if there is none."""
        position = bisect_left(self._acknowledged_at, time)
        return self._highest[position - 1] if position else 0

    def can_include(self, time: float) -> int:
        """The highest number such that it, and all before it, were sent before this time."""
        position = bisect_right(self._invoked_at, time)
        return self._lowest[position] - 1 if position < len(self._lowest) else self._last


def find_stale_reads(attempts: list[Attempt], ledger: Ledger) -> Iterator[str]:
    """Each read of an account, a transfer or the feed that contradicts the order of the transfers."""
    times, opened = Times(attempts, ledger), find_openings(attempts)
    window = Window(times)
    entries: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in ledger.posted:
        entries[row["from"]].append((row["number"], row["from_balance"]))
        entries[row["to"]].append((row["number"], row["to_balance"]))
    for attempt in attempts:
        low, high = window.must_include(attempt.invoked), window.can_include(attempt.returned)
        if attempt.kind == ACCOUNT and attempt.outcome == OK:
            balance = attempt.response["balance"]
            if balance not in balances_between(entries[attempt.id], low, high):
                yield f"{attempt.id} was read as {balance}, which it was not between the numbers {low} and {high}"
        elif attempt.kind in (LOOKUP, ACCOUNT) and attempt.status == 404:
            acknowledged = times.acknowledged if attempt.kind == LOOKUP else opened
            if acknowledged.get(attempt.id, float("inf")) < attempt.invoked:
                yield f"{attempt.id} was not found after it was acknowledged"
        elif attempt.kind == LOOKUP and attempt.outcome == OK:
            if not is_shown(attempt.response, ledger):
                yield f"{attempt.id} was read as {attempt.response}"
        elif attempt.kind == FEED and attempt.outcome == OK:
            yield from find_feed_errors(attempt, low, ledger)


def find_openings(attempts: list[Attempt]) -> dict[str, float]:
    """When the opening of each account was first acknowledged."""
    opened: dict[str, float] = {}
    for attempt in attempts:
        if attempt.kind == OPENING and attempt.outcome == OK:
            opened[attempt.id] = min(attempt.returned, opened.get(attempt.id, float("inf")))
    return opened


def find_feed_errors(attempt: Attempt, low: int, ledger: Ledger) -> Iterator[str]:
    """A page of the feed has the next numbers without a gap, and all that were acknowledged before the request."""
    rows = attempt.response["transfers"]
    last = int(attempt.id) + len(rows)
    if [row["number"] for row in rows] != list(range(int(attempt.id) + 1, last + 1)):
        yield f"the feed after {attempt.id} has a gap: {[row['number'] for row in rows]}"
    if len(rows) < FEED_ROWS and last < low:
        yield f"the feed after {attempt.id} ended with {last} after {low} was acknowledged"
    yield from (f"{row['id']} was read as {row}" for row in rows if not is_shown(row, ledger))


def is_shown(response: Any, ledger: Ledger) -> bool:
    """Whether the response has the values of the row."""
    row = ledger.transfers.get(response["id"], {})
    return all(response[name] == row[name] for name in response if name in row) and bool(row)


def balances_between(entries: list[tuple[int, int]], low: int, high: int) -> set[int]:
    """The balances that the account had after the numbers from `low` to `high`."""
    first = bisect_right(entries, (low, float("inf"))) - 1
    last = bisect_right(entries, (high, float("inf"))) - 1
    found = {balance for _, balance in entries[max(first, 0) : last + 1]}
    return found | {0} if first < 0 else found
