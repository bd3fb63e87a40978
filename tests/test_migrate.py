"""The migration runner: applied once, in order, never edited."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from service import VERSION
from service.migrate import history, runner
from service.migrate.history import Applied, IntegrityError, Migration
from tests import live
from tests.conftest import Urls


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of migrations of our own: one table, then one column."""
    (tmp_path / "0001_one.sql").write_text("CREATE TABLE one (id integer);\n")
    (tmp_path / "0002_two.sql").write_text("ALTER TABLE one ADD COLUMN two text;\n")
    monkeypatch.setattr(history.read_files, "__defaults__", (tmp_path,))
    return tmp_path


@pytest.fixture
def fresh(new_database: Callable[[], AbstractContextManager[Urls]]) -> Iterator[Urls]:
    with new_database() as made:
        yield made


@pytest.fixture
def connection(fresh: Urls) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(fresh.owner, autocommit=True) as made:
        yield made


def restricted(url: str) -> str:
    """The URL, for sessions that have dropped to the service's role."""
    return make_conninfo(url, options="-c role=ledger_service")


def tables(connection: psycopg.Connection[Any]) -> set[str]:
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {name for (name,) in rows}


def file(version: int, checksum: str = "same") -> Migration:
    return Migration(version, f"{version:04}_name.sql", checksum, "")


def row(version: int, checksum: str = "same", name: str | None = None) -> Applied:
    return Applied(version, name or f"{version:04}_name.sql", checksum)


