"""`python -m service [--check]`: check everything that can be wrong, then serve.

Exit codes: 0 stopped as told · 69 the database · 70 the schema · 71 the address · 78 the configuration · 143 told to
stop while still checking.
All checks come before gunicorn starts, which would boot a failing worker again and again.
"""

import argparse
import os
import signal
import socket
import sys
import time

import psycopg
from psycopg.conninfo import conninfo_to_dict

from service import config, database, logs, server
from service.config import Config
from service.migrate import files, history

RETRY_SECONDS = 1.0  # between two tries to reach the database: a connection costs little, a late start more
EXIT_DATABASE, EXIT_SCHEMA, EXIT_ADDRESS, EXIT_CONFIG = 69, 70, 71, 78  # after sysexits.h


def main() -> int:
    """The exit code. Does not return once gunicorn serves."""
    # First of all: as PID 1 a process without a handler of its own ignores SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    logs.configure()
    parser = argparse.ArgumentParser(prog="python -m service", description="The ledger service.")
    parser.add_argument("--check", action="store_true", help="check the configuration and the database, then stop")
    only_check = parser.parse_args().check
    try:
        settings = config.load(os.environ)
    except config.ConfigError as error:
        fix = "set the variables named; README.md, section Configuration, has all of them"
        return _failed(EXIT_CONFIG, str(error), fix)
    logs.configure(settings.log_level)
    if failure := _check_database(settings) or _check_address(settings):
        return failure
    if only_check:
        logs.log.info("all checks passed", extra={"event": "startup.checked", "settings": settings.redacted()})
    else:
        server.Server(settings).run()
    return 0


def _check_database(settings: Config) -> int:
    """Reach the database, waiting for it as long as the settings say, and compare its schema with this code's."""
    until = time.monotonic() + settings.startup_wait_seconds
    while True:
        try:
            with database.connect(settings.database_url) as connection:
                if history.exists(connection):  # else neither is the role, and the schema is what to speak of
                    database.configure(connection)
                pending = history.reconcile(files.read_files(), history.read_history(connection))
            break
        except files.MigrationError as error:
            return _failed(EXIT_SCHEMA, str(error), error.fix)
        except psycopg.Error as error:
            if time.monotonic() >= until:
                return _database_failed(settings, error)
        time.sleep(RETRY_SECONDS)
    if not pending:
        return 0
    names = ", ".join(migration.name for migration in pending)
    fix = "run python -m service.migrate up with the owner's MIGRATE_DATABASE_URL"
    return _failed(EXIT_SCHEMA, f"the database lacks migrations that this code needs: {names}", fix)


def _database_failed(settings: Config, error: psycopg.Error) -> int:
    """Say where it tried to connect and what came back, never the password."""
    parameters = conninfo_to_dict(settings.database_url)
    place = {name: parameters[name] for name in ("host", "port", "dbname", "user") if name in parameters}
    message = f"the database is not usable at {place} (SQLSTATE {error.sqlstate or 'none'}): {error}"
    fix = "check DATABASE_URL: is PostgreSQL running there, and may this user with this password open this database?"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        fix = f"as a superuser: GRANT ledger_service TO {place.get('user', 'the user of DATABASE_URL')}"
    return _failed(EXIT_DATABASE, " ".join(message.split()), fix)


def _check_address(settings: Config) -> int:
    """A port that is taken is said at once; gunicorn would try for five seconds."""
    try:
        socket.create_server((settings.host, settings.port)).close()
    except OSError as error:
        message = f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        return _failed(EXIT_ADDRESS, message, "set PORT to a free port, or HOST to an address of this machine")
    return 0


def _failed(code: int, message: str, fix: str) -> int:
    """Say in one line what is wrong and how to mend it."""
    logs.log.critical("%s", message, extra={"event": "startup.failed", "fix": fix, "exit_code": code})
    return code


if __name__ == "__main__":
    sys.exit(main())
