"""A migration that fails: it is rolled back completely, and the error has the reason."""

import pytest

from service.migrate import files
from tests.support.migrations import PEOPLE, Database, refused

PRELUDE = """\
CREATE PROCEDURE ending() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
CREATE TABLE deferred (id bigint REFERENCES person DEFERRABLE INITIALLY DEFERRED);
"""


@pytest.mark.parametrize(
    "statement",
    ["COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT here", "END", "ABORT", "START TRANSACTION", "COMMIT AND CHAIN",
     "PREPARE TRANSACTION 'x'", "DO 'BEGIN COMMIT; END'", "CALL ending()", "SELECT 1 / 0", "no such thing",
     "INSERT INTO deferred VALUES (1)", "VACUUM", "CREATE INDEX CONCURRENTLY ON three (id)"],
)  # fmt: skip
def test_a_failing_file_is_rolled_back(database: Database, statement: str) -> None:
    """Exit code 8: a statement that ends the transaction fails like an error, first or last in the file."""
    fail_with(database, statement)


def test_a_failing_file_is_rolled_back_on_every_postgresql(each: Database) -> None:
    """The same for the commands that end a transaction, on every major version."""
    for statement in ("COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT here", "SELECT 1 / 0"):
        fail_with(each, statement)
        each.reset()
        each.written.clear()
        for path in each.sql.iterdir():
            path.unlink()


def fail_with(database: Database, statement: str) -> None:
    database.write(PEOPLE, PRELUDE)
    database.up()
    before = database.contents()
    for content in (f"{statement};", f"CREATE TABLE three (id integer);\n{statement};\nDROP VIEW adult;"):
        (database.sql / "0003_c.sql").write_text(f"{content}\nCREATE TABLE four (id integer);\n{statement};\n")
        assert "nothing changed" in str(refused(database, files.FAILED, allow_new=True))
        assert database.contents() == before


@pytest.mark.parametrize(
    ("statement", "parts"),
    [
        ("SELECT nothing FROM person;", ['column "nothing" does not exist', "at line 1001 of the file"]),
        ("SELECT 1 / 0;", ["division by zero"]),
        ("DO 'BEGIN PERFORM 1 +; END';", ["syntax error"]),
        ("DO $$ BEGIN RAISE 'one' USING DETAIL = 'two', HINT = 'three'; END $$;", ["one; two; three"]),
    ],
    ids=["name", "division", "syntax", "raise"],
)
def test_the_error_has_the_reason_and_the_line_without_the_file(
    each: Database, statement: str, parts: list[str]
) -> None:
    """PostgreSQL repeats the whole file in the CONTEXT of its error; the message leaves that out."""
    each.write(PEOPLE)
    each.up()
    many = "INSERT INTO person (name) VALUES ('Köln');\n" * 1000
    (each.sql / "0002_b.sql").write_text(f"{many}{statement}\n")
    message = str(refused(each, files.FAILED, allow_new=True))
    assert message.startswith("0002_b.sql failed and was rolled back, nothing changed: ")
    assert all(part in message for part in parts)
    assert len(message) < 300
    assert ("line" in message) == ("line" in parts[-1])


def test_the_statement_timeout_limits_the_whole_file(each: Database) -> None:
    """Exit code 8 if the time of its directive has passed; the default is one minute, and a longer one is accepted."""
    each.write(PEOPLE)
    each.up()
    second = each.sql / "0002_b.sql"
    second.write_text("-- migrate: statement-timeout=100ms\nSELECT pg_sleep(0.3);\n")
    assert "statement timeout" in str(refused(each, files.FAILED, allow_new=True))
    second.write_text("-- migrate: statement-timeout=1h\nSELECT pg_sleep(0.3);\n")
    each.seal()
    assert len(each.up()) == 1
    assert each.state()[0] == [1, 2]
    assert each.read()[0].statement_timeout == "1min"


def test_the_statement_timeout_limits_deferred_constraints(database: Database) -> None:
    """They are checked inside the file's time limit, not in a COMMIT without a limit."""
    slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(9); RETURN NULL; END';\n"
    slow += "CREATE CONSTRAINT TRIGGER person_slow AFTER INSERT ON person DEFERRABLE INITIALLY DEFERRED"
    database.write(PEOPLE, f"{slow} FOR EACH ROW EXECUTE FUNCTION slow();\n")
    database.up()
    database.write("-- migrate: statement-timeout=100ms\nINSERT INTO person (name) VALUES ('x');\n", seal=False)
    assert "statement timeout" in str(refused(database, files.FAILED, allow_new=True))


def test_a_lost_connection_is_reported(database: Database) -> None:
    """Exit code 8 if the server ends the session during a file; the message says that `up` shows the result."""
    database.write(PEOPLE, "SELECT pg_terminate_backend(pg_backend_pid());\n", seal=False)
    error = refused(database, files.FAILED, allow_new=True)
    assert "lost its connection; run up to see whether it was applied" in str(error)
    assert database.state()[0] == [1]
