"""`python -m service [--check]`: run the startup checks, then serve.

Exit codes: 0 stopped by a signal, or all checks passed · 2 the command line · 69 the database · 70 the schema ·
71 the address or the limit of open files · 78 the configuration · 143 SIGTERM during the checks.
The checks run before gunicorn starts, because gunicorn would restart a failing worker again and again.
"""

if __name__ == "__main__":  # not if a test imports this module
    # The first statement: a module that is imported earlier keeps the blocking functions of the standard library.
    from gevent import monkey

    monkey.patch_all()

import argparse
import os
import signal
import socket
import sys
import time

import psycopg

from service import config, log_writer, logs, server, session
from service.config import Config
from service.migrate import files, history

CHECK_SECONDS = 10.0  # for the statements of one check of the database, which take milliseconds
RETRY_SECONDS = 1.0  # between two attempts to reach the database: an attempt costs little
EXIT_DATABASE, EXIT_SCHEMA, EXIT_SYSTEM, EXIT_CONFIG = 69, 70, 71, 78  # after sysexits.h


def main() -> int:
    """Run the checks and return the exit code. If they pass and gunicorn serves, this does not return."""
    # This comes first: a process that runs as PID 1 ignores SIGTERM until it has a handler.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    logs.configure()
    parser = argparse.ArgumentParser(prog="python -m service", description="The ledger service.")
    parser.add_argument("--check", action="store_true", help="run the startup checks, then stop")
    only_check = parser.parse_args().check
    try:
        settings = config.load(os.environ)
    except config.ConfigError as error:
        fix = "set the variables that the message names; README.md, section Configuration, lists all variables"
        return _fail(EXIT_CONFIG, str(error), fix)
    logs.configure(settings.log_level)
    if failure := _check_database(settings) or _check_address(settings) or _check_files():
        return failure
    if only_check:
        logs.log.info("all checks passed", extra={"event": "startup.checked", "settings": settings.redacted()})
    else:
        log_writer.install()
        server.Server(settings, server.connection_limit()).run()
    return 0


def _check_database(settings: Config) -> int:
    """Check the schema. If the database is not usable, retry for STARTUP_WAIT_SECONDS."""
    until = time.monotonic() + settings.startup_wait_seconds
    while True:
        try:
            return _check_schema(settings) or _check_durability(settings)
        except files.MigrationError as error:
            return _fail(EXIT_SCHEMA, str(error), error.fix)
        except psycopg.Error as error:
            if time.monotonic() >= until:
                return _fail_database(settings, error)
        time.sleep(RETRY_SECONDS)


def _check_schema(settings: Config) -> int:
    """Compare the migrations of the database with those of this code. Raises MigrationError or psycopg.Error."""
    with _connect(settings) as connection:
        if history.has_history(connection):  # if not, the role may be missing too, but the schema is the error
            session.configure(connection)
        pending = history.reconcile(files.read_files(), history.read_history(connection))
    if not pending:
        return 0
    names = ", ".join(migration.name for migration in pending)
    fix = "run python -m service.migrate up with the owner's MIGRATE_DATABASE_URL"
    return _fail(EXIT_SCHEMA, f"the database lacks migrations that this code needs: {names}", fix)


def _check_durability(settings: Config) -> int:
    """Check that the server keeps what it acknowledges. A server for development may lose it."""
    if settings.environment == "development":
        return 0
    with _connect(settings) as connection:
        session.configure(connection)
        unsafe = session.find_unsafe_settings(connection)
    if not unsafe:
        return 0
    found = ", ".join(f"{name} = {value}" for name, value in unsafe.items())
    wanted = ", ".join(f"{name} = {' or '.join(session.DURABLE[name])}" for name in unsafe)
    message = f"the database can lose acknowledged transfers, because of its settings: {found}"
    return _fail(EXIT_DATABASE, message, f"set {wanted}; a database for tests needs ENVIRONMENT=development")


def _connect(settings: Config) -> session.Connection:
    """A connection for one check. A server that does not respond must not stop the start without a message."""
    connection = session.connect(settings.database_url)
    connection.deadline = time.monotonic() + CHECK_SECONDS
    return connection


def _fail_database(settings: Config, error: psycopg.Error) -> int:
    """Log the error and where the service tried to connect, without the password."""
    location = config.database_location(settings.database_url)
    message = f"the database is not usable at {location} (SQLSTATE {error.sqlstate or 'none'}): {error}"
    fix = "check DATABASE_URL: PostgreSQL must listen there and accept this user, password and database"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        fix = f"as a superuser: GRANT ledger_service TO {location.get('user', 'the user of DATABASE_URL')}"
    return _fail(EXIT_DATABASE, " ".join(message.split()), fix)


def _check_address(settings: Config) -> int:
    """Check that the address is free: gunicorn itself would retry for five seconds."""
    try:
        socket.create_server((settings.host, settings.port)).close()
    except OSError as error:
        message = f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        return _fail(EXIT_SYSTEM, message, "set PORT to a free port, or HOST to an address of this machine")
    return 0


def _check_files() -> int:
    """Raise the limit of open files. Log it if it allows fewer connections than the service is made for."""
    connections = server.connection_limit()
    fix = f"set the hard limit of open files (ulimit -Hn) to {server.MAX_CONNECTIONS + server.RESERVED_FILES} or more"
    message = f"the limit of open files allows only {connections} connections"
    if connections < server.MIN_CONNECTIONS:
        return _fail(EXIT_SYSTEM, message, fix)
    if connections < server.MAX_CONNECTIONS:
        logs.log.warning("%s", message, extra={"event": "startup.few_files", "fix": fix})
    return 0


def _fail(code: int, message: str, fix: str) -> int:
    """Log in one line what failed and how to fix it, and return the exit code."""
    logs.log.critical("%s", message, extra={"event": "startup.failed", "fix": fix, "exit_code": code})
    return code


if __name__ == "__main__":
    sys.exit(main())
