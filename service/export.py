"""`python -m service.export --format csv | hledger | beancount`: write the journal to stdout, to be read without us.

It is the journal of one moment, by number. In the two formats of plain-text accounting, every balance that the ledger
keeps follows as an assertion: the reader's own tool adds up the transfers and compares.
Exit codes: 0 all is written · 1 unexpected · 2 usage · 69 the database · 78 DATABASE_URL.
"""

import argparse
import csv
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, TextIO

import psycopg

from service import config, database, logs
from service.database import Connection
from service.ledger import accounts, transfers
from service.ledger.accounts import Account
from service.ledger.records import Transfer
from service.wire import timestamp

EXIT_DATABASE, EXIT_CONFIG = 69, 78  # after sysexits.h
PORTION_ROWS = 1000  # are read at once, so that memory does not grow with the books
CSV = "number id created_at from to amount currency from_balance to_balance captures reverses metadata created_by"
NOTE = "; Amounts are whole numbers of the currency's smallest unit, such as cents.\n"
ROOT = "Assets"  # of the five that beancount has
SPELLED = {"-": "-H", ".": "-D", "_": "-U", ":": "-C"}  # what an account's name spells with a hyphen and a capital

# What the tools of plain-text accounting read, for str.format.
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
        "balance": "{day} balance {name}  {with_below} {currency}\n",
    },
}


def main() -> int:
    """Write all of it, or say on stderr why not; the exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that has seen enough, such as head, ends this quietly
    logs.configure(file=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m service.export", description="Write the journal to stdout.")
    parser.add_argument("--format", choices=["csv", *DIALECTS], default="csv")
    dialect = DIALECTS.get(parser.parse_args().format)
    url = os.environ.get("DATABASE_URL")
    if not url or not config.is_database_url(url):
        fault = "set DATABASE_URL to postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        logs.log.error(fault, extra={"event": "export.failed"})
        return EXIT_CONFIG
    try:
        with database.connect(url) as connection, open(1, "w", encoding="utf-8", newline="\n", closefd=False) as file:
            database.configure(connection)
            with database.one_moment(connection):
                _write_plain_text(connection, dialect, file) if dialect else _write_csv(connection, file)
    except psycopg.Error as error:
        logs.log.error("the export is not complete: %s", error, extra={"event": "export.failed"})
        return EXIT_DATABASE
    return 0


def _write_csv(connection: Connection, file: TextIO) -> None:
    writer = csv.DictWriter(file, CSV.split(), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for transfer in all_transfers(connection):
        writer.writerow(_values(transfer) | {"from": transfer.from_account, "to": transfer.to_account})


def _write_plain_text(connection: Connection, dialect: dict[str, str], file: TextIO) -> None:
    def write(part: str, **values: Any) -> None:
        file.write(dialect[part].format(**values))

    file.write(NOTE)
    last_day = ""
    below: Counter[tuple[str, str]] = Counter()  # the money in the accounts below a name, by currency
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
        for detail in ("created_at", "created_by", "captures", "reverses", "metadata"):
            if text := values[detail]:
                write("detail", detail=detail, text=text, quoted=json.dumps(text, ensure_ascii=False))
        to, source = account_name(transfer.to_account), account_name(transfer.from_account)
        write("entry", **values, name=to, change=transfer.amount, balance=transfer.to_balance)
        write("entry", **values, name=source, change=-transfer.amount, balance=transfer.from_balance)
    for account in all_accounts(connection):
        values, name = _values(account), account_name(account.id)
        # Beancount compares what is there in the morning, and counts the accounts below with the one above.
        values |= {"day": date.fromisoformat(last_day) + timedelta(days=1)}
        write("balance", **values, name=name, with_below=account.balance + below[name, account.currency])


def all_accounts(connection: Connection) -> Iterator[Account]:
    """Every account, by id."""
    after = ""
    while portion := accounts.page(connection, prefix="", after=after, limit=PORTION_ROWS):
        yield from portion
        after = portion[-1].id


def all_transfers(connection: Connection) -> Iterator[Transfer]:
    """Every posted transfer, by number."""
    after = 0
    while portion := transfers.read_on(connection, after=after, limit=PORTION_ROWS):
        yield from portion
        after = portion[-1].number or 0


def _values(row: Account | Transfer) -> dict[str, Any]:
    """The columns of the row as they are written, its day, and its currency as hledger wants it."""
    if row.created_at is None:
        raise AssertionError(f"bug: {row.id} was posted at no time")
    time = timestamp(row.created_at)
    metadata = json.dumps(row.metadata, ensure_ascii=False)
    symbol = row.currency if row.currency.isalpha() else f'"{row.currency}"'
    return vars(row) | {"created_at": time, "day": time[:10], "metadata": metadata, "symbol": symbol}


def account_name(id: str) -> str:
    """The account under Assets whose name is the id's, readable and never shared by two ids.

    user:42 is User:42. Beancount wants each part to begin with a capital or a digit and to have letters, digits and
    hyphens alone: a part that begins with a capital already gets a hyphen at its end, and the rest is spelled.
    """
    return ":".join([ROOT, *map(_part, re.split(r":(?=[A-Za-z0-9])", id))])


def _part(text: str) -> str:
    spelled = re.sub(r"[._:]|-(?![a-z0-9])", lambda match: SPELLED[match[0]], text)
    return spelled[0].upper() + spelled[1:] + "-" * text[0].isupper()


if __name__ == "__main__":
    sys.exit(main())
