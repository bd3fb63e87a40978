"""Old, present and next code on an old, present and next schema: which combinations work."""

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from service import __main__ as service
from service.migrate import files, history, runner
from service.migrate.files import Migration, MigrationError
from service.migrate.history import Applied
from service.readiness import Readiness
from tests.support import live
from tests.support.ledger import DEVELOPMENT
from tests.support.migrations import CONTRACT, PEOPLE, TOWN, Database, logging_restored, refused

EXPAND = "ALTER TABLE person ADD COLUMN street text;\n"

# For each (code, schema), given as their numbers of migrations: the exit codes of `up`, of `status --check` and of
# `python -m service --check`, and whether /ready returns 200. The third migration is EXPAND, on which all code can run,
# or CONTRACT, which excludes code older than 2.
OLD, PRESENT, NEXT = 1, 2, 3
EXPANDED = {
    (OLD, OLD): (0, 0, 0, True),
    (OLD, PRESENT): (0, 0, 0, True),
    (OLD, NEXT): (0, 0, 0, True),
    (PRESENT, OLD): (0, 2, 70, False),
    (PRESENT, PRESENT): (0, 0, 0, True),
    (PRESENT, NEXT): (0, 0, 0, True),
    (NEXT, OLD): (0, 2, 70, False),
    (NEXT, PRESENT): (0, 2, 70, False),
    (NEXT, NEXT): (0, 0, 0, True),
}
CONTRACTED = EXPANDED | {(OLD, NEXT): (7, 7, 70, False)}


@pytest.mark.parametrize(
    ("third", "outcomes"), [(EXPAND, EXPANDED), (CONTRACT, CONTRACTED)], ids=["expand", "contract"]
)
def test_each_code_works_with_the_schemas_of_the_table(each: Database, third: str, outcomes: Any) -> None:
    """The results of runner, start and readiness are those of the table in docs/migrations.md."""
    folders = {number: write_release(each, (PEOPLE, TOWN, third)[:number]) for number in (OLD, PRESENT, NEXT)}
    found = {}
    for schema in (OLD, PRESENT, NEXT):
        for code, folder in folders.items():
            each.reset()
            up(each, folders[schema])
            # The last call is `up`, because it may change the schema.
            found[code, schema] = status(each, folder), start(each, folder), is_ready(each, folder), up(each, folder)
    assert found == {key: (status, start, ready, up) for key, (up, status, start, ready) in outcomes.items()}


def write_release(database: Database, contents: tuple[str, ...]) -> Path:
    """A folder with these migrations and their checksums."""
    folder = database.root / f"release{len(contents)}"
    (folder / "sql").mkdir(parents=True)
    release = Database(database.urls, database.scratch, folder)
    release.write(*contents)
    return release.sql


def up(database: Database, folder: Path) -> int:
    """The exit code of `up`."""
    with database.connect() as connection:
        try:
            runner.up(connection, files.read_files(folder))
        except MigrationError as error:
            return error.exit_code
    return 0


def status(database: Database, folder: Path) -> int:
    """The exit code of `status --check`; test_an_excluded_release_is_refused runs it as a process."""
    with database.connect() as connection:
        try:
            return 2 * bool(history.reconcile(files.read_files(folder), history.read_history(connection)))
        except MigrationError as error:
            return error.exit_code


def environment(database: Database) -> dict[str, str]:
    """The settings of the service."""
    port = str(live.free_port())
    return {"DATABASE_URL": database.urls.service, "CALLERS": DEVELOPMENT, "ENVIRONMENT": "development", "PORT": port}


def start(database: Database, folder: Path) -> int:
    """The exit code of `python -m service --check`, in this process."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with (
            logging_restored(),
            patch.object(files, "SQL_FOLDER", folder),
            patch.object(sys, "argv", ["service", "--check"]),
            patch.dict(os.environ, environment(database), clear=True),
        ):
            return service.main()
    finally:
        signal.signal(signal.SIGTERM, handler)


def is_ready(database: Database, folder: Path) -> bool:
    """Whether /ready would return 200."""
    with patch.object(files, "SQL_FOLDER", folder):
        return all(Readiness(database.urls.service, lambda: True, allow_data_loss=True).checks().values())


def test_an_excluded_release_is_refused(database: Database) -> None:
    """After a contract migration, commands of old code end with 7, its start with 70, and each has a fix."""
    newest, old = write_release(database, (PEOPLE, TOWN, CONTRACT)), write_release(database, (PEOPLE,))
    for folder, code in ((old, 0), (newest, 2)):
        replace_migrations(database, folder)
        up(database, old)
        assert database.run("status", "--check")[0] == code
        assert database.run("status")[0] == 0
    assert database.run("up")[0] == 0
    replace_migrations(database, old)
    for command in (["up"], ["status"], ["status", "--check"], ["verify"]):
        exit_code, [line] = database.run(*command)
        assert (exit_code, line["event"], line["exit_code"]) == (7, "migration.failed", 7)
        assert "needs code that knows migration 0002, this code knows 0001 to 0001" in line["message"]
        assert "newer release" in line["fix"]
    exit_code, [line] = live.run(["service", "--check"], environment(database), database.copy_service())
    assert (exit_code, "newer release" in line["fix"]) == (70, True)


def replace_migrations(database: Database, folder: Path) -> None:
    shutil.rmtree(database.sql)
    shutil.copytree(folder, database.sql)


# The history table of the first version of the runner.
FIRST_RUNNER = """
    CREATE TABLE schema_migration (
        version integer NOT NULL CONSTRAINT schema_migration_pkey PRIMARY KEY,
        name text NOT NULL,
        checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        duration_ms integer NOT NULL,
        applied_by text NOT NULL DEFAULT current_user,
        app_version text NOT NULL
    )
