"""A part of a real bank's year, over HTTP, against the bank's own balances. `make bank` does all of it."""

import contextlib
from pathlib import Path

import pytest

from bench import bank
from tests import live

FILE = Path(__file__).parents[1] / "bench" / "data" / "bank-1993.csv.gz"
ROWS = 3000


def post(url: str, rows: list[dict[str, str]]) -> bank.Report:
    with contextlib.closing(bank.Ledger(url, live.TOKEN)) as ledger:
        return bank.run(ledger, rows, show_progress=False)


def test_every_balance_is_the_banks(environment: dict[str, str]) -> None:
    """After each row the client has what the bank wrote down; a second run posts nothing and finds the same."""
    rows = bank.read(FILE)[:ROWS]
    with live.serving(environment) as service:
        first, second = (post(service.url, rows) for _ in range(2))
    assert (first.rows, first.posted, first.mismatches, first.last_number) == (ROWS, ROWS, 0, ROWS)
    assert (second.rows, second.posted, second.mismatches, second.last_number) == (ROWS, 0, 0, ROWS)


def test_a_wrong_balance_is_found(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """The comparison can fail: one heller more in the bank's book is one mismatch."""
    rows = bank.read(FILE)[:100]
    rows[50]["balance"] = str(int(rows[50]["balance"]) + 1)
    with live.serving(environment) as service:
        report = post(service.url, rows)
    assert report.mismatches == 1
    assert rows[50]["id"] in capsys.readouterr().err


def test_the_whole_file_is_there() -> None:
    """A fresh clone has all 28,077 rows."""
    assert len(bank.read(FILE)) == 28077
