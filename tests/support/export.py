"""Runs the export, and reads its formats with beancount and hledger."""

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from beancount import loader
from beancount.core import data, realization

from service.export import account_name
from tests.support.live import ROOT
from tests.support.waiting import LIMIT_SECONDS

HLEDGER = shutil.which("hledger")
NEEDS_HLEDGER = pytest.mark.skipif(
    HLEDGER is None,
    reason="hledger is not installed, so only beancount reads the export: apt-get or brew install hledger",
)
# beancount has a plugin noduplicates too. It takes -1 of Assets:A and 1 of Assets:A- for duplicates, so it is not used.
BEANCOUNT_PLUGINS = ("check_commodity", "coherent_cost", "onecommodity", "unique_prices")


def run(environment: dict[str, str], *arguments: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run the command with exactly this environment. `options` are those of subprocess.run."""
    command = [sys.executable, "-m", "service.export", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, timeout=LIMIT_SECONDS, **{"capture_output": True, **options}
    )


def export(environment: dict[str, str], format: str) -> str:
    """The output of a run that must succeed."""
    completed = run({"DATABASE_URL": environment["DATABASE_URL"]}, "--format", format)
    assert (completed.returncode, completed.stderr) == (0, b"")
    return completed.stdout.decode("utf-8")


def stored_balances(owner: psycopg.Connection[Any]) -> dict[str, int]:
    """The balances in the database, by the name of the account in the export."""
    rows = owner.execute("SELECT id, balance FROM account").fetchall()
    return {account_name(id): balance for id, balance in rows}


def read_by_beancount(text: str) -> dict[str, int]:
    """The balances that beancount computes, by account name. It must load the file without an error."""
    plugins = "".join(f'plugin "beancount.plugins.{name}"\n' for name in BEANCOUNT_PLUGINS)
    entries, errors, _ = loader.load_string(plugins + text)
    assert not errors, errors[:3]
    root = realization.realize(entries)
    balances = {}
    for entry in entries:
        if isinstance(entry, data.Open):
            account = realization.get(root, entry.account)
            assert account is not None
            balances[entry.account] = sum(int(position.units.number) for position in account.balance)
    return balances


def read_by_hledger(text: str) -> dict[str, int]:
    """The balances that hledger computes, by account name. The file must pass its strict checks."""
    hledger(text, "check", "--strict", "ordereddates")
    rows = csv.reader(io.StringIO(hledger(text, "balance", "--flat", "--empty", "--no-total", "--output-format=csv")))
    return {name: int(amount.split()[0]) for name, amount in list(rows)[1:]}


def hledger(text: str, *arguments: str) -> str:
    """The output of hledger, which must succeed."""
    completed = subprocess.run(
        [str(HLEDGER), "-f", "-", *arguments],
        input=text.encode(),
        env={"LC_ALL": "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8", "HOME": "/"},
        capture_output=True,
        timeout=LIMIT_SECONDS,
    )
    assert completed.returncode == 0, completed.stderr.decode()
    return completed.stdout.decode()


READERS: dict[str, Callable[[str], dict[str, int]]] = {"beancount": read_by_beancount, "hledger": read_by_hledger}
both_tools = pytest.mark.parametrize("tool", ["beancount", pytest.param("hledger", marks=NEEDS_HLEDGER)])