"""


def apply_with_first_runner(database: Database, checksum: str, more: str = "") -> None:
    """Apply PEOPLE as the first version of the runner did, then more statements."""
    database.execute(f"{FIRST_RUNNER}; {PEOPLE}; {more}")
    database.execute(
        "INSERT INTO schema_migration (version, name, checksum, duration_ms, app_version)"
        f" VALUES (1, '0001_a.sql', '{checksum}', 1, '0.1.0')"
    )


def test_up_completes_the_history_of_the_first_runner(each: Database) -> None:
    """Two columns are missing: the start requires `up`, which adds them and applies no file again."""
    [first] = each.write(PEOPLE)
    apply_with_first_runner(each, first.checksum)
    assert (status(each, each.sql), start(each, each.sql)) == (2, 70)
    assert each.up() == []
    assert (each.state()[0], each.verify(), start(each, each.sql), is_ready(each, each.sql)) == ([1], [], 0, True)
    assert len(each.write(TOWN)) - len(each.up()) == 1
    each.execute("ALTER TABLE person DROP COLUMN town")
    assert refused(each, files.DRIFT, verify=True).difference == ["- column person.town text"]


def test_a_manual_change_under_the_first_runner_is_refused(database: Database) -> None:
    """Exit code 3: the history of the first runner has no schema, so that of the snapshot is compared."""
    [first] = database.write(PEOPLE)
    apply_with_first_runner(database, first.checksum, "ALTER TABLE person ADD COLUMN mine text")
    before = database.contents()
    assert refused(database, files.DRIFT).difference == ["+ column person.mine text"]
    assert database.contents() == before


def test_an_edited_file_of_the_first_runner_is_refused(database: Database) -> None:
    """Its checksums are compared like all others."""
    database.write(PEOPLE)
    apply_with_first_runner(database, "other")
    before = database.contents()
    assert "was edited or renamed after it was applied" in str(refused(database, files.INTEGRITY))
    assert database.contents() == before


KINDS = ("same", "edited", "renamed")


def file(version: int, kind: str) -> Migration:
    return Migration(version, f"{version:04}_{'renamed' if kind == 'renamed' else 'name'}.sql", kind)


def row(version: int, min_code: int) -> Applied:
    return Applied(version, f"{version:04}_name.sql", "same", min_code)


def test_reconcile_returns_the_pending_files_or_an_error() -> None:
    """Every history of up to three rows, with or without gaps, and every folder of up to four files."""
    outcomes: set[int | str] = set()
    for kinds, versions, needed in itertools.product(
        (kinds for number in range(5) for kinds in itertools.product(KINDS, repeat=number)),
        (versions for number in range(4) for versions in itertools.combinations(range(1, 5), number)),
        range(5),
    ):
        known = [file(number, kind) for number, kind in enumerate(kinds, start=1)]
        applied = [row(version, needed if version == versions[-1] else 0) for version in versions]
        expected: int | list[Migration] = known[len(versions) :]
        if versions and needed > len(known):
            expected = files.CONFLICT
        if any(kind != "same" for kind in kinds[: len(versions)]) or versions != tuple(range(1, len(versions) + 1)):
            expected = files.INTEGRITY
        assert reconciled(known, applied) == expected
        outcomes.add(expected if isinstance(expected, int) else f"{len(expected)} pending")
    assert outcomes == {files.INTEGRITY, files.CONFLICT, *(f"{number} pending" for number in range(5))}


def reconciled(known: list[Migration], applied: list[Applied]) -> int | list[Migration]:
    """What `reconcile` returns, or the exit code of its error."""
    try:
        return history.reconcile(known, applied)
    except MigrationError as error:
        return error.exit_code if str(error) and error.fix else 1
