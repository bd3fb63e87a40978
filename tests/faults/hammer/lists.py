"""What the service lists at the end of a run: the transfers of each reference, and the trial balance."""

from collections import defaultdict
from collections.abc import Iterator

from tests.faults.hammer.clients import REFERENCES, Client, Command, Reply
from tests.faults.hammer.ledger import Ledger, Lists, Row
from tests.faults.hammer.reads import is_shown
from tests.support.waiting import wait_until

PAGE_ROWS = 500  # the most that the contract allows


def read(client: Client) -> Lists:
    """Read the lists. No client may write meanwhile."""
    by_reference = {reference: list(read_transfers(client, reference)) for reference in REFERENCES}
    return Lists(by_reference, get(client, "trial-balance"))


def read_transfers(client: Client, reference: str) -> Iterator[Row]:
    """The transfers of all pages of the reference."""
    after = 0
    while after is not None:
        page = get(client, f"transfers?reference={reference}&limit={PAGE_ROWS}&after={after}")
        yield from page["transfers"]
        after = page["next"]


def get(client: Client, path: str) -> Row:
    """The JSON of a response with 200. A process that recovers from the last fault may return 503 before."""
    replies: list[Reply] = []

    def is_returned() -> bool:
        replies.append(client.send(Command("GET", path, None, ()), 0))
        return replies[-1].status == 200

    wait_until(is_returned, f"GET {path} returns 200")
    found: Row = replies[-1].body
    return found


def find_differences(ledger: Ledger) -> Iterator[str]:
    """Each reference lists its posted transfers once, by number. The trial balance is that of all accounts, and 0."""
    expected: dict[str, list[Row]] = defaultdict(list)
    for row in ledger.posted:
        expected[row["reference"]].append(row)
    for reference, listed in ledger.lists.by_reference.items():
        numbers = [row["number"] for row in expected[reference]]
        if [row["number"] for row in listed] != numbers:
            yield f"{reference} lists {len(listed)} transfers, not the {len(numbers)} that have it, in their order"
        yield from (f"{reference} lists {row}" for row in listed if not is_shown(row, ledger))
    balances = [row["balance"] for row in ledger.accounts.values()]
    credit = str(sum(balance for balance in balances if balance > 0))
    total = {"currency": "EUR", "accounts": len(balances), "credit": credit, "debit": credit, "balance": "0"}
    trial_balance = ledger.lists.trial_balance
    shown = [{name: each[name] for name in total} for each in trial_balance["currencies"]]
    if (trial_balance["number"], shown) != (len(ledger.posted), [total]):
        yield f"the trial balance is {trial_balance}, expected {total} after the number {len(ledger.posted)}"
