"""Reads the whole books and says everything that is wrong with them. Every test ends with it."""

from collections import defaultdict
from typing import Any

import psycopg
from psycopg.rows import dict_row


def faults(connection: psycopg.Connection[Any]) -> list[str]:
    """One sentence for each fault; none when the books balance."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor = connection.cursor(row_factory=dict_row)
        accounts = {row["id"]: row for row in cursor.execute("SELECT * FROM account")}
        journal = cursor.execute("SELECT * FROM journal").fetchall()
        transfers = cursor.execute("SELECT * FROM transfer WHERE status = 'posted' ORDER BY number").fetchall()
    return [
        *_chain_faults(accounts, transfers),
        *_journal_faults(journal, transfers),
        *(
            f"{id} is below its floor"
            for id, row in accounts.items()
            if row["min_balance"] is not None and row["balance"] - row["held"] < row["min_balance"]
        ),
    ]


def _chain_faults(accounts: dict[str, Any], transfers: list[dict[str, Any]]) -> list[str]:
    """Each balance is the sum of its transfers, each balance-after follows from the one before, each currency is 0."""
    found = []
    balances: dict[str, int] = defaultdict(int)
    for row in transfers:
        for account, change, after in (
            (row["from_account"], -row["amount"], row["from_balance"]),
            (row["to_account"], row["amount"], row["to_balance"]),
        ):
            balances[account] += change
            if balances[account] != after:
                found.append(f"number {row['number']}: {account} stands at {balances[account]}, the row says {after}")
            if accounts[account]["currency"] != row["currency"]:
                found.append(f"number {row['number']}: {account} does not hold {row['currency']}")
    sums: dict[str, int] = defaultdict(int)
    for id, row in accounts.items():
        sums[row["currency"]] += row["balance"]
        if row["balance"] != balances[id]:
            found.append(f"{id} has balance {row['balance']}, its transfers sum to {balances[id]}")
    return found + [f"the balances in {currency} sum to {total}" for currency, total in sums.items() if total]


def _journal_faults(journal: list[dict[str, Any]], transfers: list[dict[str, Any]]) -> list[str]:
    """Numbers run 1, 2, 3 … to the journal's last, and times never backwards."""
    found = []
    numbers = [row["number"] for row in transfers]
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"the numbers have gaps: {numbers[:10]} …")
    if len(journal) != 1 or journal[0]["last_number"] != len(numbers):
        found.append(f"the journal says {journal}, there are {len(numbers)} posted transfers")
    times = [row["created_at"] for row in transfers] + [row["last_at"] for row in journal]
    if times != sorted(times):
        found.append("the times run backwards")
    return found
