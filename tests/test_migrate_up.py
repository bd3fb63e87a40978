"""`python -m service.migrate`: its commands, its exit codes, and the connections that it refuses."""

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service import VERSION
from service.migrate import files, runner
from service.migrate.files import MigrationError
from tests import live, postgres
from tests.migrations import PEOPLE, TOWN, Database


def text(database: Database, *command: str, url: str | None = None) -> tuple[int, str]:
    """Exit code and text of a command, for people."""
    environment = {"PATH": os.environ["PATH"], "MIGRATE_DATABASE_URL": database.urls.owner if url is None else url}
    with tempfile.TemporaryFile() as printed:
        code = live.start(["service.migrate", *command], environment, printed, database.copied()).wait()
        printed.seek(0)
        return code, printed.read().decode()


def test_status_up_status(database: Database) -> None:
    """Pending, applied, and nothing left to do; every line is JSON with --json."""
    database.write(PEOPLE, TOWN)
    codes, events = [], []
    for command in (["status"], ["status", "--check"], ["up"], ["status", "--check"], ["up"], ["verify"], ["check"]):
        code, lines = database.run(*command)
        codes.append(code)
        events += [(line["event"], line.get("state"), line.get("migration")) for line in lines]
    names = ("0001_a.sql", "0002_b.sql")
    assert codes == [0, 2, 0, 0, 0, 0, 0]
    assert events == [
        *(("migration.status", "pending", name) for name in names * 2),
        *(("migration.applied", None, name) for name in names),
        ("migration.done", None, None),
        *(("migration.status", "applied", name) for name in names),
        *[("migration.done", None, None)] * 3,
    ]


def test_people_read_text(database: Database) -> None:
    """A line for each step; of what is wrong the message, the lines that differ and the way out."""
    database.write(PEOPLE)
    assert text(database, "status") == (0, "pending 0001_a.sql\n")
    assert text(database, "up") == (0, "0001_a.sql applied\n1 applied, the schema is up to date\n")
    assert text(database, "verify") == (0, "all agree, 0 pending\n")
    database.execute("ALTER TABLE person ADD COLUMN mine text")
    code, printed = text(database, "up")
    first, second, third = printed.splitlines()
    assert (code, first) == (3, "the live schema is not what the migrations left")
    assert (second, third.partition(" ")[0]) == ("+ column person.mine text", "fix:")


