"""tests/old_release.sh and tests/lint_sql.sh: what a new migration may do to what is running."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import ROOT
from tests.migrations import Database

QUICK = "-q tests/test_put_account.py tests/test_get_account.py"
KEPT_OUT = shutil.ignore_patterns(".git", ".venv", ".data", ".env", "__pycache__", ".*_cache", ".hypothesis")
SQUAWK = Path(sys.executable).with_name("squawk")
EXPAND = "ALTER TABLE account ADD COLUMN note text;\n"
BREAK = "-- squawk-ignore ban-drop-column\nALTER TABLE account DROP COLUMN created_by;\n"
CONTRACT = f"-- migrate: contract-for=0001\n{BREAK}"


@pytest.fixture
def repository(database: Database) -> Database:
    """A repository with everything that is here, whose only commit is not tagged; its sql/ is that of `database`."""
    shutil.rmtree(database.sql)
    shutil.copytree(ROOT, database.root, ignore=KEPT_OUT, dirs_exist_ok=True)
    git(database, "init", "--quiet")
    git(database, "add", "--all")
    git(database, "commit", "--quiet", "-m", "all")
    return database


def git(database: Database, *arguments: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    subprocess.check_call(["git", *who, *arguments], cwd=database.root, env=clean())


def clean() -> dict[str, str]:
    """The environment without what a commit hook would say of another repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTEST_"))}


def add(database: Database, content: str) -> None:
    number = len(list(database.sql.glob("*.sql"))) + 1
    (database.sql / f"{number:04}_next.sql").write_text(content)
    database.seal()


def old_release(database: Database) -> tuple[bool, str]:
    """Whether it is content, and what it says."""
    environment = {**clean(), "PYTHON": sys.executable, "PYTEST_ADDOPTS": QUICK}
    command = ["sh", "tests/old_release.sh"]
    done = subprocess.run(command, cwd=database.root, env=environment, capture_output=True, text=True)
    assert subprocess.check_output(["git", "worktree", "list"], cwd=database.root, text=True).count("\n") == 1
    return done.returncode == 0, done.stdout + done.stderr


def test_says_when_there_is_nothing_to_try(repository: Database) -> None:
    """No release, no new migration, or one that no old release survives: it says which, and is content."""
    assert old_release(repository) == (True, "old release: there is none yet, nothing to try\n")
    git(repository, "tag", "v9.0.0")
    assert old_release(repository) == (True, "old release: v9.0.0 has all migrations, nothing to try\n")
    add(repository, CONTRACT)
    fine, printed = old_release(repository)
    assert (fine, "is a contract migration: the old release must be gone before" in printed) == (True, True)


@pytest.mark.parametrize(("content", "survives"), [(EXPAND, True), (BREAK, False)], ids=["expands", "breaks"])
def test_the_old_release_is_tried_on_the_new_schema(repository: Database, content: str, survives: bool) -> None:
    """Its tests pass where a column was added, and fail where one that it uses was dropped."""
    git(repository, "tag", "v9.0.0")
    add(repository, content)
    fine, printed = old_release(repository)
    assert "the tests of v9.0.0, on a schema with sql/000" in printed
    assert (fine, " failed" in printed) == (survives, not survives), printed


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (EXPAND, ""),
        (BREAK, ""),
        (BREAK.partition("\n")[2], "ban-drop-column"),
        ("CREATE INDEX account_note ON account (created_by);\n", "require-concurrent-index-creation"),
        (
            "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS account_by ON account (created_by);\n",
            "",
        ),
        ("ALTER TABLE account ADD CONSTRAINT account_x CHECK (held < 5);\n", "constraint-missing-not-valid"),
    ],
)
def test_new_files_are_linted(repository: Database, content: str, complaint: str) -> None:
    """What locks a table for long or breaks those who use it is refused, unless the file itself says that it must."""
    (repository.sql / "0009_next.sql").write_text(content)
    command = ["sh", "tests/lint_sql.sh", str(SQUAWK)]
    done = subprocess.run(command, cwd=repository.root, env=clean(), capture_output=True, text=True)
    assert (done.returncode == 0, complaint in done.stdout) == (not complaint, True), done.stdout


def test_released_files_are_not_linted_again(repository: Database) -> None:
    """A file that a tag has cannot be changed any more."""
    (repository.sql / "0009_next.sql").write_text(BREAK.partition("\n")[2])
    git(repository, "add", "sql")
    git(repository, "commit", "--quiet", "-m", "released")
    git(repository, "tag", "v9.0.0")
    subprocess.check_call(["sh", "tests/lint_sql.sh", str(SQUAWK)], cwd=repository.root, env=clean())
