"""Connections that `python -m service.migrate` refuses with exit code 6, before it changes anything."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dev import postgres
from service.migrate import files, runner
from tests.support.migrations import PEOPLE, TOWN, Database, refused
from tests.support.waiting import wait_until

TARGET = ("host", "port", "user", "password", "dbname")
PGBOUNCER_SETTINGS = """\
[databases]
{name} = {target}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
logfile = {folder}/log
"""


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgresql://owner:hunter2@127.0.0.1:1/none",
        "postgresql://owner:hunter2@host/db?nope=1",
        "postgresql://owner:hun%ter2@host/db",
        "postgresql://owner:hunter2@host:hunter2/db",
        "postgresql://owner:x/hunter2@127.0.0.1:1/db",
        "postgresql://owner:1/hunter2@127.0.0.1:1/db",
        "postgresql://owner:x@hunter2@127.0.0.1:1/db",
        "postgresql://owner:hunter2",
        "hunter2",
    ],
)
def test_an_unusable_url_is_refused_without_its_password(
    database: Database, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line has the reason and what to set, and no password, however the URL is malformed."""
    database.write(PEOPLE)
    code = database.run_here("up", "--json", url=url)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (code, [(line["event"], line["exit_code"]) for line in lines]) == (6, [("migration.failed", 6)])
    assert "MIGRATE_DATABASE_URL=postgresql://" in lines[0]["fix"]
    assert "hunter2" not in json.dumps(lines)


def restricted_url(database: Database) -> str:
    """The service's login with only the rights of its role, even if the login is a superuser."""
    return make_conninfo(database.urls.service, options="-c role=ledger_service")


def test_a_login_without_the_owners_rights_is_refused(database: Database) -> None:
    """The message is PostgreSQL's, and nothing is created."""
    database.write(PEOPLE)
    before = database.contents()
    code, [line] = database.run("up", MIGRATE_DATABASE_URL=restricted_url(database))
    assert (code, "permission denied" in line["message"]) == (6, True)
    assert database.contents() == before


def test_a_database_that_is_not_the_ledgers_is_refused(each: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Without rights on the schema public, without that schema, or with a schema_migration of another tool."""
    each.write(PEOPLE, TOWN)
    each.up()
    messages = []
    for change, url, commands in (
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC", restricted_url(each), ("up", "verify", "status")),
        ("DROP SCHEMA public CASCADE", each.urls.owner, ("up", "verify")),
        ("CREATE SCHEMA public; CREATE TABLE schema_migration (version text)", each.urls.owner, ("up",)),
    ):
        each.execute(change)
        for command in commands:
            assert each.run_here(command, "--json", url=url) == files.UNFIT
            [line] = map(json.loads, capsys.readouterr().out.splitlines())
            messages.append(line["message"])
            assert "DATABASE, with the owner of the tables" in line["fix"]
    assert all("permission denied for schema public" in message for message in messages[:3])
    assert ["schema" in message or "column" in message for message in messages[3:]] == [True] * 3
    assert each.query("SELECT count(*) FROM pg_attribute WHERE attrelid = 'schema_migration'::regclass") == 7


def test_a_read_only_database_is_refused(database: Database) -> None:
    """It may be a standby or a setting, so the message names both."""
    database.write(PEOPLE)
    read_only = make_conninfo(database.urls.owner, options="-c default_transaction_read_only=on")
    for command in ("up", "verify"):
        code, [line] = database.run(command, MIGRATE_DATABASE_URL=read_only)
        expected = "a standby, or a database with default_transaction_read_only = on"
        assert (code, expected in line["message"]) == (6, True)


@pytest.fixture
def pgbouncer_url(database: Database) -> Iterator[str]:
    """The URL of the database through a PgBouncer in transaction mode."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if not program:
        pytest.skip("pgbouncer is not installed: apt install pgbouncer")
    owner = conninfo_to_dict(database.urls.owner)
    with tempfile.TemporaryDirectory(dir="/tmp") as name, contextlib.ExitStack() as stack:
        folder, settings = Path(name), Path(name) / "pgbouncer.ini"
        target = " ".join(f"{key}='{value}'" for key, value in owner.items() if key in TARGET)
        settings.write_text(PGBOUNCER_SETTINGS.format(name=owner["dbname"], target=target, folder=folder))
        account = []
        if os.geteuid() == 0:  # PgBouncer refuses to run as root
            account = ["-u", "nobody"]
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        process = stack.enter_context(subprocess.Popen([program, "-q", *account, settings], stderr=subprocess.DEVNULL))
        stack.callback(process.kill)

        def is_ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with socket.socket(socket.AF_UNIX) as attempt:  # the file is there before PgBouncer listens
                return attempt.connect_ex(str(folder / ".s.PGSQL.6432")) == 0

        wait_until(is_ready, "PgBouncer listens")
        yield make_conninfo(database.urls.owner, host=name, port=6432)


def test_a_transaction_pooler_is_refused(database: Database, pgbouncer_url: str) -> None:
    """Its server sessions are shared, so a session lock is not safe; no lock and no table is left behind."""
    database.write(PEOPLE)
    with psycopg.connect(pgbouncer_url, autocommit=True) as connection:
        name = conninfo_to_dict(pgbouncer_url)["dbname"]
        assert connection.execute("SELECT current_database()").fetchone() == (name,)
    before = database.contents()
    for command in ("up", "verify", "seal"):
        code, [line] = database.run(command, MIGRATE_DATABASE_URL=pgbouncer_url)
        assert (code, "a connection pooler" in line["message"], "direct connection" in line["fix"]) == (6, True, True)
    assert database.contents() == before


def test_a_standby_is_refused(database: Database, tmp_path: Path) -> None:
    """A server in recovery accepts no writes."""
    if not postgres.installations():
        pytest.skip("no PostgreSQL is installed here: only the server of DATABASE_URL")
    database.write(PEOPLE)
    data = tmp_path / "data"
    try:
        with postgres.running(data) as server:
            pass
        (server.data / "standby.signal").touch()
        with postgres.running(data) as server:
            code, [line] = database.run("up", MIGRATE_DATABASE_URL=server.owner_url)
    finally:
        shutil.rmtree(data.resolve())
    assert (code, "a standby" in line["message"], "to the primary" in line["fix"]) == (6, True, True)


def test_an_old_postgresql_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest accepted major version is the oldest one that the tests run on."""
    database.write(PEOPLE)
    assert runner.OLDEST_MAJOR == postgres.OLDEST_MAJOR
    monkeypatch.setattr(runner, "OLDEST_MAJOR", 99)
    before = database.contents()
    assert "a PostgreSQL older than 99" in str(refused(database, files.UNFIT))
    assert database.contents() == before
