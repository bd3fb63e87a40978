"""`seal` adds the checksums of new files and writes the snapshot; it needs an empty database, as from `make seal`."""

import os
import shutil

import pytest

from service.migrate import files
from tests.support import live
from tests.support.migrations import PEOPLE, TOWN, Database


def test_seal_without_files_writes_nothing(database: Database) -> None:
    """Exit code 0."""
    assert database.run_text("seal") == (0, "0 checksums added\n")
    assert os.listdir(database.sql) == []


def test_seal_appends_and_keeps_old_lines(database: Database) -> None:
    """A second file adds one line, and the bytes before it stay; without a new file nothing is added."""
    checksums = []
    for content, number in ((PEOPLE, 1), (TOWN, 1), (None, 0)):
        if content:
            database.write(content, seal=False)
        database.reset()
        code, printed = database.run_text("seal")
        assert (code, printed.splitlines()[-1]) == (0, f"{number} checksums added")
        checksums.append((database.sql / files.CHECKSUMS).read_text())
    assert checksums[1].startswith(checksums[0])
    assert len(checksums[1].splitlines()) == 3
    assert checksums[2] == checksums[1]
    assert (database.sql / files.SNAPSHOT).read_text() == f"{database.state()[1]}\n"


@pytest.mark.parametrize("content", ["a table", "a migration"])
def test_seal_refuses_a_database_that_is_not_empty(database: Database, content: str) -> None:
    """Exit code 6 before anything is applied or written."""
    database.write(PEOPLE)
    if content == "a migration":
        database.up()
    else:
        database.execute("CREATE TABLE theirs (id integer)")
    (database.sql / "0002_b.sql").write_text(TOWN)
    before, checksums = database.contents(), (database.sql / files.CHECKSUMS).read_text()
    code, [line] = database.run("seal")
    assert (code, "not empty" in line["message"]) == (6, True)
    assert (database.contents(), (database.sql / files.CHECKSUMS).read_text()) == (before, checksums)


def test_seal_renews_the_checksum_of_an_unmerged_file(database: Database) -> None:
    """As `fix` says: remove its line, and `seal` writes the line and the snapshot again."""
    database.write(PEOPLE, TOWN)
    (database.sql / "0002_b.sql").write_text("ALTER TABLE person ADD COLUMN street text;\n")
    code, [line] = database.run("check")
    assert (code, "remove its line from sql/migrations.sum and run make seal" in line["fix"]) == (4, True)
    checksums = database.sql / files.CHECKSUMS
    checksums.write_text("".join(checksums.read_text().splitlines(keepends=True)[:-1]))
    assert database.run("seal")[0] == 0
    assert "person.street" in str(files.read_files(database.sql)[1].snapshot)
    assert (database.run("check")[0], database.run("up")[0]) == (0, 0)


def test_seal_refuses_an_edited_file(database: Database) -> None:
    """Exit code 4: the recorded checksums are compared first, so that `seal` does not hide an edit."""
    database.write(PEOPLE)
    with (database.sql / "0001_a.sql").open("a") as file:
        file.write("\n")
    checksums = (database.sql / files.CHECKSUMS).read_text()
    assert database.run("seal")[0] == 4
    assert (database.sql / files.CHECKSUMS).read_text() == checksums


def test_seal_with_another_major_keeps_the_snapshot(each: Database) -> None:
    """Without a new file, the snapshot stays that of the checksum file, whatever PostgreSQL `seal` runs on."""
    shutil.rmtree(each.sql)
    shutil.copytree(live.ROOT / "sql", each.sql)
    each.seal()
    for name in (files.CHECKSUMS, files.SNAPSHOT):
        assert (each.sql / name).read_text() == (live.ROOT / "sql" / name).read_text()
