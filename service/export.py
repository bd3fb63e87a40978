"""`python -m service.export --format csv | hledger | beancount`: write all posted transfers to stdout, by number.

It writes the transfers that are posted when it starts. The hledger and beancount formats also contain the stored
balances: the tool adds up the transfers itself and reports each balance that differs. These formats read one snapshot,
which has time limits. csv reads each page on its own, because posted transfers never change. docs/export.md describes
the formats.
Exit codes: 0 the export is complete · 1 unexpected error · 2 usage · 69 the database · 75 the output was read too
slowly · 78 DATABASE_URL.
"""

import argparse
import csv
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, TextIO

import psycopg

from service import config, database, logs, session
from service.ledger import accounts, transfers
from service.ledger.types import Account, Transfer
from service.session import Connection

EXIT_DATABASE, EXIT_TOO_SLOW, EXIT_CONFIG = 69, 75, 78  # after sysexits.h
PAGE_ROWS = 1000  # rows of one query, so that memory does not grow with the ledger
# For csv, which reads each page in a transaction of its own. The service's limit of 3 s may be short for a slow disk.
PAGE_SESSION = "SET statement_timeout = '60s'; SET default_transaction_read_only = on"
CSV_MEMBERS = (
    "number", "id", "created_at", "from", "to", "amount", "currency", "from_balance", "to_balance", "captures",
    "reverses", "reference", "metadata", "created_by",
)  # fmt: skip
NOTE = "; Amounts are whole numbers of the currency's smallest unit, such as cents.\n"
ROOT = "Assets"  # one of the five root accounts of beancount
ESCAPES = {"-": "-H", ".": "-D", "_": "-U", ":": "-C"}  # how a name writes characters that it cannot contain

# Templates for str.format.
DIALECTS = {
    "hledger": {
        "commodity": "commodity {symbol}\n",
        "account": "account {name}  ; id:{id}\n",
        "transfer": "\n{day} * ({number}) {id}\n",
        "detail": "    ; {detail}:{text}\n",
        "entry": "    {name}  {change} {symbol} = {balance} {symbol}\n",
        "balance": "\n{day} * balance\n    {name}  0 {symbol} == {balance} {symbol}\n",
    },
    "beancount": {
        "commodity": "{day} commodity {currency}\n",
        "account": '{day} open {name} {currency}\n  id: "{id}"\n',
        "transfer": '\n{day} * "{id}"\n  number: {number}\n',
        "detail": "  {detail}: {quoted}\n",
        "entry": "  {name}  {change} {currency}\n",
        "balance": "{day} balance {name}  {balance_with_children} {currency}\n",
    },
}