@pytest.mark.usefixtures("folder")
class TestUp:
    def test_applies_everything_once(self, connection: psycopg.Connection[Any]) -> None:
        """The first run applies all files in order, the second none."""
        assert [migration.name for migration in runner.up(connection)] == ["0001_one.sql", "0002_two.sql"]
        assert runner.up(connection) == []
        assert [applied.version for applied in history.read_history(connection)] == [1, 2]

    def test_a_failed_file_leaves_nothing(self, connection: psycopg.Connection[Any], folder: Path) -> None:
        """What the file did before its mistake is rolled back, and what was applied before it stays."""
        (folder / "0003_bad.sql").write_text("CREATE TABLE three (id integer);\nSELECT 1 / 0;\n")
        with pytest.raises(runner.Failed, match=r"0003_bad.sql failed and was rolled back"):
            runner.up(connection)
        assert tables(connection) == {"one", "schema_migration"}
        assert len(history.read_history(connection)) == 2

    @pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT here"])
    def test_a_file_cannot_end_its_transaction(
        self, connection: psycopg.Connection[Any], folder: Path, statement: str
    ) -> None:
        """Transaction commands inside a file fail, and leave nothing."""
        (folder / "0003_bad.sql").write_text(f"CREATE TABLE three (id integer);\n{statement};\n")
        with pytest.raises(runner.Failed):
            runner.up(connection)
        assert "three" not in tables(connection)

    def test_an_edited_file_is_refused(self, connection: psycopg.Connection[Any], folder: Path) -> None:
        """Even a space in a comment: both hashes are named and nothing is applied."""
        runner.up(connection)
        (folder / "0001_one.sql").write_text("CREATE TABLE one (id integer); \n")
        (folder / "0003_three.sql").write_text("CREATE TABLE three (id integer);\n")
        with pytest.raises(
            IntegrityError, match=r"0001_one.sql was edited after it was applied \(applied \w{64}, file \w{64}\)"
        ):
            runner.up(connection)
        assert "three" not in tables(connection)

    def test_a_missing_file_is_refused(self, connection: psycopg.Connection[Any], folder: Path) -> None:
        """A gap in the files is found before the database is asked."""
        runner.up(connection)
        (folder / "0001_one.sql").unlink()
        with pytest.raises(IntegrityError, match=r"0002_two.sql should have the number 0001"):
            runner.up(connection)

    def test_waits_for_another_runner(
        self, connection: psycopg.Connection[Any], fresh: Urls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One runner at a time: the other waits, and gives up with a word of why."""
        monkeypatch.setattr(runner, "LOCK_WAIT_SECONDS", 0)
        with psycopg.connect(fresh.owner, autocommit=True) as other:
            other.execute("SELECT pg_advisory_lock(%s)", [runner.LOCK_KEY])
            with pytest.raises(runner.Locked):
                runner.up(connection)
        assert tables(connection) == set()

    def test_the_history_says_who_and_when(self, connection: psycopg.Connection[Any]) -> None:
        """A row tells by whom, with which code and how long."""
        runner.up(connection)
        row = connection.execute(
            "SELECT applied_by = current_user, app_version, duration_ms >= 0 FROM schema_migration"
        )
        assert row.fetchone() == (True, VERSION, True)


class TestReconcile:
    """Files and history, compared without a database."""

    @pytest.mark.parametrize(
        ("files", "applied", "pending"),
        [([], [], []), ([1, 2], [], [1, 2]), ([1, 2], [1], [2]), ([1, 2], [1, 2], []), ([1], [1, 2], [])],
    )
    def test_says_what_is_pending(self, files: list[int], applied: list[int], pending: list[int]) -> None:
        """Also older code on a newer schema is in order: it has nothing to apply."""
        found = history.reconcile([file(n) for n in files], [row(n) for n in applied])
        assert [migration.version for migration in found] == pending

    @pytest.mark.parametrize(
        ("applied", "complaint"),
        [
            ([row(1, "other")], "was edited"),
            ([row(1, name="0001_other.sql")], "restore the name"),
            ([row(2)], "gaps"),
            ([row(1), row(3)], "gaps"),
        ],
    )
    def test_refuses_what_cannot_be(self, applied: list[Applied], complaint: str) -> None:
        """An edited, renamed or missing migration is an error with a way out."""
        with pytest.raises(IntegrityError, match=complaint):
            history.reconcile([file(1), file(2)], applied)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0002_two.sql"], "should have the number 0001"),
        (["0001_one.sql", "0003_three.sql"], "should have the number 0002"),
        (["0001_one.sql", "0001_two.sql"], "should have the number 0002"),
        (["1_one.sql"], "is not named"),
        (["0001-one.sql"], "is not named"),
        (["0001_One.sql"], "is not named"),
    ],
)
def test_refuses_names_out_of_the_scheme(tmp_path: Path, names: list[str], complaint: str) -> None:
    """Numbers run from 0001 without gaps or duplicates."""
    for name in names:
        (tmp_path / name).write_text("SELECT 1;\n")
    with pytest.raises(IntegrityError, match=complaint):
        history.read_files(tmp_path)


class TestCommand:
    """`python -m service.migrate`, as a process."""

    def test_up_and_status(self, fresh: Urls) -> None:
        """status says pending, up applies, status says applied."""
        environment = {"DATABASE_URL": "postgresql://nobody@/none", "MIGRATE_DATABASE_URL": fresh.owner}
        states = []
        for command in ("status", "up", "status"):
            code, lines = live.run(["service.migrate", command], environment)
            assert code == 0
            states += [line["state"] for line in lines if "state" in line]
        assert states == ["pending", "applied"]

    @pytest.mark.parametrize(
        ("url", "code"),
        [("", 6), ("postgresql://nobody@127.0.0.1:1/none", 6), ("postgresql://u:hunter2@h/db?nope=1", 6)],
    )
    def test_no_database_is_exit_code_6(self, url: str, code: int) -> None:
        """One line says why, without the password."""
        found, lines = live.run(["service.migrate", "up"], {"MIGRATE_DATABASE_URL": url})
        assert (found, [line["event"] for line in lines]) == (code, ["migration.failed"])
        assert "hunter2" not in str(lines)

    def test_a_login_without_the_owners_rights_is_exit_code_6(self, fresh: Urls) -> None:
        """A login that may not make tables is told so, and nothing is made."""
        code, lines = live.run(["service.migrate", "up"], {"MIGRATE_DATABASE_URL": restricted(fresh.service)})
        assert (code, [line["event"] for line in lines]) == (6, ["migration.failed"])

    def test_an_edited_migration_is_exit_code_4(self, fresh: Urls, tmp_path: Path) -> None:
        """A copy of the repository in which an applied file gained one space is refused, by the service too."""
        for part in ("service", "sql"):
            shutil.copytree(live.ROOT / part, tmp_path / part)
        environment = {"MIGRATE_DATABASE_URL": fresh.owner}
        live.run(["service.migrate", "up"], environment)
        with (tmp_path / "sql" / "0001_accounts_and_transfers.sql").open("a") as edited:
            edited.write(" ")
        command = [sys.executable, "-m", "service.migrate", "up"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode, "was edited after it was applied" in done.stdout) == (4, True)
