"""`python -m service.migrate`: the commands `status`, `up`, `verify` and `new`, their output and their exit codes."""

import os

import pytest

from service import VERSION
from service.migrate import files
from tests.support.migrations import PEOPLE, TOWN, Database


def test_a_migration_is_pending_until_up_applies_it(database: Database) -> None:
    """Each command reports its result as JSON lines with --json, and its exit code."""
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


def test_without_json_the_output_is_text(database: Database) -> None:
    """One line for each step; for an error the message, the lines that differ and the fix."""
    database.write(PEOPLE)
    assert database.run_text("status") == (0, "pending 0001_a.sql\n")
    assert database.run_text("up") == (0, "0001_a.sql applied\n1 applied, the schema is up to date\n")
    assert database.run_text("verify") == (0, "files, history and schema agree, 0 pending\n")
    database.execute("ALTER TABLE person ADD COLUMN mine text")
    code, printed = database.run_text("up")
    first, second, third = printed.splitlines()
    assert (code, first) == (3, "the live schema is not the one that the migrations left")
    assert (second, third.partition(" ")[0]) == ("+ column person.mine text", "fix:")


def test_the_history_has_the_user_the_release_and_the_schema(each: Database) -> None:
    """A row also has the time and the duration."""
    each.write(PEOPLE)
    each.up()
    found = each.query(
        "SELECT (applied_by = current_user, app_version, duration_ms > 0, applied_at <= now(), min_code)::text"
        " FROM schema_migration"
    )
    assert found == f"(t,{VERSION},t,t,0)"
    schema = each.query("SELECT schema FROM schema_migration")
    assert schema == each.state()[1] == files.read_files(each.sql)[0].snapshot


@pytest.mark.parametrize(
    "arguments", [["up", "3"], ["up", "--check"], ["status", "--base", "HEAD"], ["new", "x", "--check"], ["down"], []]
)
def test_an_invalid_command_line_does_nothing(database: Database, arguments: list[str]) -> None:
    """Exit code 2: an option of another command is refused too, because the caller expects an effect of it."""
    database.write(PEOPLE)
    before = database.contents()
    code, printed = database.run_text(*arguments)
    assert (code, "usage:" in printed) == (2, True)
    assert database.contents() == before


def test_new_creates_the_next_file(database: Database) -> None:
    """It has the next number, and is valid except that it has no checksum yet."""
    database.write(PEOPLE)
    assert database.run_text("new", "add_town") == (0, "created sql/0002_add_town.sql; edit it, then run make seal\n")
    assert [file.name for file in database.read()][1:] == ["0002_add_town.sql"]


@pytest.mark.parametrize("name", ["", "Town", "add-town", "a b", "../town", "a/b", "a/0002_b", "town.sql", "tówn"])
def test_new_refuses_an_invalid_name(database: Database, name: str) -> None:
    """Exit code 4, and no file is created."""
    database.write(PEOPLE)
    assert database.run_here("new", name) == 4
    assert set(os.listdir(database.sql)) == {"0001_a.sql", files.CHECKSUMS, files.SNAPSHOT}
