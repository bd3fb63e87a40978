"""`python -m service.audit [--json] [--since NUMBER]`: check the integrity of the ledger of DATABASE_URL.

Exit codes: 0 no errors · 1 errors found · 2 usage · 69 the database · 75 the process was paused · 78 DATABASE_URL.
"""

import argparse
import json
import os
import re
import sys
from dataclasses import asdict

import psycopg

from service import config, database, session
from service.ledger import audit
from service.ledger.audit import Report

EXIT_ERRORS, EXIT_DATABASE, EXIT_PAUSED, EXIT_CONFIG = 1, 69, 75, 78  # from 69 on after sysexits.h


def main() -> int:
    """Run the audit, print its report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m service.audit", description="Check the integrity of the ledger.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--since", type=_number, default=0, metavar="NUMBER", help="trust the transfers up to NUMBER")
    options = parser.parse_args()
    url = os.environ.get("DATABASE_URL")
    if not url or not config.is_database_url(url):
        return _fail(EXIT_CONFIG, "set DATABASE_URL to postgresql://USER:PASSWORD@HOST:5432/DATABASE")
    try:
        with session.connect(url) as connection:
            session.configure(connection)
            report = audit.run(connection, options.since, _print_progress)
    except database.SnapshotEnded:
        message = (
            f"the audit was paused for {database.SNAPSHOT_IDLE_SECONDS} seconds, so the server ended it; run it again"
        )
        return _fail(EXIT_PAUSED, message)
    except psycopg.Error as error:
        return _fail(EXIT_DATABASE, f"the ledger could not be read (SQLSTATE {error.sqlstate or 'none'}): {error}")
    print(json.dumps(asdict(report)) if options.json else _as_text(report))
    return EXIT_ERRORS if report.errors else 0


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError("must be the number of a transfer, or 0")
    return int(text)


def _print_progress(check: str) -> None:
    if sys.stderr.isatty():
        print(f"{list(audit.CHECKS).index(check) + 1} of {len(audit.CHECKS)}: {check}", file=sys.stderr)


def _as_text(report: Report) -> str:
    lines = []
    for finding in report.errors:
        account = f"account {finding.account}: " if finding.account is not None else ""
        number = f"number {finding.number}: " if finding.number is not None else ""
        lines.append(f"{finding.check}: {account}{number}{finding.message}")
    found = f"{len(lines)} errors, at most {audit.MAX_FINDINGS} of each check" if lines else "clean"
    read = f"{report.accounts} accounts, {report.transfers} transfers, {report.holds} holds read"
    return "\n".join([*lines, f"{found}: {read}; numbers {report.since + 1} to {report.last_number}"])


def _fail(code: int, message: str) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
