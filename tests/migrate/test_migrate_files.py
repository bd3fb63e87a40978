"""The files of sql/ and their checksums: every change is refused before a connection is opened."""

import json
import os
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import pytest

from service.migrate import files
from service.migrate.files import CHECKSUMS, INTEGRITY, SNAPSHOT, MigrationError
from tests.support.live import ROOT
from tests.support.migrations import CONTRACT, DROP_INDEX, INDEX, PEOPLE, TOWN, Database

TWO = "0002_b.sql"


@pytest.fixture
def three(database: Database) -> Database:
    """Three migrations with checksums."""
    database.write(PEOPLE, TOWN, INDEX)
    return database


def append(text: bytes) -> Callable[[Path], None]:
    """A change that appends to the second file."""

    def change(sql: Path) -> None:
        with (sql / TWO).open("ab") as file:
            file.write(text)

    return change


def rewrite(name: str, old: str, new: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    """A change that replaces text of a file once."""

    def change(sql: Path) -> None:
        text = (sql / name).read_text("utf-8")
        assert old in text, "the test changes nothing"
        (sql / name).write_text(text.replace(old, new, 1), encoding, newline="")

    return change


def change_lines(new_lines: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """A change of the lines of the checksum file."""

    def change(sql: Path) -> None:
        header, *lines = (sql / CHECKSUMS).read_text().splitlines()
        (sql / CHECKSUMS).write_text("\n".join([header, *new_lines(lines), ""]))

    return change


# For each case: the change, and a pattern of the error message.
CHANGES = {
    "a byte": (rewrite(TWO, "town text", "Town text"), "was edited after make seal"),
    "a comment": (append(b"-- why\n"), "was edited after make seal"),
    "a space": (rewrite(TWO, "town text", "town  text"), "was edited after make seal"),
    "another last newline": (append(b"\n"), "was edited after make seal"),
    "no last newline": (rewrite(TWO, "text;\n", "text;"), "must have LF line endings and end with a newline"),
    "CRLF": (rewrite(TWO, "\n", "\r\n"), "must have LF line endings"),
    "BOM": (rewrite(TWO, "ALTER", "\ufeffALTER"), "must be UTF-8 without a byte order mark"),
    "Latin 1": (rewrite(TWO, "town", "ört", "latin-1"), "must be UTF-8"),
    "deleted": (lambda sql: (sql / TWO).unlink(), f"{TWO} is missing, checksum [0-9a-f]{{64}}"),
    "all deleted": (lambda sql: [path.unlink() for path in sql.iterdir()], r"\*.sql: no such file"),
    "renamed": (lambda sql: (sql / TWO).rename(sql / "0002_c.sql"), f"{TWO} is missing"),
    "a number twice": (lambda sql: (sql / "0002_c.sql").write_text("--\n"), "0002_c.sql must have the number 0003"),
    "a gap": (lambda sql: (sql / "0005_e.sql").write_text("--\n"), "0005_e.sql must have the number 0004"),
    "an invalid name": (lambda sql: (sql / "0004-d.sql").write_text("--\n"), "must be named NNNN_words"),
    "capitals": (lambda sql: (sql / "0004_D.SQL").write_text("--\n"), "must be named NNNN_words"),
    "no number": (lambda sql: (sql / "d.sql").write_text("--\n"), "must be named NNNN_words"),
    "no checksum": (
        lambda sql: (sql / "0004_d.sql").write_text("--\n"),
        "0004_d.sql is not in migrations.sum; its checksum",
    ),
    "unknown directive": (rewrite(TWO, "ALTER", "-- migrate: quickly\nALTER"), "may have only these directives"),
    "misspelt directive": (
        rewrite(TWO, "ALTER", "--migrate:contract-for=0001\nALTER"),
        "may have only these directives",
    ),
    "invalid value": (
        rewrite(TWO, "ALTER", "-- migrate: statement-timeout=1\nALTER"),
        "may have only these directives",
    ),
    "late directive": (append(b"-- migrate: contract-for=0001\n"), "may have only these directives"),
    "directive twice": (
        rewrite(TWO, "ALTER", "-- migrate: contract-for=0001\n-- migrate: contract-for=0002\nALTER"),
        "each once",
    ),
    "not an index": (rewrite(TWO, "ALTER", "-- migrate: no-transaction\nALTER"), "must have both or neither"),
    "two statements": (rewrite("0003_c.sql", ";", "; SELECT 1;"), "must have both or neither"),
    "index of another schema": (
        rewrite("0003_c.sql", "EXISTS person", "EXISTS public.person"),
        "must have both or neither",
    ),
    "table of another schema": (rewrite("0003_c.sql", "ON person", "ON other.person"), "must have both or neither"),
    "table of a quoted schema": (
        rewrite("0003_c.sql", "ON person", 'ON "an other" . person'),
        "must have both or neither",
    ),
    "no IF NOT EXISTS": (rewrite("0003_c.sql", "IF NOT EXISTS ", ""), "must have both or neither"),
    "no directive": (rewrite("0003_c.sql", "-- migrate: no-transaction\n", ""), "must have both or neither"),
    "timeout without transaction": (
        rewrite("0003_c.sql", "CREATE", "-- migrate: statement-timeout=1h\nCREATE"),
        "must not have statement-timeout with no-transaction",
    ),
    "checksum file edited": (
        change_lines(lambda lines: [lines[0].replace(" ", "  ", 1), *lines[1:]]),
        "migrations.sum was edited",
    ),
    "checksum forged": (
        change_lines(lambda lines: [lines[0], lines[1].replace(lines[1].split()[1], "0" * 64), lines[2]]),
        f"{TWO} was edited after make seal: recorded checksum 0{{64}}, file [0-9a-f]{{64}}",
    ),
    "checksum file reordered": (
        change_lines(lambda lines: [lines[1], lines[0], lines[2]]),
        "migrations.sum was edited",
    ),
    "checksum twice": (change_lines(lambda lines: [lines[0], *lines]), "migrations.sum was edited"),
    "first checksum removed": (change_lines(lambda lines: lines[1:]), "0001_a.sql is not in migrations.sum"),
    "checksum file not UTF-8": (lambda sql: (sql / CHECKSUMS).write_bytes(b"\xff\n"), "migrations.sum was edited"),
    "checksum file deleted": (lambda sql: (sql / CHECKSUMS).unlink(), "0001_a.sql is not in migrations.sum"),
    "snapshot edited": (
        rewrite(SNAPSHOT, "person.town text", "person.town integer"),
        "schema.snapshot was edited: recorded [0-9a-f]{64}, file [0-9a-f]{64}",
    ),
    "snapshot deleted": (lambda sql: (sql / SNAPSHOT).unlink(), "schema.snapshot was edited"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_file_is_refused(three: Database, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command ends with 4, with the checksums and a fix, and does not connect to the database."""
    change, pattern = CHANGES[case]
    change(three.sql)
    for command in ("up", "status", "verify", "check"):
        assert three.run_here(command, "--json") == INTEGRITY
        [line] = map(json.loads, capsys.readouterr().out.splitlines())
        with pytest.raises(MigrationError, match=pattern) as caught:
            files.read_files(three.sql)
        message = str(caught.value)
        assert (line["message"], line["fix"], line["exit_code"]) == (message, caught.value.fix, INTEGRITY)
        if case in ("renamed", "deleted", "a number twice", "a byte"):
            unmerged = "if the file was never merged, remove its line from sql/migrations.sum and run make seal"
            assert unmerged in line["fix"]
        if "snapshot" in case:
            assert "or make seal" in line["fix"]
        if "recorded" in message:
            assert len(set(re.findall(r"\b[0-9a-f]{64}\b", message))) == 2


def test_an_unreadable_folder_is_refused(three: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 4 in one line if a file is a directory, if there is no sql/, and if there is no git."""
    (three.sql / "0004_d.sql").mkdir()
    with patch.dict(os.environ, {"PATH": ""}):
        codes = [three.run_here(command, "--json") for command in ("up", "status", "check")]
        (three.sql / "0004_d.sql").rmdir()
        codes.append(three.run_here("check", "--json", "--base=HEAD"))
    shutil.rmtree(three.sql)
    codes += [three.run_here("up", "--json"), three.run_here("new", "--json", "x")]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert codes == [line["exit_code"] for line in lines] == [INTEGRITY] * 6
    assert all(line["fix"] for line in lines)


def test_hidden_files_are_ignored(three: Database) -> None:
    """Emacs locks a file with a hidden link whose target does not exist."""
    (three.sql / ".#0002_b.sql").symlink_to("somebody@somewhere.1234")
    assert len(files.read_files(three.sql)) == 3


def test_valid_files_are_read_with_their_directives(three: Database) -> None:
    """The fields of six valid files with each directive."""
    three.write(CONTRACT, DROP_INDEX, "-- migrate: statement-timeout=2h\n-- migrate: contract-for=0006\nSELECT 1;\n")
    read = files.read_files(three.sql)
    assert [file.index for file in read] == [None, None, "person_town", None, "person_name", None]
    assert [file.contract_for for file in read] == [0, 0, 0, 2, 0, 6]
    assert [file.statement_timeout for file in read] == ["1min"] * 5 + ["2h"]
    assert [file.checksum for file in read] == [sha256(text.encode()).hexdigest() for text in three.written.values()]
    assert [file.snapshot is None for file in read] == [True] * 5 + [False]


def test_contract_for_a_later_migration_is_refused(three: Database) -> None:
    """A number above the file's own would exclude the release that has the file."""
    (three.sql / "0004_d.sql").write_text("-- migrate: contract-for=0005\nSELECT 1;\n")
    with pytest.raises(MigrationError, match="must not have a contract-for above its own number"):
        files.read_files(three.sql, allow_new=True)


def test_a_removed_line_of_the_checksum_file_is_not_written_again(three: Database) -> None:
    """`seal` only appends, so a line that was removed from the middle must be restored from git."""
    change_lines(lambda lines: [lines[0], lines[2]])(three.sql)
    with pytest.raises(MigrationError, match=f"{TWO} is not in migrations.sum"):
        files.read_files(three.sql, allow_new=True)


def test_the_migrations_of_this_repository_are_valid() -> None:
    """Each has a checksum, and the newest one has a snapshot."""
    read = files.read_files()
    assert read[-1].snapshot
    assert all(file.expected_fingerprint for file in read)


def test_the_migrations_of_this_repository_build_their_snapshot(database: Database) -> None:
    """`seal` writes the same checksum file and snapshot again, on the major version that made the newest line."""
    shutil.rmtree(database.sql)
    shutil.copytree(ROOT / "sql", database.sql)
    before = (database.sql / CHECKSUMS).read_text(), (database.sql / SNAPSHOT).read_text()
    major = database.query("SELECT current_setting('server_version_num')::integer / 10000")
    if major != files.read_files()[-1].expected_major:
        pytest.skip(f"this server is PostgreSQL {major}, and the checksum file is of another major version")
    (database.sql / SNAPSHOT).unlink()
    database.seal()
    assert ((database.sql / CHECKSUMS).read_text(), (database.sql / SNAPSHOT).read_text()) == before
    assert len(database.up()) == len(files.read_files())