def test_the_history_says_who_and_when(each: Database) -> None:
    """A row tells by whom, with which code and how long, and keeps the schema as it was then."""
    each.write(PEOPLE)
    each.up()
    found = each.ask(
        "SELECT (applied_by = current_user, app_version, duration_ms > 0, applied_at <= now(), min_code)::text"
        " FROM schema_migration"
    )
    assert found == f"(t,{VERSION},t,t,0)"
    assert each.ask("SELECT schema FROM schema_migration") == each.state()[1] == files.read_files(each.sql)[0].snapshot


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
def test_no_database_is_exit_code_6(database: Database, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says why and what to set, and never repeats a password, however the URL is broken."""
    database.write(PEOPLE)
    code = database.inside("up", "--json", url=url)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (code, [(line["event"], line["exit_code"]) for line in lines]) == (6, [("migration.failed", 6)])
    assert "MIGRATE_DATABASE_URL=postgresql://" in lines[0]["fix"]
    assert "hunter2" not in json.dumps(lines)


def restricted(database: Database) -> str:
    """The service's login and no more than its role, also where the login is a superuser's."""
    return make_conninfo(database.urls.service, options="-c role=ledger_service")


def test_a_login_without_the_owners_rights_is_exit_code_6(database: Database) -> None:
    """It is told so, and nothing is made."""
    database.write(PEOPLE)
    before = database.everything()
    code, [line] = database.run("up", MIGRATE_DATABASE_URL=restricted(database))
    assert (code, "permission denied" in line["message"]) == (6, True)
    assert database.everything() == before


def test_a_database_that_is_not_the_ledgers_is_exit_code_6(each: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a way into the schema public, without that schema, and with a schema_migration of somebody else's."""
    each.write(PEOPLE, TOWN)
    each.up()
    told = []
    for change, url, commands in (
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC", restricted(each), ("up", "verify", "status")),
        ("DROP SCHEMA public CASCADE", each.urls.owner, ("up", "verify")),
        ("CREATE SCHEMA public; CREATE TABLE schema_migration (version text)", each.urls.owner, ("up",)),
    ):
        each.execute(change)
        for command in commands:
            assert each.inside(command, "--json", url=url) == files.UNFIT
            [line] = map(json.loads, capsys.readouterr().out.splitlines())
            told.append(line["message"])
            assert "DATABASE, the ledger's, as its owner" in line["fix"]
    assert all("permission denied for schema public" in message for message in told[:3])
    assert ["schema" in message or "column" in message for message in told[3:]] == [True] * 3
    assert each.ask("SELECT count(*) FROM pg_attribute WHERE attrelid = 'schema_migration'::regclass") == 7


def test_a_database_that_takes_no_writes_is_exit_code_6(database: Database) -> None:
    """As a standby, which it may be: the message names both."""
    database.write(PEOPLE)
    read_only = make_conninfo(database.urls.owner, options="-c default_transaction_read_only=on")
    for command in ("up", "verify"):
        code, [line] = database.run(command, MIGRATE_DATABASE_URL=read_only)
        assert (code, "a standby, or default_transaction_read_only is on" in line["message"]) == (6, True)


def test_status_does_not_depend_on_the_search_path(database: Database) -> None:
    """What was applied is found in public, wherever the login looks first."""
    database.write(PEOPLE)
    database.up()
    elsewhere = make_conninfo(database.urls.owner, options="-c search_path=other")
    assert database.inside("status", "--check", url=elsewhere) == 0


@pytest.mark.parametrize(
    "words", [["up", "3"], ["up", "--check"], ["status", "--base", "HEAD"], ["new", "x", "--check"], ["down"], []]
)
def test_a_wrong_command_does_nothing(database: Database, words: list[str]) -> None:
    """2: an option of another command is refused, as whoever gave it expects something that would not happen."""
    database.write(PEOPLE)
    before = database.everything()
    code, printed = text(database, *words)
    assert (code, "usage:" in printed) == (2, True)
    assert database.everything() == before


class TestNew:
    """`new NAME`"""

    def test_begins_the_next_file(self, database: Database) -> None:
        """It has the next number, and is in order but for its seal."""
        database.write(PEOPLE)
        assert text(database, "new", "add_town") == (0, "write sql/0002_add_town.sql, then: make seal\n")
        assert [file.name for file in files.read_files(database.sql, unsealed=True)][1:] == ["0002_add_town.sql"]

    @pytest.mark.parametrize("name", ["", "Town", "add-town", "a b", "../town", "a/b", "a/0002_b", "town.sql", "tówn"])
    def test_refuses_bad_names(self, database: Database, name: str) -> None:
        """4, and no file is made."""
        database.write(PEOPLE)
        assert database.inside("new", name) == 4
        assert set(os.listdir(database.sql)) == {"0001_a.sql", files.SEAL, files.SNAPSHOT}


class TestSeal:
    """`seal`, which `make seal` gives an empty database."""

    def test_without_any_file(self, database: Database) -> None:
        """0, and nothing is written."""
        assert text(database, "seal") == (0, "0 sealed\n")
        assert os.listdir(database.sql) == []

    def test_appends_and_never_rewrites(self, database: Database) -> None:
        """A second file adds a line below the first one, whose bytes stay; a third run adds nothing."""
        seals = []
        for content, number in ((PEOPLE, 1), (TOWN, 1), (None, 0)):
            if content:
                database.write(content, seal=False)
            database.reset()
            code, printed = text(database, "seal")
            assert (code, printed.splitlines()[-1]) == (0, f"{number} sealed")
            seals.append((database.sql / files.SEAL).read_text())
        assert seals[1].startswith(seals[0])
        assert len(seals[1].splitlines()) == 3
        assert seals[2] == seals[1]
        assert (database.sql / files.SNAPSHOT).read_text() == f"{database.state()[1]}\n"

    def test_refuses_a_database_that_is_not_empty(self, database: Database) -> None:
        """6, before anything is applied or written: a table that was there, or a migration that was applied."""
        database.write(PEOPLE)
        for fill in ("CREATE TABLE theirs (id integer)", "up"):
            database.reset()
            if fill == "up":
                database.up()
            else:
                database.execute(fill)
            (database.sql / "0002_b.sql").write_text(TOWN)
            before, sealed = database.everything(), (database.sql / files.SEAL).read_text()
            code, [line] = database.run("seal")
            assert (code, "not empty" in line["message"]) == (6, True)
            assert (database.everything(), (database.sql / files.SEAL).read_text()) == (before, sealed)
            (database.sql / "0002_b.sql").unlink()

    def test_an_unmerged_file_is_sealed_again(self, database: Database) -> None:
        """As the message about an edit says: its line is taken out, and `seal` writes it anew with the snapshot."""
        database.write(PEOPLE, TOWN)
        (database.sql / "0002_b.sql").write_text("ALTER TABLE person ADD COLUMN street text;\n")
        code, [line] = database.run("check")
        assert (code, "take its line out of sql/migrations.sum and run make seal" in line["fix"]) == (4, True)
        seal = database.sql / files.SEAL
        seal.write_text("".join(seal.read_text().splitlines(keepends=True)[:-1]))
        assert database.run("seal")[0] == 0
        assert "person.street" in str(files.read_files(database.sql)[1].snapshot)
        assert (database.run("check")[0], database.run("up")[0]) == (0, 0)

    def test_an_edited_file_is_not_sealed(self, database: Database) -> None:
        """4: what was sealed is compared first, so that sealing covers nothing up."""
        database.write(PEOPLE)
        with (database.sql / "0001_a.sql").open("a") as file:
            file.write("\n")
        sealed = (database.sql / files.SEAL).read_text()
        assert database.run("seal")[0] == 4
        assert (database.sql / files.SEAL).read_text() == sealed

    def test_an_older_seal_of_another_major_keeps_its_snapshot(self, each: Database) -> None:
        """With nothing new to seal the snapshot stays that of the seal, whatever PostgreSQL `seal` ran on."""
        shutil.rmtree(each.sql)
        shutil.copytree(live.ROOT / "sql", each.sql)
        each.seal()
        for name in (files.SEAL, files.SNAPSHOT):
            assert (each.sql / name).read_text() == (live.ROOT / "sql" / name).read_text()


@pytest.fixture
def bouncer(database: Database) -> Iterator[str]:
    """The URL of a PgBouncer in transaction mode before the database."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if not program:
        pytest.skip("pgbouncer is not installed: apt install pgbouncer")
    owner = conninfo_to_dict(database.urls.owner)
    with tempfile.TemporaryDirectory(dir="/tmp") as name, contextlib.ExitStack() as stack:
        folder, settings = Path(name), Path(name) / "pgbouncer.ini"
        target = " ".join(f"{key}='{value}'" for key, value in owner.items() if key in TARGET)
        settings.write_text(BOUNCER.format(name=owner["dbname"], target=target, folder=folder))
        account = []
        if os.geteuid() == 0:  # as whom it does not run
            account = ["-u", "nobody"]
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        process = stack.enter_context(subprocess.Popen([program, "-q", *account, settings], stderr=subprocess.DEVNULL))
        stack.callback(process.terminate)
        while not (folder / ".s.PGSQL.6432").exists():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.01)
        yield make_conninfo(database.urls.owner, host=name, port=6432)


TARGET = ("host", "port", "user", "password", "dbname")
BOUNCER = """\
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


def test_a_pooler_is_refused(database: Database, bouncer: str) -> None:
    """6 through PgBouncer in transaction mode, where a lock would belong to no one; it leaves none, and no table."""
    database.write(PEOPLE)
    with psycopg.connect(bouncer, autocommit=True) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == (conninfo_to_dict(bouncer)["dbname"],)
    before = database.everything()
    for command in ("up", "verify", "seal"):
        code, [line] = database.run(command, MIGRATE_DATABASE_URL=bouncer)
        assert (code, "a pooler" in line["message"], "direct connection" in line["fix"]) == (6, True, True)
    assert database.everything() == before


def test_a_standby_is_refused(database: Database, tmp_path: Path) -> None:
    """6 on a server in recovery, before anything is tried."""
    if not postgres.installations():
        pytest.skip("there is no PostgreSQL to start: only the one of DATABASE_URL")
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
    """6 below the oldest one that the tests run on."""
    database.write(PEOPLE)
    assert runner.OLDEST_MAJOR == postgres.OLDEST_MAJOR
    monkeypatch.setattr(runner, "OLDEST_MAJOR", 99)
    before = database.everything()
    with pytest.raises(MigrationError, match="a PostgreSQL older than 99") as caught:
        database.up()
    assert (caught.value.exit_code, database.everything()) == (files.UNFIT, before)


def test_a_hostile_login_changes_nothing(each: Database) -> None:
    """Settings of the login, such as its search_path, its dates or a short timeout, do not reach files and schema."""
    each.write(
        PEOPLE,
        "CREATE TABLE constant (wait interval DEFAULT '1 day 2 hours', bytes bytea DEFAULT '\\x00ff',"
        " half double precision DEFAULT '0.30000000000000004'::double precision,"
        " CONSTRAINT short CHECK (wait < interval '3 days 1 hour'), CONSTRAINT sharp CHECK (bytes <> '\\xff00'));\n",
        "SELECT pg_sleep(0.3); -- 1 €\n",
    )
    name = each.ask("SELECT current_database()")
    settings = {
        "search_path": "other",
        "client_encoding": "'LATIN1'",
        "IntervalStyle": "'iso_8601'",
        "bytea_output": "'escape'",
        "extra_float_digits": "-15",
        "standard_conforming_strings": "off",
        "idle_in_transaction_session_timeout": "'10ms'",
        "idle_session_timeout": "'1min'",
        "lock_timeout": "1",
        "statement_timeout": "'2s'",
        "quote_all_identifiers": "on",
        "DateStyle": "'German'",
        "default_transaction_isolation": "'serializable'",
    }
    if each.ask("SELECT current_setting('transaction_timeout', true)") is not None:
        settings["transaction_timeout"] = "'200ms'"
    alter = [f"ALTER DATABASE {name} SET {setting} = {value}" for setting, value in settings.items()]
    try:
        each.execute("; ".join(alter))
        assert len(each.up()) == 3
        assert each.verify() == []
        with each.connect() as connection:
            connection.execute(runner.SESSION)
            limits = "SELECT count(*) FROM pg_settings WHERE name LIKE '%session_timeout' AND setting <> '0'"
            assert connection.execute(limits).fetchone() == (0,)
    finally:
        each.execute(f"ALTER DATABASE {name} RESET ALL")


def test_what_a_file_sets_does_not_reach_the_next(each: Database) -> None:
    """Each file begins with the settings of the login, its role and no temporary tables."""
    sets = "SET check_function_bodies = off; SET statement_timeout = '1h'; SET ROLE pg_database_owner;\n"
    asked = "DO $$ BEGIN ASSERT current_setting('check_function_bodies') = 'on', 'it leaked'; END $$;\n"
    asked += "DO $$ BEGIN ASSERT current_user <> 'pg_database_owner', 'it leaked'; END $$;\n"
    shadow = "CREATE TEMPORARY TABLE person AS SELECT * FROM public.person;\n"
    index = "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS person_age ON person (age);\n"
    each.write(PEOPLE, sets, asked, shadow, index, "INSERT INTO person (name) VALUES ('x');\n")
    assert len(each.up()) == 6
    assert each.verify() == []
    assert each.ask("SELECT name FROM person") == "X"


@pytest.mark.parametrize(
    "setting",
    [
        "SET TIME ZONE 'Europe/Berlin'",
        "SET IntervalStyle = 'iso_8601'",
        "SET quote_all_identifiers = on",
        "SET search_path = public, other",
        "SELECT set_config('search_path', '', false)",
    ],
)
def test_what_a_file_sets_does_not_reach_the_text_of_the_schema(database: Database, setting: str) -> None:
    """It is recorded as it is read afterwards, else the next look at it would see drift."""
    database.write(
        "CREATE SCHEMA other; CREATE TYPE other.color AS ENUM ('red');\n",
        f"{setting};\nCREATE TABLE public.thing (color other.color, wait interval DEFAULT '1 day 2 hours',"
        " at timestamptz CHECK (at > '2020-01-01 00:00+00'));\n",
    )
    assert len(database.up()) == 2
    assert database.verify() == []
    assert database.ask("SELECT schema FROM schema_migration ORDER BY version DESC") == database.state()[1]
