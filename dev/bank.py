"""`python -m dev.bank URL FILE`: post a bank's transactions to a running service, and compare each balance.

Each row becomes a transfer between the client's account and an account for the kind of transaction or the partner
bank. A second run posts nothing new and compares all balances again. LEDGER_TOKEN has a token with the scopes write and
admin: the accounts have no floor. Exit code 1 if a balance differs.
"""

import contextlib
import csv
import gzip
import http.client
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

BATCH_ITEMS = 500
TIMEOUT_SECONDS = 30
CURRENCY = "CZK"  # amounts are in hellers, 1/100

# The other account of a transfer, by the kind of the row.
COUNTERPARTS = {
    "cash-deposit": "cash",
    "cash-withdrawal": "cash",
    "card-withdrawal": "cards",
    "statement-fee": "bank:fees",
    "penalty-interest": "bank:penalty-interest",
    "interest-credited": "bank:interest",
    "from-other-bank": "other-bank",
    "to-other-bank": "other-bank",
}


@dataclass
class Report:
    """The result of a run."""

    accounts: int = 0
    opening_seconds: float = 0.0  # of all accounts
    rows: int = 0
    posted: int = 0  # by this run; an earlier run posted the others
    mismatches: int = 0
    seconds: float = 0.0  # of all transfers
    last_number: int = 0


class Ledger:
    """One persistent connection to the service."""

    def __init__(self, url: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_SECONDS)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def send(self, method: str, path: str, body: Any) -> Any:
        """The JSON of the response. Raises SystemExit for every status except 200 and 201."""
        self._connection.request(method, path, json.dumps(body), self._headers)
        response = self._connection.getresponse()
        text = response.read().decode()
        if response.status not in (200, 201):
            sys.exit(f"{method} {path} returned {response.status}: {text}")
        return json.loads(text)

    def close(self) -> None:
        self._connection.close()


def main() -> int:
    """Run, and print the report; returns 1 if a balance differs."""
    if len(sys.argv) != 3:
        sys.exit("usage: LEDGER_TOKEN=… python -m dev.bank URL FILE")
    with contextlib.closing(Ledger(sys.argv[1], os.environ.get("LEDGER_TOKEN", ""))) as ledger:
        report = run(ledger, read(Path(sys.argv[2])), show_progress=sys.stderr.isatty())
    print(f"accounts      {report.accounts:>10,}")
    print(f"opened in s   {report.opening_seconds:>10.2f}")
    print(f"rows          {report.rows:>10,}")
    print(f"newly posted  {report.posted:>10,}")
    print(f"seconds       {report.seconds:>10.1f}")
    print(f"rows a second {report.rows / report.seconds:>10,.0f}")
    print(f"last number   {report.last_number:>10,}")
    print(f"mismatches    {report.mismatches:>10,}")
    return 1 if report.mismatches else 0


def run(ledger: Ledger, rows: list[dict[str, str]], *, show_progress: bool) -> Report:
    """Open the accounts, post the rows in order, and compare each balance."""
    report = Report()
    transfers = [transfer(row) for row in rows]
    accounts = sorted({name for item in transfers for name in (item["from"], item["to"])})
    started_at = time.monotonic()
    for batch in batches(accounts):
        opened = [{"account": {"id": id, "currency": CURRENCY, "min_balance": None}} for id in batch]
        ledger.send("POST", "/v1/batches", {"atomic": True, "items": opened})
    report.accounts, report.opening_seconds = len(accounts), time.monotonic() - started_at
    started_at = time.monotonic()
    with tqdm(total=len(rows), desc="transfers", disable=not show_progress) as progress:
        for batch in batches(list(zip(rows, transfers, strict=True))):
            body = {"atomic": False, "items": [{"transfer": item} for _, item in batch]}
            results = ledger.send("POST", "/v1/batches", body)["results"]
            for (row, item), result in zip(batch, results, strict=True):
                compare(report, row, item, result)
            progress.update(len(batch))
    report.seconds = time.monotonic() - started_at
    return report


def read(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def transfer(row: dict[str, str]) -> dict[str, Any]:
    """The transfer of a row: from the counterpart to the client if delta is positive, otherwise the reverse."""
    client, delta = f"client:{row['account']}", int(row["delta"])
    counterpart = COUNTERPARTS[row["kind"]]
    if row["partner_bank"]:
        counterpart += f":{row['partner_bank']}"
    source, target = (counterpart, client) if delta > 0 else (client, counterpart)
    metadata = {name: row[name] for name in ("date", "kind", "purpose", "partner_account") if row[name]}
    return {
        "id": f"bank-1993:{row['id']}",
        "from": source,
        "to": target,
        "amount": abs(delta),
        "currency": CURRENCY,
        "metadata": metadata,
    }


def batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), BATCH_ITEMS):
        yield items[start : start + BATCH_ITEMS]


def compare(report: Report, row: dict[str, str], item: dict[str, Any], result: dict[str, Any]) -> None:
    """Count the row in the report, and a mismatch if the client's balance after it is not the one of the bank."""
    report.rows += 1
    report.posted += result["status"] == 201
    posted = result.get("transfer")
    side = "to_balance" if int(row["delta"]) > 0 else "from_balance"
    if posted and posted[side] == int(row["balance"]):
        report.last_number = max(report.last_number, posted["number"])
        return
    report.mismatches += 1
    print(f"{item['id']}: the bank says {row['balance']}, the ledger {result}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
