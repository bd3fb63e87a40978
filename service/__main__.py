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
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from service import config, database, logs, server
from service.config import Config
from service.migrate import files, history

EXIT_DATABASE, EXIT_SCHEMA, EXIT_ADDRESS, EXIT_CONFIG = 69, 70, 71, 78  # after sysexits.h
INSUFFICIENT_PRIVILEGE = "42501"


class StartupError(Exception):
    """The service cannot start. Message and fix are logged; the process ends with the code."""

    def __init__(self, code: int, message: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


def main() -> int:
    """The exit code. Does not return once gunicorn serves."""
    # First of all: as PID 1 a process without a handler of its own ignores SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    logs.configure()
    parser = argparse.ArgumentParser(prog="python -m service", description="The ledger service.")
    parser.add_argument("--check", action="store_true", help="check the configuration and the database, then stop")
    only_check = parser.parse_args().check
    try:
        settings = _configuration()
        _check_database(settings)
        _check_address(settings)
    except StartupError as error:
        logs.log.critical("%s", error, extra={"event": "startup.failed", "fix": error.fix, "exit_code": error.code})
        return error.code
    if only_check:
        logs.log.info("all checks passed", extra={"event": "startup.checked", "settings": settings.redacted()})
        return 0
    server.serve(settings)
    return 0


def _configuration() -> Config:
    try:
        settings = config.load(os.environ)
    except config.ConfigError as error:
        fix = "set the variables named; README.md, section Configuration, has all of them"
        raise StartupError(EXIT_CONFIG, str(error), fix) from None
    logs.configure(settings.log_level)
    return settings


def _check_database(settings: Config) -> None:
    """Reach the database, waiting for it as long as the settings say, and compare its schema with this code's."""
    until = time.monotonic() + settings.startup_wait_seconds
    while True:
        try:
            with database.connect(settings.database_url) as connection:
                if history.exists(connection):  # else neither is the role, and the schema is what to speak of
                    database.configure(connection)
                _check_schema(connection)
            return
        except psycopg.Error as error:
            if time.monotonic() >= until:
                raise _database_error(settings, error) from None
        time.sleep(1)


def _check_schema(connection: psycopg.Connection[Any]) -> None:
    try:
        pending = history.reconcile(files.read_files(), history.read_history(connection))
    except files.MigrationError as error:
        raise StartupError(EXIT_SCHEMA, str(error), error.fix) from None
    if pending:
        fix = "run python -m service.migrate up with the owner's MIGRATE_DATABASE_URL"
        names = ", ".join(migration.name for migration in pending)
        raise StartupError(EXIT_SCHEMA, f"the database lacks migrations that this code needs: {names}", fix)


def _database_error(settings: Config, error: psycopg.Error) -> StartupError:
    """Where it tried to connect and what came back, never the password."""
    place = {
        name: value
        for name, value in conninfo_to_dict(settings.database_url).items()
        if name in ("host", "port", "dbname", "user")
    }
    message = f"the database is not usable at {place} (SQLSTATE {error.sqlstate or 'none'}): {error}"
    fix = "check DATABASE_URL: is PostgreSQL running there, and may this user with this password open this database?"
    if error.sqlstate == INSUFFICIENT_PRIVILEGE:
        fix = f"as a superuser: GRANT ledger_service TO {place.get('user', 'the user of DATABASE_URL')}"
    return StartupError(EXIT_DATABASE, " ".join(message.split()), fix)


def _check_address(settings: Config) -> None:
    """A port that is taken is said at once; gunicorn would try for five seconds."""
    try:
        with socket.create_server((settings.host, settings.port)):
            pass
    except OSError as error:
        message = f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        raise StartupError(
            EXIT_ADDRESS, message, "set PORT to a free port, or HOST to an address of this machine"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