def main() -> int:
    """Write the export, log errors to stderr, and return the exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # if the reader closes the pipe, as head does, end without an error
    logs.configure(file=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m service.export", description="Write all transfers to stdout.")
    parser.add_argument("--format", choices=["csv", *DIALECTS], default="csv")
    dialect = DIALECTS.get(parser.parse_args().format)
    url = os.environ.get("DATABASE_URL")
    if not url or not config.is_database_url(url):
        message = "set DATABASE_URL to postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        return _fail(EXIT_CONFIG, message)
    try:
        with session.connect(url) as connection, open(1, "w", encoding="utf-8", newline="\n", closefd=False) as file:
            session.configure(connection)
            if dialect:
                connection.deadline = time.monotonic() + database.SNAPSHOT_SECONDS
                with database.read_only_snapshot(connection):
                    _write_plain_text(connection, dialect, file)
            else:
                _write_csv(connection, file)
    except database.SnapshotEnded:
        message = (
            "the export is not complete: its output was read too slowly, or the process was stopped. "
            "Write it to a file first, or use csv"
        )
        return _fail(EXIT_TOO_SLOW, message)
    except psycopg.Error as error:
        return _fail(EXIT_DATABASE, f"the export is not complete: {error}")
    return 0


def _fail(code: int, message: str) -> int:
    logs.log.error(message, extra={"event": "export.failed"})
    return code


def _write_csv(connection: Connection, file: TextIO) -> None:
    connection.execute(PAGE_SESSION)
    writer = csv.DictWriter(file, CSV_MEMBERS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for transfer in all_transfers(connection):
        writer.writerow(_values(transfer) | {"from": transfer.from_account, "to": transfer.to_account})


def _write_plain_text(connection: Connection, dialect: dict[str, str], file: TextIO) -> None:
    def write(template: str, **values: Any) -> None:
        file.write(dialect[template].format(**values))

    file.write(NOTE)
    last_day = ""
    below: Counter[tuple[str, str]] = Counter()  # the sum of the accounts below a name, by name and currency
    for account in all_accounts(connection):
        values, name = _values(account), account_name(account.id)
        last_day = max(last_day, values["day"])
        if (ROOT, account.currency) not in below:
            write("commodity", **values)
        write("account", **values, name=name)
        while name != ROOT:
            name = name.rpartition(":")[0]
            below[name, account.currency] += account.balance
    for transfer in all_transfers(connection):
        values = _values(transfer)
        last_day = max(last_day, values["day"])
        write("transfer", **values)
        for detail in ("created_at", "created_by", "captures", "reverses", "reference", "metadata"):
            if text := values[detail]:
                write("detail", detail=detail, text=text, quoted=json.dumps(text, ensure_ascii=False))
        to, source = account_name(transfer.to_account), account_name(transfer.from_account)
        write("entry", **values, name=to, change=transfer.amount, balance=transfer.to_balance)
        write("entry", **values, name=source, change=-transfer.amount, balance=transfer.from_balance)
    for account in all_accounts(connection):
        values, name = _values(account), account_name(account.id)
        # beancount checks a balance at the start of its day, and includes the accounts below the name.
        values |= {"day": date.fromisoformat(last_day) + timedelta(days=1)}
        write("balance", **values, name=name, balance_with_children=account.balance + below[name, account.currency])


def all_accounts(connection: Connection) -> Iterator[Account]:
    """All accounts, by id."""
    after = ""
    while page := accounts.list_by_id(connection, prefix="", after=after, limit=PAGE_ROWS):
        yield from page
        after = page[-1].id


def all_transfers(connection: Connection) -> Iterator[Transfer]:
    """All transfers that are posted at the start, by number. The numbers have no gaps."""
    after, last = 0, transfers.last_number(connection)
    while page := transfers.list_after(connection, after=after, limit=min(PAGE_ROWS, last - after)):
        yield from page
        after = page[-1].number or 0


def _values(row: Account | Transfer) -> dict[str, Any]:
    """The values for CSV and the templates: the columns of the row, its day, and the currency quoted for hledger."""
    if row.created_at is None:
        raise AssertionError(f"bug: {row.id} has no created_at")
    time = logs.format_time(row.created_at)
    metadata = json.dumps(row.metadata, ensure_ascii=False)
    symbol = row.currency if row.currency.isalpha() else f'"{row.currency}"'
    return vars(row) | {"created_at": time, "day": time[:10], "metadata": metadata, "symbol": symbol}


def account_name(id: str) -> str:
    """The account's name in hledger and beancount: `user:42` is `Assets:User:42`. Two ids never have the same name.

    In beancount, each part of a name begins with a capital or a digit and has only letters, digits and hyphens. So the
    first letter becomes a capital, a part that begins with a capital already ends with a hyphen, and other characters
    are escaped.
    """
    return ":".join([ROOT, *map(_part, re.split(r":(?=[A-Za-z0-9])", id))])


def _part(text: str) -> str:
    escaped = re.sub(r"[._:]|-(?![a-z0-9])", lambda match: ESCAPES[match[0]], text)
    return escaped[0].upper() + escaped[1:] + ("-" if text[0].isupper() else "")


if __name__ == "__main__":
    sys.exit(main())
