"""The files of sql/ and their seal: whatever was changed is refused before any database is asked."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import pytest

from service.migrate import files
from service.migrate.files import INTEGRITY, SEAL, SNAPSHOT, MigrationError
from tests.live import ROOT
from tests.migrations import CONTRACT, DROP_INDEX, INDEX, PEOPLE, TOWN, Database

TWO = "0002_b.sql"


@pytest.fixture(autouse=True)
def balanced_books() -> None:
    """There are no books here."""


@pytest.fixture
def three(database: Database) -> Database:
    """Three sealed files."""
    database.write(PEOPLE, TOWN, INDEX)
    return database


def append(text: bytes) -> Callable[[Path], None]:
    def change(sql: Path) -> None:
        with (sql / TWO).open("ab") as file:
            file.write(text)

    return change


def rewrite(name: str, old: str, new: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    def change(sql: Path) -> None:
        text = (sql / name).read_text("utf-8")
        assert old in text, "the test changes nothing"
        (sql / name).write_text(text.replace(old, new, 1), encoding, newline="")

    return change


def seal_lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def rewritten(sql: Path) -> None:
        heading, *lines = (sql / SEAL).read_text().splitlines()
        (sql / SEAL).write_text("\n".join([heading, *change(lines), ""]))

    return rewritten


CHANGED = {
    "a byte": (rewrite(TWO, "town text", "Town text"), "edited after it was sealed"),
    "a comment": (append(b"-- why\n"), "edited after it was sealed"),
    "a space": (rewrite(TWO, "town text", "town  text"), "edited after it was sealed"),
    "a last newline": (append(b"\n"), "edited after it was sealed"),
    "a newline less": (rewrite(TWO, "text;\n", "text;"), "must have LF line ends, one of them at its end"),
    "CRLF": (rewrite(TWO, "\n", "\r\n"), "must have LF line ends"),
    "BOM": (rewrite(TWO, "ALTER", "\ufeffALTER"), "must be UTF-8 without a byte order mark"),
    "Latin 1": (rewrite(TWO, "town", "ört", "latin-1"), "must be UTF-8"),
    "deleted": (lambda sql: (sql / TWO).unlink(), f"{TWO} was sealed as [0-9a-f]{{64}} and is gone"),
    "all deleted": (lambda sql: [path.unlink() for path in sql.iterdir()], "0001 and all others are gone"),
    "renamed": (lambda sql: (sql / TWO).rename(sql / "0002_c.sql"), f"{TWO} was sealed as .* and is gone"),
    "a number twice": (lambda sql: (sql / "0002_c.sql").write_text("--\n"), "0002_c.sql should have the number 0003"),
    "a gap": (lambda sql: (sql / "0005_e.sql").write_text("--\n"), "0005_e.sql should have the number 0004"),
    "a wrong name": (lambda sql: (sql / "0004-d.sql").write_text("--\n"), "must be named NNNN_words"),
    "capitals": (lambda sql: (sql / "0004_D.SQL").write_text("--\n"), "must be named NNNN_words"),
    "no number": (lambda sql: (sql / "d.sql").write_text("--\n"), "must be named NNNN_words"),
    "not sealed": (lambda sql: (sql / "0004_d.sql").write_text("--\n"), "0004_d.sql is not sealed, its checksum is"),
    "unknown directive": (rewrite(TWO, "ALTER", "-- migrate: quickly\nALTER"), "these directives only"),
    "misspelt directive": (rewrite(TWO, "ALTER", "--migrate:contract-for=0001\nALTER"), "these directives only"),
    "bad value": (rewrite(TWO, "ALTER", "-- migrate: statement-timeout=1\nALTER"), "these directives only"),
    "late directive": (append(b"-- migrate: contract-for=0001\n"), "these directives only"),
    "directive twice": (
        rewrite(TWO, "ALTER", "-- migrate: contract-for=0001\n-- migrate: contract-for=0002\nALTER"),
        "each once",
    ),
    "no transaction": (rewrite(TWO, "ALTER", "-- migrate: no-transaction\nALTER"), "must be one CREATE INDEX"),
    "no transaction twice": (rewrite("0003_c.sql", ";", "; SELECT 1;"), "must be one CREATE INDEX"),
    "in another schema": (rewrite("0003_c.sql", "EXISTS person", "EXISTS public.person"), "must be one CREATE INDEX"),
    "table of another schema": (rewrite("0003_c.sql", "ON person", "ON other.person"), "must be one CREATE INDEX"),
    "table of a quoted schema": (
        rewrite("0003_c.sql", "ON person", 'ON "an other" . person'),
        "must be one CREATE INDEX",
    ),
    "no IF NOT EXISTS": (rewrite("0003_c.sql", "IF NOT EXISTS ", ""), "must be one CREATE INDEX"),
    "transaction": (rewrite("0003_c.sql", "-- migrate: no-transaction\n", ""), "must be one CREATE INDEX"),
    "time without transaction": (
        rewrite("0003_c.sql", "CREATE", "-- migrate: statement-timeout=1h\nCREATE"),
        "has no limit of time without a transaction",
    ),
    "seal edited": (seal_lines(lambda lines: [lines[0].replace(" ", "  ", 1), *lines[1:]]), "is not as it was written"),
    "seal forged": (
        seal_lines(lambda lines: [lines[0], lines[1].replace(lines[1].split()[1], "0" * 64), lines[2]]),
        f"{TWO} was edited after it was sealed: sealed 0{{64}}, file [0-9a-f]{{64}}",
    ),
    "seal reordered": (seal_lines(lambda lines: [lines[1], lines[0], lines[2]]), "is not as it was written"),
    "seal doubled": (seal_lines(lambda lines: [lines[0], *lines]), "is not as it was written"),
    "seal shortened": (seal_lines(lambda lines: lines[1:]), "0001_a.sql is not sealed"),
    "seal not UTF-8": (lambda sql: (sql / SEAL).write_bytes(b"\xff\n"), "is not as it was written"),
    "seal gone": (lambda sql: (sql / SEAL).unlink(), "0001_a.sql is not sealed"),
    "snapshot edited": (
        rewrite(SNAPSHOT, "person.town text", "person.town integer"),
        "schema.snapshot was edited: sealed [0-9a-f]{64}, file [0-9a-f]{64}",
    ),
    "snapshot gone": (lambda sql: (sql / SNAPSHOT).unlink(), "schema.snapshot was edited"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_what_was_changed_is_refused(three: Database, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    """4 with a way out and the checksums, for each command, before a database is asked."""
    make, complaint = CHANGED[change]
    make(three.sql)
    for words in ("up", "status", "verify", "check"):
        assert three.inside(words, "--json") == INTEGRITY
        [line] = map(json.loads, capsys.readouterr().out.splitlines())
        with pytest.raises(MigrationError, match=complaint) as caught:
            files.read_files(three.sql)
        assert (line["message"], line["fix"], line["exit_code"]) == (str(caught.value), caught.value.fix, INTEGRITY)
        if change in ("renamed", "deleted", "a number twice", "a byte"):
            assert "if it was never merged, take its line out of sql/migrations.sum and run make seal" in line["fix"]
        if "snapshot" in change:
            assert "or make seal" in line["fix"]
        if "edited" in complaint:
            assert len({word.rstrip(",") for word in str(caught.value).split() if len(word.rstrip(",")) == 64}) == 2


def test_what_cannot_be_read_is_refused(three: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """4 in one line, when a file is a directory, when there is no sql/, and when there is no git."""
    (three.sql / "0004_d.sql").mkdir()
    with patch.dict(os.environ, {"PATH": ""}):
        codes = [three.inside(command, "--json") for command in ("up", "status", "check")]
        (three.sql / "0004_d.sql").rmdir()
        codes.append(three.inside("check", "--json", "--base=HEAD"))
    shutil.rmtree(three.sql)
    codes += [three.inside("up", "--json"), three.inside("new", "--json", "x")]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert codes == [line["exit_code"] for line in lines] == [INTEGRITY] * 6
    assert all(line["fix"] for line in lines)


def test_an_editors_own_files_are_left_alone(three: Database) -> None:
    """Emacs locks a file with a hidden link that leads nowhere."""
    (three.sql / ".#0002_b.sql").symlink_to("somebody@somewhere.1234")
    assert len(files.read_files(three.sql)) == 3


def test_what_is_in_order_is_accepted(three: Database) -> None:
    """The same files without a change, with each directive, are read as they were written."""
    three.write(CONTRACT, DROP_INDEX, "-- migrate: statement-timeout=2h\n-- migrate: contract-for=0006\nSELECT 1;\n")
    read = files.read_files(three.sql)
    assert [file.index for file in read] == [None, None, "person_town", None, "person_name", None]
    assert [file.contract_for for file in read] == [0, 0, 0, 2, 0, 6]
    assert [file.statement_timeout for file in read] == ["1min"] * 5 + ["2h"]
    assert [file.checksum for file in read] == [sha256(text.encode()).hexdigest() for text in three.written.values()]
    assert [file.snapshot is None for file in read] == [True] * 5 + [False]


def test_code_that_comes_later_cannot_be_asked_for(three: Database) -> None:
    """contract-for a number above the file's own would lock this very code out."""
    (three.sql / "0004_d.sql").write_text("-- migrate: contract-for=0005\nSELECT 1;\n")
    with pytest.raises(MigrationError, match="contract-for code that comes after it"):
        files.read_files(three.sql, unsealed=True)


