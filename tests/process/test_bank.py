"""Transactions of a real bank over HTTP, compared with the balances of the bank. `make bank` posts the whole file."""

import contextlib

import pytest

from dev import bank
from dev.run import TOKEN
from tests.support import live

FILE = live.ROOT / "dev" / "data" / "bank-1993.csv.gz"
ROWS = 3000


def post(url: str, rows: list[dict[str, str]]) -> bank.Report:
    """Post the rows to the service."""
    with contextlib.closing(bank.Ledger(url, TOKEN)) as ledger:
        return bank.run(ledger, rows, show_progress=False)


def test_every_balance_is_that_of_the_bank(environment: dict[str, str]) -> None:
    """After each row, the client has the bank's balance; a second run posts nothing and finds the same balances."""
    rows = bank.read(FILE)[:ROWS]
    with live.serving(environment) as service:
        first, second = (post(service.url, rows) for _ in range(2))
    assert (first.rows, first.posted, first.mismatches, first.last_number) == (ROWS, ROWS, 0, ROWS)
    assert (second.rows, second.posted, second.mismatches, second.last_number) == (ROWS, 0, 0, ROWS)


def test_a_different_balance_is_a_mismatch(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """One heller more in a row of the file is one mismatch, printed with the row's id."""
    rows = bank.read(FILE)[:100]
    rows[50]["balance"] = str(int(rows[50]["balance"]) + 1)
    with live.serving(environment) as service:
        report = post(service.url, rows)
    assert report.mismatches == 1
    assert rows[50]["id"] in capsys.readouterr().err


def test_the_file_has_all_rows() -> None:
    """28,077 rows."""
    assert len(bank.read(FILE)) == 28077
