"""tests/migrate/old_release.sh and dev/lint_sql.sh: a new migration must not break the release that is running."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.live import ROOT
from tests.support.migrations import Database, git

FEW_TESTS = "-q tests/api/test_put_account.py tests/api/test_get_account.py"
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".data", ".env", "__pycache__", ".*_cache", ".hypothesis")
SQUAWK = Path(sys.executable).with_name("squawk")
SCRIPT_SECONDS = 120  # limit of one run of a script
EXPAND = "ALTER TABLE account ADD COLUMN note text;\n"
DROP_COLUMN = "ALTER TABLE account DROP COLUMN created_by;\n"
BREAK = f"-- squawk-ignore ban-drop-column\n{DROP_COLUMN}"
CONTRACT = f"-- migrate: contract-for=0001\n{BREAK}"


@pytest.fixture
def repository(database: Database) -> Database:
    """A copy of this repository with one commit and no tag; its sql/ is that of `database`."""
    shutil.rmtree(database.sql)
    shutil.copytree(ROOT, database.root, ignore=NOT_COPIED, dirs_exist_ok=True)
    git(database.root, "init", "--quiet")
    git(database.root, "add", "--all")
    git(database.root, "commit", "--quiet", "-m", "all")
    return database


def add_migration(database: Database, content: str) -> Path:
    """Write the next migration, without a checksum."""
    path = database.sql / f"{len(list(database.sql.glob('*.sql'))) + 1:04}_next.sql"
    path.write_text(content)
    return path


def run(database: Database, *command: str, **variables: str) -> tuple[int, str]:
    """Exit code and output, without the variables of git and pytest that this process has."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTEST_"))}
    done = subprocess.run(
        command,
        cwd=database.root,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SCRIPT_SECONDS,
    )
    return done.returncode, done.stdout


def run_old_release(database: Database) -> tuple[int, str]:
    """Run the script, which must remove its git worktree."""
    result = run(database, "sh", "tests/migrate/old_release.sh", PYTHON=sys.executable, PYTEST_ADDOPTS=FEW_TESTS)
    assert git(database.root, "worktree", "list").count("\n") == 1
    return result


def lint(database: Database) -> tuple[int, str]:
    return run(database, "sh", "dev/lint_sql.sh", str(SQUAWK))


def test_the_old_release_is_not_tested_without_need(repository: Database) -> None:
    """Without a release, without a new migration, or after a contract migration, the script says so and succeeds."""
    assert run_old_release(repository) == (0, "old release: there is no release yet, nothing to test\n")
    git(repository.root, "tag", "v9.0.0")
    assert run_old_release(repository) == (0, "old release: v9.0.0 has all migrations, nothing to test\n")
    name = add_migration(repository, CONTRACT).name
    repository.seal()
    expected = f"old release: sql/{name} is a contract migration, which v9.0.0 does not have to support; not tested\n"
    assert run_old_release(repository) == (0, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("content", "code"), [(EXPAND, 0), (BREAK, 1)], ids=["expand", "break"])
def test_the_old_release_is_tested_on_the_new_schema(repository: Database, content: str, code: int) -> None:
    """Its tests pass after a column was added, and fail after a column that it uses was dropped."""
    git(repository.root, "tag", "v9.0.0")
    name = add_migration(repository, content).name
    repository.seal()
    found, printed = run_old_release(repository)
    assert f"old release: the tests of v9.0.0 on a schema with sql/{name}" in printed
    assert (found, " failed" in printed) == (code, code == 1), printed


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (EXPAND, ""),
        (BREAK, ""),
        (DROP_COLUMN, "ban-drop-column"),
        ("CREATE INDEX account_note ON account (created_by);\n", "require-concurrent-index-creation"),
        (
            "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS account_by ON account (created_by);\n",
            "",
        ),
        ("ALTER TABLE account ADD CONSTRAINT account_x CHECK (held < 5);\n", "constraint-missing-not-valid"),
    ],
    ids=["expand", "allowed drop", "drop", "index", "concurrent index", "constraint"],
)
def test_new_migrations_are_linted(repository: Database, content: str, complaint: str) -> None:
    """A statement that blocks or breaks the running service is refused, unless the file itself allows it."""
    add_migration(repository, content)
    code, printed = lint(repository)
    assert (code == 0, complaint in printed) == (not complaint, True), printed


def test_released_migrations_are_not_linted(repository: Database) -> None:
    """A file that a tag has cannot be changed."""
    add_migration(repository, DROP_COLUMN)
    assert lint(repository)[0] != 0
    git(repository.root, "add", "sql")
    git(repository.root, "commit", "--quiet", "-m", "released")
    git(repository.root, "tag", "v9.0.0")
    assert lint(repository)[0] == 0