def test_a_seal_with_a_hole_is_not_filled(three: Database) -> None:
    """`make seal` may only append: a line that was taken out of the middle comes back from git."""
    seal_lines(lambda lines: [lines[0], lines[2]])(three.sql)
    with pytest.raises(MigrationError, match=f"{TWO} is not sealed"):
        files.read_files(three.sql, unsealed=True)


class TestBase:
    """`check --base COMMIT`, in a repository of its own."""

    @pytest.fixture
    def repository(self, three: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
        """Two sealed files are committed; a third one came after."""
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            monkeypatch.delenv(name)
        git(three, "init", "--quiet")
        git(three, "commit", "--quiet", "--allow-empty", "-m", "nothing")
        third = (three.sql / "0003_c.sql").read_text()
        (three.sql / "0003_c.sql").unlink()
        three.written.popitem()
        (three.sql / SEAL).unlink()
        three.seal()
        git(three, "add", "sql")
        git(three, "commit", "--quiet", "-m", "two")
        three.write(third)
        return three

    def test_a_seal_may_grow(self, repository: Database) -> None:
        """0 when lines were only appended."""
        assert repository.inside("check", "--base", "HEAD") == 0

    def test_a_rewritten_seal_is_refused(self, repository: Database, capsys: pytest.CaptureFixture[str]) -> None:
        """4 when a merged file was edited and sealed anew, which the files alone cannot show."""
        (repository.sql / TWO).write_text("ALTER TABLE person ADD COLUMN town varchar(80);\n")
        old = (repository.sql / SEAL).read_text().splitlines()[2]
        (repository.sql / SEAL).unlink()
        repository.seal()
        new = (repository.sql / SEAL).read_text().splitlines()[2]
        assert repository.inside("check") == 0
        capsys.readouterr()
        assert repository.inside("check", "--base", "HEAD") == INTEGRITY
        printed = capsys.readouterr().out
        assert f"It was: {old}. It is: {new}\nfix: git checkout HEAD -- sql" in printed

    def test_a_file_and_its_line_taken_away_are_refused(self, repository: Database) -> None:
        """4 when the newest merged migration is gone with its line."""
        for name in (TWO, "0003_c.sql", SEAL):
            (repository.sql / name).unlink()
        repository.seal()
        assert repository.inside("check") == 0
        assert repository.inside("check", "--base", "HEAD") == INTEGRITY

    @pytest.mark.parametrize("base", ["nowhere", "0" * 40, "--help", "--format=x", "HEAD:sql", "HEAD~1"])
    def test_a_commit_without_a_seal_is_refused(
        self, repository: Database, capfd: pytest.CaptureFixture[str], base: str
    ) -> None:
        """4 in one line, with the words of git: a check against nothing proves nothing."""
        assert repository.inside("check", "--json", f"--base={base}") == INTEGRITY
        [line] = map(json.loads, "".join(capfd.readouterr()).splitlines())
        assert f"{base}:./migrations.sum: fatal: " in line["message"]


def git(database: Database, *arguments: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    subprocess.check_call(["git", *who, *arguments], cwd=database.root)


def test_the_files_of_this_repository_are_in_order() -> None:
    """Each is sealed, and the newest has a snapshot."""
    read = files.read_files()
    assert read[-1].snapshot
    assert all(file.sealed_fingerprint for file in read)


def test_the_seal_of_this_repository_is_true(database: Database) -> None:
    """Its files build what their seal and the snapshot say, on a PostgreSQL like the one that sealed the newest."""
    shutil.rmtree(database.sql)
    shutil.copytree(ROOT / "sql", database.sql)
    ours = (database.sql / SEAL).read_text(), (database.sql / SNAPSHOT).read_text()
    major = database.ask("SELECT current_setting('server_version_num')::integer / 10000")
    if major != files.read_files()[-1].sealed_major:
        pytest.skip(f"this server is PostgreSQL {major}, and the seal is of another one")
    (database.sql / SNAPSHOT).unlink()
    database.seal()
    assert ((database.sql / SEAL).read_text(), (database.sql / SNAPSHOT).read_text()) == ours
    assert len(database.up()) == len(files.read_files())
