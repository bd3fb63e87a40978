"""`check --base COMMIT`: since that commit, lines may only have been added to the checksum file."""

import json
import os

import pytest

from service.migrate.files import CHECKSUMS, INTEGRITY
from tests.support.migrations import INDEX, PEOPLE, TOWN, Database, git


@pytest.fixture
def repository(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A git repository: the first commit is empty, the second one has two migrations, a third one is not committed."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git(database.root, "init", "--quiet")
    git(database.root, "commit", "--quiet", "--allow-empty", "-m", "nothing")
    database.write(PEOPLE, TOWN)
    git(database.root, "add", "sql")
    git(database.root, "commit", "--quiet", "-m", "two")
    database.write(INDEX)
    return database


def test_added_lines_are_accepted(repository: Database) -> None:
    """Exit code 0."""
    assert repository.run_here("check", "--base", "HEAD") == 0


def test_a_changed_line_is_refused(repository: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 4 if a merged file was edited and its checksum renewed, which `check` without a base cannot find."""
    old = (repository.sql / CHECKSUMS).read_text().splitlines()[2]
    (repository.sql / "0002_b.sql").write_text("ALTER TABLE person ADD COLUMN town varchar(80);\n")
    (repository.sql / CHECKSUMS).unlink()
    repository.seal()
    new = (repository.sql / CHECKSUMS).read_text().splitlines()[2]
    assert repository.run_here("check") == 0
    capsys.readouterr()
    assert repository.run_here("check", "--base", "HEAD") == INTEGRITY
    printed = capsys.readouterr().out
    assert f"Old: {old}. New: {new}\nfix: git checkout HEAD -- sql" in printed


def test_a_removed_file_is_refused(repository: Database) -> None:
    """Exit code 4 if the newest merged migration was removed together with its line."""
    for name in ("0002_b.sql", "0003_c.sql", CHECKSUMS):
        (repository.sql / name).unlink()
    repository.seal()
    assert repository.run_here("check") == 0
    assert repository.run_here("check", "--base", "HEAD") == INTEGRITY


@pytest.mark.parametrize("base", ["nowhere", "0" * 40, "--help", "--format=x", "HEAD:sql", "HEAD~1"])
def test_a_commit_without_a_checksum_file_is_refused(
    repository: Database, capfd: pytest.CaptureFixture[str], base: str
) -> None:
    """Exit code 4 in one line with the message of git, because nothing can be compared."""
    assert repository.run_here("check", "--json", f"--base={base}") == INTEGRITY
    [line] = map(json.loads, "".join(capfd.readouterr()).splitlines())
    assert f"{base}:./migrations.sum: fatal: " in line["message"]
