"""`python -m service.migrate up | status`: bring the database forward, or say what it has.

Exit codes: 0 done · 1 unexpected · 2 usage · 4 integrity · 5 another runner holds the lock · 6 no fit connection ·
8 failed and rolled back.
"""

import argparse
import os
import sys
from typing import Any

import psycopg

from service import config, database, logs
from service.logs import log
from service.migrate.history import IntegrityError, read_files, read_history, reconcile
from service.migrate.runner import Failed, Locked, up

NO_FIT_CONNECTION = 6
EXIT_CODES: dict[type[Exception], int] = {IntegrityError: 4, Locked: 5, psycopg.Error: NO_FIT_CONNECTION, Failed: 8}


def main() -> int:
    """Run one command; the exit code says how it ended."""
    parser = argparse.ArgumentParser(prog="python -m service.migrate", description="Migrate the ledger's database.")
    parser.add_argument("command", choices=["up", "status"])
    command = parser.parse_args().command
    logs.configure()
    url = os.environ.get("MIGRATE_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if not url or not config.is_database_url(url):
        fault = "set MIGRATE_DATABASE_URL to postgresql://OWNER:PASSWORD@HOST:5432/DATABASE"
        log.error(fault, extra={"event": "migration.failed"})
        return NO_FIT_CONNECTION
    try:
        with database.connect(url) as connection:
            _up(connection) if command == "up" else _status(connection)
    except tuple(EXIT_CODES) as error:
        log.error("%s", error, extra={"event": "migration.failed"})
        return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
    return 0


def _up(connection: psycopg.Connection[Any]) -> None:
    applied = up(connection)
    log.info("%d applied, the schema is up to date", len(applied), extra={"event": "migration.done"})


def _status(connection: psycopg.Connection[Any]) -> None:
    history = read_history(connection)
    for applied in history:
        log.info("%s is applied", applied.name, extra={"event": "migration.status", "state": "applied"})
    for migration in reconcile(read_files(), history):
        log.info("%s is pending", migration.name, extra={"event": "migration.status", "state": "pending"})


if __name__ == "__main__":
    sys.exit(main())
