"""`python -m service.migrate COMMAND`: apply pending migrations, or check the database and the files.

Exit codes: 0 done · 1 unexpected error · 2 invalid command line, or pending migrations with status --check · 3 drift ·
4 integrity of the files · 5 another runner holds the lock · 6 unusable connection · 7 version conflict · 8 failed and
rolled back · 9 interrupted outside a transaction, run up again.
"""

import argparse
import logging
import os
import sys
from typing import Any

from psycopg import Connection, OperationalError
from psycopg.errors import InsufficientPrivilege, InvalidSchemaName, ReadOnlySqlTransaction, UndefinedColumn

from service import config, logs, session
from service.logs import log
from service.migrate import runner
from service.migrate.files import INTEGRITY, UNFIT, MigrationError, read_files
from service.migrate.history import read_history, reconcile

COMMANDS = {
    "up": "apply pending migrations",
    "status": "list applied and pending migrations",
    "verify": "compare files, history and live schema; changes nothing",
    "check": "compare the files with their checksums; needs no database",
    "seal": "apply all files to an empty database and add the checksums of new files; make seal provides the database",
    "new": "create the file of the next migration",
}
EXIT_PENDING = 2
FIX_CONNECTION = "set MIGRATE_DATABASE_URL=postgresql://OWNER:PASSWORD@HOST:5432/DATABASE, with the owner of the tables"
# The last one is raised if schema_migration is a table of another tool.
_UNFIT = (OperationalError, InsufficientPrivilege, ReadOnlySqlTransaction, InvalidSchemaName, UndefinedColumn)


def main() -> int:
    """Run one command; returns the exit code."""
    arguments = _arguments()
    logs.configure()
    if not arguments.json:
        logging.root.handlers[0].setFormatter(logging.Formatter())
    try:
        return _run(arguments)
    except MigrationError as raised:
        error = raised
    except _UNFIT as raised:
        error = MigrationError(UNFIT, " ".join(str(raised).split()), FIX_CONNECTION)
    except OSError as raised:
        error = MigrationError(INTEGRITY, str(raised), "git checkout -- sql, with read permission; --base needs git")
    code, fix, difference = error.exit_code, error.fix, error.difference
    text = "\n".join([str(error)] if arguments.json else [str(error), *difference, f"fix: {fix}"])
    log.error("%s", text, extra={"event": "migration.failed", "fix": fix, "exit_code": code, "difference": difference})
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.migrate")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print one JSON object for each step")
    commands.choices["status"].add_argument("--check", action="store_true", help="exit 2 if a migration is pending")
    commands.choices["check"].add_argument("--base", metavar="COMMIT", help="fail if a checksum changed since COMMIT")
    commands.choices["new"].add_argument("name", metavar="NAME", help="words_with_underscores")
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> int:
    done = {"event": "migration.done"}
    if arguments.command in ("check", "seal", "new"):
        from service.migrate import development  # not loaded in production

        if arguments.command == "new":
            log.info("created sql/%s; edit it, then run make seal", development.new(arguments.name), extra=done)
        elif arguments.command == "seal":
            with _connect() as connection:
                log.info("%d checksums added", development.seal(connection), extra=done)
        else:
            log.info("%d files match their checksums", development.check(arguments.base), extra=done)
        return 0
    files = read_files()
    with _connect() as connection:
        if arguments.command == "up":
            log.info("%d applied, the schema is up to date", len(runner.up(connection, files)), extra=done)
        elif arguments.command == "verify":
            log.info("files, history and schema agree, %d pending", len(runner.verify(connection, files)), extra=done)
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
        raise MigrationError(UNFIT, "MIGRATE_DATABASE_URL is not set, or is not a connection URL", FIX_CONNECTION)
    return session.connect(url)


if __name__ == "__main__":
    sys.exit(main())
