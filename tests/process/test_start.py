"""`python -m service` ends before it serves if a startup check fails: with an exit code, and one line that says why."""

import json
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from dev import postgres
from service import config
from service.migrate import runner
from service.migrate.files import read_files
from tests.support import live
from tests.support.ledger import Urls
from tests.support.waiting import LIMIT_SECONDS

Environment = dict[str, str]


def failed_start(environment: Environment, code: int) -> dict[str, Any]:
    """The one line that a failed start prints."""
    exit_code, lines = live.run(["service"], environment)
    assert (exit_code, len(lines)) == (code, 1), lines
    assert (lines[0]["event"], lines[0]["level"], lines[0]["exit_code"]) == ("startup.failed", "critical", code)
    assert lines[0]["fix"]
    return lines[0]


def test_an_unreachable_host_ends_the_start(environment: Environment) -> None:
    """The exit code is 69; the line names the host and does not contain the password."""
    url = f"postgresql://ledger_service:hunter2@127.0.0.1:{live.free_port()}/ledger"
    line = failed_start(environment | {"DATABASE_URL": url}, 69)
    assert "127.0.0.1" in line["message"]
    assert "check DATABASE_URL" in line["fix"]
    assert "hunter2" not in json.dumps(line)


def test_an_invalid_password_ends_the_start(environment: Environment) -> None:
    """The exit code is 69. The test starts its own server, because another server may trust all local users."""
    with postgres.running() as server:
        url = server.service_url.replace(f":{postgres.PASSWORD}@", ":hunter2@")
        line = failed_start(environment | {"DATABASE_URL": url}, 69)
    assert "password authentication failed" in line["message"]
    assert "hunter2" not in json.dumps(line)


def test_a_server_that_can_lose_acknowledged_transfers_ends_the_start(environment: Environment) -> None:
    """The exit code is 69; the line has the settings, and the values that are needed. Development accepts them."""
    callers = environment["CALLERS"].replace(config.DEVELOPMENT_TOKEN_SHA256, "a" * 64)
    production = environment | {"ENVIRONMENT": "production", "CALLERS": callers}
    with postgres.running() as server, psycopg.connect(server.owner_url, autocommit=True) as owner:
        runner.up(owner, read_files())
        line = failed_start(production | {"DATABASE_URL": server.service_url}, 69)
        assert "fsync = off, full_page_writes = off, synchronous_commit = off" in line["message"]
        assert "synchronous_commit = on or remote_apply" in line["fix"]
        development = environment | {"DATABASE_URL": server.service_url, "PORT": str(live.free_port())}
        assert live.run(["service", "--check"], development)[0] == 0


def test_an_unknown_database_ends_the_start(environment: Environment, urls: Urls) -> None:
    """The exit code is 69; the line names the database."""
    line = failed_start(environment | {"DATABASE_URL": make_conninfo(urls.service, dbname="nowhere")}, 69)
    assert "nowhere" in line["message"]


def test_a_database_without_migrations_ends_the_start(
    environment: Environment, new_database: Callable[[], AbstractContextManager[Urls]]
) -> None:
    """The exit code is 70; the line has the command that migrates. The service itself never migrates."""
    with new_database() as empty:
        line = failed_start(environment | {"DATABASE_URL": empty.service}, 70)
    assert "0001_accounts_and_transfers.sql" in line["message"]
    assert "python -m service.migrate up" in line["fix"]


def test_a_login_without_the_role_ends_the_start(
    environment: Environment, urls: Urls, owner: psycopg.Connection[Any]
) -> None:
    """The exit code is 69; the line has the missing GRANT."""
    owner.execute("CREATE ROLE ledger_stranger LOGIN PASSWORD 'stranger'")
    try:
        url = make_conninfo(urls.service, user="ledger_stranger", password="stranger")
        line = failed_start(environment | {"DATABASE_URL": url}, 69)
    finally:
        owner.execute("DROP ROLE ledger_stranger")
    assert "GRANT ledger_service TO ledger_stranger" in line["fix"]


def test_missing_callers_end_the_start(environment: Environment) -> None:
    """The exit code is 78; the line names the variable."""
    assert "CALLERS is missing" in failed_start(environment | {"CALLERS": ""}, 78)["message"]


def test_three_invalid_settings_are_reported_in_one_line(environment: Environment) -> None:
    """The exit code is 78; the line names all three variables."""
    line = failed_start(environment | {"PORT": "http", "LOG_LEVEL": "loud", "POOL_SIZE": "0"}, 78)
    assert all(name in line["message"] for name in ("PORT", "LOG_LEVEL", "POOL_SIZE"))


def test_the_development_token_in_production_ends_the_start(environment: Environment) -> None:
    """The exit code is 78, because the token is public."""
    line = failed_start(environment | {"ENVIRONMENT": "production"}, 78)
    assert "development token" in line["message"]


def test_a_port_in_use_ends_the_start(environment: Environment) -> None:
    """The exit code is 71, without the five seconds for which gunicorn would retry."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = failed_start(environment | {"PORT": str(taken.getsockname()[1])}, 71)
    assert "set PORT" in line["fix"]


def test_check_ends_after_the_checks(environment: Environment) -> None:
    """--check returns 0 and does not serve; the settings that it prints contain no password."""
    code, lines = live.run(["service", "--check"], environment)
    assert (code, [line["event"] for line in lines]) == (0, ["startup.checked"])
    assert "password" not in json.dumps(lines)


def test_sigterm_ends_the_wait_for_the_database(environment: Environment) -> None:
    """The process has a handler, which it needs as PID 1: the kernel drops signals without one."""
    with socket.create_server(("127.0.0.1", 0)) as database, tempfile.TemporaryFile() as printed:
        database.settimeout(LIMIT_SECONDS)
        url = f"postgresql://u@127.0.0.1:{database.getsockname()[1]}/none?sslmode=disable&gssencmode=disable"
        process = live.start(["service"], environment | {"DATABASE_URL": url, "STARTUP_WAIT_SECONDS": "3600"}, printed)
        try:
            for _ in range(2):  # the second attempt shows that the first one did not end the process
                database.accept()[0].close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=LIMIT_SECONDS) == 128 + signal.SIGTERM
        finally:
            process.kill()


def test_a_startup_wait_does_not_delay_the_start(environment: Environment) -> None:
    """With STARTUP_WAIT_SECONDS, a database that is usable now is used now."""
    code, _ = live.run(["service", "--check"], environment | {"STARTUP_WAIT_SECONDS": "3600"})
    assert code == 0
