"""Old, present and next code on an old, present and next schema: which of them work together."""

import itertools
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from service import __main__ as service
from service import config
from service.migrate import files, history, runner
from service.migrate.files import Migration, MigrationError
from service.migrate.history import Applied
from service.readiness import Readiness
from tests import live
from tests.conftest import DEVELOPMENT
from tests.migrations import PEOPLE, TOWN, Database

EXPAND = "ALTER TABLE person ADD COLUMN street text;\n"
CONTRACT = "-- migrate: contract-for=0002\nALTER TABLE person DROP COLUMN mood;\n"

# For the code that knows so many migrations and the schema that has so many: the exit codes of `up` and of
# `status --check`, that of the start, and whether it would be ready. The third one is EXPAND, which harms nobody, or
# CONTRACT, which only code from 2 on survives.
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
def test_the_table_of_versions(each: Database, third: str, outcomes: Any) -> None:
    """What runner, start and readiness say of each code on each schema, from docs/migrations.md."""
    folders = {number: release(each, (PEOPLE, TOWN, third)[:number]) for number in (OLD, PRESENT, NEXT)}
    found = {}
    for schema in (OLD, PRESENT, NEXT):
        for code, folder in folders.items():
            each.reset()
            apply(each, folders[schema])
            # up comes last, as it changes what the others see
            found[code, schema] = status(each, folder), start(each, folder), ready(each, folder), apply(each, folder)
    assert found == {key: (status, start, ready, up) for key, (up, status, start, ready) in outcomes.items()}


def release(database: Database, contents: tuple[str, ...]) -> Path:
    """A sql/ of its own, sealed."""
    folder = database.root / f"release{len(contents)}"
    folder.mkdir()
    one = Database(database.urls, database.scratch, folder)
    one.sql.mkdir()
    one.write(*contents)
    return one.sql


def apply(database: Database, folder: Path) -> int:
    with database.connect() as connection:
        try:
            runner.up(connection, files.read_files(folder))
        except MigrationError as error:
            return error.exit_code
    return 0


def status(database: Database, folder: Path) -> int:
    """As `status --check` has it; that it has it so is shown below, by processes."""
    with database.connect() as connection:
        try:
            return 2 * bool(history.reconcile(files.read_files(folder), history.read_history(connection)))
        except MigrationError as error:
            return error.exit_code


def start(database: Database, folder: Path) -> int:
    """Of the service, before it listens."""
    settings = config.load(
        {"DATABASE_URL": database.urls.service, "CALLERS": DEVELOPMENT, "ENVIRONMENT": "development"}
    )
    with patch.object(files.read_files, "__defaults__", (folder,)):
        return service._check_database(settings)


def ready(database: Database, folder: Path) -> bool:
    with patch.object(files.read_files, "__defaults__", (folder,)):
        return all(Readiness(database.urls.service).findings().values())


def test_processes_say_the_same(database: Database) -> None:
    """Old code after a contract migration: `up` and `status` end with 7, the start with 70, and each has a way out."""
    newest, old = release(database, (PEOPLE, TOWN, CONTRACT)), release(database, (PEOPLE,))
    copy = database.copied()
    for folder, code in ((old, 0), (newest, 2)):
        database.sql.rmdir() if not any(database.sql.iterdir()) else shutil.rmtree(database.sql)
        shutil.copytree(folder, database.sql)
        apply(database, old)
        assert database.run("status", "--check")[0] == code
        assert database.run("status")[0] == 0
    assert database.run("up")[0] == 0
    shutil.rmtree(database.sql)
    shutil.copytree(old, database.sql)
    for command in (["up"], ["status"], ["status", "--check"], ["verify"]):
        exit_code, [line] = database.run(*command)
        assert (exit_code, line["event"], line["exit_code"]) == (7, "migration.failed", 7)
        assert "needs code that knows migration 0002, this code knows 1" in line["message"]
        assert "newer release" in line["fix"]
    environment = {"DATABASE_URL": database.urls.service, "CALLERS": DEVELOPMENT, "ENVIRONMENT": "development"}
    exit_code, [line] = live.run(["service", "--check"], environment, copy)
    assert (exit_code, "newer release" in line["fix"]) == (70, True)


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


def test_a_database_of_the_first_runner_goes_on(each: Database) -> None:
    """Its history lacks two columns: the start asks for `up`, which adds them and applies nothing twice."""
    [first] = each.write(PEOPLE)
    each.execute(f"{FIRST_RUNNER}; {PEOPLE}")
    each.execute(
        "INSERT INTO schema_migration (version, name, checksum, duration_ms, app_version)"
        f" VALUES (1, '{first.name}', '{first.checksum}', 1, '0.1.0')"
    )
    assert (status(each, each.sql), start(each, each.sql)) == (2, 70)
    assert each.up() == []
    assert (each.state()[0], each.verify(), start(each, each.sql), ready(each, each.sql)) == ([1], [], 0, True)
    assert len(each.write(TOWN)) - len(each.up()) == 1
    each.execute("ALTER TABLE person DROP COLUMN town")
    with pytest.raises(MigrationError) as caught:
        each.verify()
    assert caught.value.difference == ["- column person.town text"]


def test_a_changed_database_of_the_first_runner_is_refused(database: Database) -> None:
    """3: its history does not say what the schema was, so the seal and the snapshot do."""
    [first] = database.write(PEOPLE)
    database.execute(f"{FIRST_RUNNER}; {PEOPLE}; ALTER TABLE person ADD COLUMN mine text")
    database.execute(
        "INSERT INTO schema_migration (version, name, checksum, duration_ms, app_version)"
        f" VALUES (1, '{first.name}', '{first.checksum}', 1, '0.1.0')"
    )
    before = database.everything()
    with pytest.raises(MigrationError) as caught:
        database.up()
    assert (caught.value.exit_code, caught.value.difference) == (files.DRIFT, ["+ column person.mine text"])
    assert database.everything() == before


def test_an_edited_file_of_the_first_runner_is_refused(database: Database) -> None:
    """Its checksums hold as those of any other."""
    database.write(PEOPLE)
    database.execute(f"{FIRST_RUNNER}; {PEOPLE}")
    database.execute("INSERT INTO schema_migration VALUES (1, '0001_a.sql', 'other', now(), 1, 'x', '0.1.0')")
    before = database.everything()
    with pytest.raises(MigrationError, match="was edited or renamed after it was applied") as caught:
        database.up()
    assert (caught.value.exit_code, database.everything()) == (files.INTEGRITY, before)


def file(version: int, kind: str = "same") -> Migration:
    return Migration(version, f"{version:04}_{'renamed' if kind == 'renamed' else 'name'}.sql", kind)


def row(version: int, min_code: int = 0) -> Applied:
    return Applied(version, f"{version:04}_name.sql", "same", min_code)


KINDS = ("same", "edited", "renamed")


def test_reconcile_says_what_is_pending_or_why_not() -> None:
    """Every history of up to four rows, whole or with gaps, against every folder of up to four files, by the rule."""
    seen = set()
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
        seen.add(expected if isinstance(expected, int) else len(expected))
    assert seen == {files.INTEGRITY, files.CONFLICT, 0, 1, 2} | {3, 4}


def reconciled(known: list[Migration], applied: list[Applied]) -> int | list[Migration]:
    try:
        return history.reconcile(known, applied)
    except MigrationError as error:
        return error.exit_code if str(error) and error.fix else 1
