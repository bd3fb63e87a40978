"""`python -m service.audit [--json] [--since NUMBER]`: prove the books of the database of DATABASE_URL.

Exit codes: 0 clean · 1 errors found · 2 usage · 69 the database · 78 DATABASE_URL.
"""

import argparse
import json
import os
import re
import sys
from dataclasses import asdict

import psycopg

from service import config, database
from service.ledger import audit
from service.ledger.audit import Report

EXIT_ERRORS, EXIT_DATABASE, EXIT_CONFIG = 1, 69, 78  # the latter two after sysexits.h


def main() -> int:
    """The exit code. What was found is printed, with --json as one object."""
    parser = argparse.ArgumentParser(prog="python -m service.audit", description="Prove the ledger's books.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--since", type=_number, default=0, metavar="NUMBER", help="believe what is up to this number")
    options = parser.parse_args()
    url = os.environ.get("DATABASE_URL")
    if not url or not config.is_database_url(url):
        return _fail(EXIT_CONFIG, "set DATABASE_URL to postgresql://USER:PASSWORD@HOST:5432/DATABASE")
    try:
        with database.connect(url) as connection:
            database.configure(connection)
            report = audit.run(connection, options.since, _show)
    except psycopg.Error as error:
        return _fail(EXIT_DATABASE, f"the books could not be read (SQLSTATE {error.sqlstate or 'none'}): {error}")
    print(json.dumps(asdict(report)) if options.json else _text(report))
    return EXIT_ERRORS if report.errors else 0


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError("it is the number of a transfer, or 0")
    return int(text)


def _show(check: str) -> None:
    if sys.stderr.isatty():
        print(f"{list(audit.CHECKS).index(check) + 1} of {len(audit.CHECKS)}: {check}", file=sys.stderr)


def _text(report: Report) -> str:
    lines = []
    for error in report.errors:
        account = f"account {error.account}: " if error.account is not None else ""
        number = f"number {error.number}: " if error.number is not None else ""
        lines.append(f"{error.check}: {account}{number}{error.message}")
    found = f"{len(lines)} errors, at most {audit.MOST_ERRORS} of each check" if lines else "clean"
    read = f"{report.accounts} accounts, {report.transfers} transfers, {report.holds} holds read"
    return "\n".join([*lines, f"{found}: {read}; numbers {report.since + 1} to {report.last_number}"])


def _fail(code: int, message: str) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
