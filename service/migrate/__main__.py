"""`python -m service.migrate COMMAND`: bring the database forward, or say what is wrong with it.

Exit codes: 0 done · 1 unexpected · 2 usage, or pending with status --check · 3 drift · 4 integrity · 5 another runner
holds the lock · 6 no fit connection · 7 version conflict · 8 failed and rolled back · 9 interrupted, run again.
"""

import argparse
import logging
import os
import sys
from typing import Any

import psycopg
from psycopg import Connection

from service import config, database, logs
from service.logs import log
from service.migrate import runner
from service.migrate.files import UNFIT, MigrationError, read_files
from service.migrate.history import read_history, reconcile

COMMANDS = {
    "up": "apply what is pending",
    "status": "list what is applied and pending; with --check exit 2 when anything is pending",
    "verify": "compare files, history and live schema, and touch nothing",
    "check": "compare the files with their seal, and with --base COMMIT the seal with that commit's; no database",
    "seal": "build all in an empty database and seal what is new; make seal brings the database",
    "new": "begin the migration NAME",
}
EXIT_PENDING = 2
FIX_CONNECTION = "MIGRATE_DATABASE_URL=postgresql://OWNER:PASSWORD@HOST:5432/DATABASE, the owner's direct connection"


class Text(logging.Formatter):
    """What a person reads: the message, the lines that differ, and what mends it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or several when something is wrong."""
        fix = [f"fix: {vars(record)['fix']}"] if "fix" in vars(record) else []
        return "\n".join([super().format(record), *vars(record).get("difference", []), *fix])


def main() -> int:
    """Run one command; the exit code says how it ended."""
    arguments = _arguments()
    logs.configure()
    if not arguments.json:
        logging.root.handlers[0].setFormatter(Text())
    try:
        return _run(arguments)
    except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege) as fault:
        error = MigrationError(UNFIT, " ".join(str(fault).split()), FIX_CONNECTION)
    except MigrationError as raised:
        error = raised
    log.error(
        "%s",
        error,
        extra={
            "event": "migration.failed",
            "fix": error.fix,
            "exit_code": error.exit_code,
            "difference": error.difference,
        },
    )
    return error.exit_code


def _arguments() -> argparse.Namespace:
    lines = [f"  {name:8} {text}" for name, text in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m service.migrate",
        description="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("name", nargs="?", default="", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object for each step")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--base", metavar="COMMIT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for option, command in (("name", "new"), ("check", "status"), ("base", "check")):
        if getattr(arguments, option) and arguments.command != command:
            parser.error(f"{option} goes with {command} alone")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    done = {"event": "migration.done"}
    if arguments.command in ("check", "seal", "new"):
        from service.migrate import development  # which production never loads

        if arguments.command == "new":
            log.info("write sql/%s, then: make seal", development.new(arguments.name), extra=done)
        elif arguments.command == "seal":
            with _connect() as connection:
                log.info("%d sealed", development.seal(connection), extra=done)
        else:
            log.info("%d files are as they were sealed", development.check(arguments.base), extra=done)
        return 0
    files = read_files()
    with _connect() as connection:
        if arguments.command == "up":
            log.info("%d applied, the schema is up to date", len(runner.up(connection, files)), extra=done)
        elif arguments.command == "verify":
            log.info("all agree, %d pending", len(runner.verify(connection, files)), extra=done)
        else:
            history = read_history(connection)
            pending = reconcile(files, history)
            states = [("applied", row.name) for row in history] + [("pending", file.name) for file in pending]
            for state, name in states:
                log.info("%s %s", state, name, extra={"event": "migration.status", "state": state, "migration": name})
            return EXIT_PENDING if pending and arguments.check else 0
    return 0


def _connect() -> Connection[Any]:
    url = os.environ.get("MIGRATE_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if not url or not config.is_database_url(url):
        raise MigrationError(UNFIT, "MIGRATE_DATABASE_URL is not set, or is no connection URL", FIX_CONNECTION)
    return database.connect(url)


if __name__ == "__main__":
    sys.exit(main())
