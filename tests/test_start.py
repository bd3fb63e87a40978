"""`python -m service` refuses to start with anything wrong: its own exit code, and one line that says what to do."""

import json
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests import live, postgres
from tests.conftest import Urls

Environment = dict[str, str]


def refused(environment: Environment, code: int) -> dict[str, Any]:
    """The one line that it printed."""
    exit_code, lines = live.run(["service"], environment)
    assert (exit_code, len(lines)) == (code, 1), lines
    assert (lines[0]["event"], lines[0]["level"], lines[0]["exit_code"]) == ("startup.failed", "critical", code)
    assert lines[0]["fix"]
    return lines[0]


def test_a_host_where_nothing_listens(environment: Environment) -> None:
    """69, with the place where it looked and without the password."""
    url = f"postgresql://ledger_service:hunter2@127.0.0.1:{live.free_port()}/ledger"
    line = refused(environment | {"DATABASE_URL": url}, 69)
    assert "127.0.0.1" in line["message"]
    assert "check DATABASE_URL" in line["fix"]
    assert "hunter2" not in json.dumps(line)


def test_a_wrong_password(environment: Environment) -> None:
    """69. A server of our own is asked, as one that trusts everybody would not refuse."""
    with postgres.running() as server:
        url = server.service_url.replace(f":{postgres.PASSWORD}@", ":hunter2@")
        line = refused(environment | {"DATABASE_URL": url}, 69)
    assert "password authentication failed" in line["message"]
    assert "hunter2" not in json.dumps(line)


def test_a_database_that_is_not_there(environment: Environment, urls: Urls) -> None:
    """69, naming it."""
    line = refused(environment | {"DATABASE_URL": make_conninfo(urls.service, dbname="nowhere")}, 69)
    assert "nowhere" in line["message"]


def test_a_database_without_migrations(
    environment: Environment, new_database: Callable[[], AbstractContextManager[Urls]]
) -> None:
    """70, with the command that mends it. The service never migrates by itself."""
    with new_database() as empty:
        line = refused(environment | {"DATABASE_URL": empty.service}, 70)
    assert "0001_accounts_and_transfers.sql" in line["message"]
    assert "python -m service.migrate up" in line["fix"]


def test_a_login_that_may_not_be_the_services_role(
    environment: Environment, urls: Urls, owner: psycopg.Connection[Any]
) -> None:
    """69, with the grant that mends it."""
    owner.execute("CREATE ROLE ledger_stranger LOGIN PASSWORD 'stranger'")
    try:
        url = make_conninfo(urls.service, user="ledger_stranger", password="stranger")
        line = refused(environment | {"DATABASE_URL": url}, 69)
    finally:
        owner.execute("DROP ROLE ledger_stranger")
    assert "GRANT ledger_service TO ledger_stranger" in line["fix"]


def test_missing_callers(environment: Environment) -> None:
    """78, naming the variable."""
    assert "CALLERS is missing" in refused(environment | {"CALLERS": ""}, 78)["message"]


def test_three_bad_settings_at_once(environment: Environment) -> None:
    """78, naming all three."""
    line = refused(environment | {"PORT": "http", "LOG_LEVEL": "loud", "POOL_SIZE": "0"}, 78)
    assert all(name in line["message"] for name in ("PORT", "LOG_LEVEL", "POOL_SIZE"))


def test_the_development_token_in_production(environment: Environment) -> None:
    """78: what everybody can read opens nothing that matters."""
    line = refused(environment | {"ENVIRONMENT": "production"}, 78)
    assert "development token" in line["message"]


def test_a_port_that_is_taken(environment: Environment) -> None:
    """71 at once, instead of five seconds of trying."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused(environment | {"PORT": str(taken.getsockname()[1])}, 71)
    assert "set PORT" in line["fix"]


def test_check_stops_after_the_checks(environment: Environment) -> None:
    """--check ends with 0 and does not serve; the settings it shows hold no password."""
    code, lines = live.run(["service", "--check"], environment)
    assert (code, [line["event"] for line in lines]) == (0, ["startup.checked"])
    assert "password" not in json.dumps(lines)


def test_sigterm_ends_the_wait_for_the_database(environment: Environment) -> None:
    """Also as PID 1, which ignores signals that it has no handler for."""
    url = f"postgresql://nobody@127.0.0.1:{live.free_port()}/none"
    waiting = environment | {"DATABASE_URL": url, "STARTUP_WAIT_SECONDS": "3600"}
    with tempfile.TemporaryFile() as printed:
        process = live.start(["service"], waiting, printed)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=live.PATIENCE_SECONDS) == 128 + signal.SIGTERM


def test_waits_for_the_database_when_told_to(environment: Environment, urls: Urls) -> None:
    """With STARTUP_WAIT_SECONDS it takes a database that is there at once."""
    code, _ = live.run(["service", "--check"], environment | {"STARTUP_WAIT_SECONDS": "30"})
    assert code == 0
