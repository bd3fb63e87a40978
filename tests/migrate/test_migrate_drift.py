"""Manual changes of the schema: `up` and `verify` list the lines that differ, and nothing is applied."""

import re

import psycopg
import pytest

from service.migrate import files, schema
from tests.support.migrations import PEOPLE, TOWN, Database, refused, superuser_url

PERSON_NAME = "index person_name CREATE INDEX person_name ON public.person USING btree (name)"
SHOUT = (
    "+ function shout() CREATE OR REPLACE FUNCTION public.shout()\\n RETURNS trigger\\n LANGUAGE plpgsql\\n"
    "AS $function$ BEGIN RETURN NEW; END $function$\\n"
)
ADULT = [
    "- column adult.id bigint",
    "- column adult.name text",
    '- rule adult._RETURN CREATE RULE "_RETURN" AS ON SELECT TO public.adult DO INSTEAD  SELECT id, name FROM person'
    " WHERE (age >= 18);",
    "- table adult v p f",
]

# For each manual change: the statement, and the lines that must be reported.
MANUAL_CHANGES = {
    "column added": ("ALTER TABLE person ADD COLUMN extra text", ["+ column person.extra text"]),
    "type": (
        "ALTER TABLE person ALTER COLUMN mood TYPE text",
        ["- column person.mood mood", "+ column person.mood text"],
    ),
    "NOT NULL": (
        "ALTER TABLE person ALTER COLUMN age SET NOT NULL",
        ["- column person.age integer", "+ column person.age integer NOT NULL"],
    ),
    "default": (
        "ALTER TABLE person ALTER COLUMN name SET DEFAULT 'no body'",  # one space fewer
        [
            "- column person.name text NOT NULL DEFAULT 'no  body'::text",
            "+ column person.name text NOT NULL DEFAULT 'no body'::text",
        ],
    ),
    "index dropped": ("DROP INDEX person_name", [f"- {PERSON_NAME}"]),
    "index added": (
        "CREATE INDEX mine ON person (age)",
        ["+ index mine CREATE INDEX mine ON public.person USING btree (age)"],
    ),
    "constraint": (
        "ALTER TABLE person DROP CONSTRAINT person_age",
        ["- constraint person.person_age CHECK ((age >= 0))"],
    ),
    "trigger": (
        "ALTER TABLE person DISABLE TRIGGER person_shouts",
        [
            f"{sign} trigger person.person_shouts {state} CREATE TRIGGER person_shouts BEFORE INSERT ON public.person"
            " FOR EACH ROW EXECUTE FUNCTION shout()"
            for sign, state in (("-", "O"), ("+", "D"))
        ],
    ),
    "enum label": ("ALTER TYPE mood ADD VALUE 'odd'", ["- enum mood glad < sad", "+ enum mood glad < sad < odd"]),
    "function": (
        "CREATE OR REPLACE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        [SHOUT],
    ),
    "grant": ("GRANT DELETE ON person TO ledger_service", ["+ right person DELETE TO ledger_service"]),
    "grant to all": ("GRANT SELECT ON person TO PUBLIC", ["+ right person SELECT TO PUBLIC"]),
    "column grant": ("GRANT UPDATE (age) ON person TO ledger_service", ["+ right person.age UPDATE TO ledger_service"]),
    "revoked": ("REVOKE SELECT ON person FROM ledger_service", ["- right person SELECT TO ledger_service"]),
    "view": ("DROP VIEW adult", ADULT),
    "table": ("CREATE UNLOGGED TABLE own (id integer)", ["+ column own.id integer", "+ table own r u f"]),
    "storage": (
        "ALTER TABLE person SET (fillfactor = 50)",
        ["- table person r p f", "+ table person r p {fillfactor=50} f"],
    ),
    "rows hidden from the owner": (
        "ALTER TABLE person FORCE ROW LEVEL SECURITY",
        ["- table person r p f", "+ table person r p f FORCE ROW LEVEL SECURITY"],
    ),
    "grant to be passed on": (
        "GRANT INSERT ON person TO ledger_service WITH GRANT OPTION",
        ["+ right person INSERT TO ledger_service WITH GRANT OPTION"],
    ),
    "grant on the schema": ("GRANT CREATE ON SCHEMA public TO PUBLIC", ["+ right schema public CREATE TO PUBLIC"]),
    "grant on the schema to the service": (
        "GRANT ALL ON SCHEMA public TO ledger_service",
        ["+ right schema public CREATE TO ledger_service"],
    ),
    "newline of a function": (
        "CREATE OR REPLACE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\n"
        "    -- All names are in capitals.    NEW.name := upper(NEW.name);\n    RETURN NEW;\nEND\n$$",
        [
            "+ function shout() CREATE OR REPLACE FUNCTION public.shout()\\n RETURNS trigger\\n LANGUAGE plpgsql\\n"
            "AS $function$\\nBEGIN\\n    -- All names are in capitals.    NEW.name := upper(NEW.name);\\n"
            "    RETURN NEW;\\nEND\\n$function$\\n"
        ],
    ),
}


@pytest.mark.parametrize("change", MANUAL_CHANGES)
def test_a_manual_change_is_listed(database: Database, change: str) -> None:
    """`verify` and `up` end with 3 and list the lines of this object only; a pending file is not applied."""
    change_and_compare(database, *MANUAL_CHANGES[change])


def test_all_manual_changes_together_are_listed(each: Database) -> None:
    """The lines are the same on every major version of PostgreSQL."""
    overlapping = ("storage", "newline of a function", "index dropped")
    changes = [MANUAL_CHANGES[name] for name in MANUAL_CHANGES if name not in overlapping]
    statements = "; ".join(statement for statement, _ in changes)
    change_and_compare(each, statements, [line for _, lines in changes for line in lines])


def change_and_compare(database: Database, statements: str, lines: list[str]) -> None:
    database.write(PEOPLE)
    database.up()
    database.execute(statements)
    database.write(TOWN)
    before = database.contents()
    for verify in (True, False):
        error = refused(database, files.DRIFT, verify=verify)
        # Up to PostgreSQL 15, the definition of a view has the table's name before each column.
        listed = [
            line.replace("person.id, person.name", "id, name").replace("person.age >=", "age >=")
            for line in error.difference
            if not line.startswith("- function")
        ]
        assert sorted(listed) == sorted(lines)
    assert database.contents() == before


PET = """\
CREATE TABLE pet (owner_id bigint CONSTRAINT pet_owner REFERENCES person, name text);
CREATE RULE pet_stays AS ON DELETE TO pet DO INSTEAD NOTHING;
"""
OWNED = "constraint pet.pet_owner FOREIGN KEY (owner_id) REFERENCES person(id)"
STAYS = "CREATE RULE pet_stays AS ON DELETE TO public.pet DO INSTEAD NOTHING;"


@pytest.mark.parametrize(
    ("statement", "lines"),
    [
        ("ALTER TABLE pet DISABLE TRIGGER ALL", [f"- {OWNED}", f"+ {OWNED} DISABLED"]),
        ("ALTER TABLE person DISABLE TRIGGER ALL; ALTER TABLE person ENABLE TRIGGER USER",
         [f"- {OWNED}", f"+ {OWNED} DISABLED"]),
        ("ALTER TABLE pet DISABLE RULE pet_stays",
         [f"- rule pet.pet_stays {STAYS}", f"+ rule pet.pet_stays D {STAYS}"]),
    ],
)  # fmt: skip
def test_disabled_triggers_and_rules_are_listed(each: Database, statement: str, lines: list[str]) -> None:
    """A foreign key is not enforced if a superuser disabled its triggers."""
    each.write(PEOPLE, PET)
    each.up()
    with psycopg.connect(superuser_url(each), autocommit=True) as connection:
        connection.execute(statement.encode())
    assert sorted(refused(each, files.DRIFT, verify=True).difference) == sorted(lines)


def test_a_second_grantor_of_a_privilege_is_no_drift(each: Database) -> None:
    """The schema text does not have the grantors."""
    each.write(PEOPLE)
    each.up()
    role = f"grantor_of_{each.query('SELECT current_database()')}"
    with psycopg.connect(superuser_url(each), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role}; GRANT SELECT ON person TO {role} WITH GRANT OPTION".encode())
        connection.execute(f"SET ROLE {role}; GRANT SELECT ON person TO ledger_service; RESET ROLE".encode())
        try:
            assert each.verify() == []
        finally:
            connection.execute(f"REVOKE ALL ON person FROM {role} CASCADE; DROP ROLE {role}".encode())


def test_the_lines_that_differ_between_two_engineers_are_listed(each: Database) -> None:
    """If an unmerged file was edited after somebody applied it, `up` lists the lines that differ, and what to do."""
    each.write(PEOPLE, "ALTER TABLE person ADD COLUMN town text;\n")
    each.up()
    checksums = each.sql / files.CHECKSUMS
    checksums.write_text("".join(checksums.read_text().splitlines(keepends=True)[:-1]))
    (each.sql / "0002_b.sql").write_text("ALTER TABLE person ADD COLUMN town varchar(80) NOT NULL DEFAULT '';\n")
    each.seal()
    before = each.contents()
    for verify in (True, False):
        error = refused(each, files.INTEGRITY, verify=verify)
        assert error.difference == [
            "- column person.town character varying(80) NOT NULL DEFAULT ''::character varying",
            "+ column person.town text",
        ]
        assert "make clean" in error.fix
        for checksum in (each.read()[1].checksum, each.query("SELECT checksum FROM schema_migration OFFSET 1")):
            assert checksum in str(error)
    assert each.contents() == before


def forge_fingerprint(database: Database, number: int) -> None:
    """Replace the fingerprint in a line of the checksum file."""
    checksums = database.sql / files.CHECKSUMS
    lines = checksums.read_text().splitlines()
    lines[number] = f"{lines[number][:-64]}{'0' * 64}"
    checksums.write_text("\n".join([*lines, ""]))


def test_a_first_file_with_another_fingerprint_is_rolled_back(each: Database) -> None:
    """Exit code 3 if the schema after a file is not the recorded one; the file has no row in the history."""
    each.write(PEOPLE, TOWN)
    forge_fingerprint(each, 1)
    message = str(refused(each, files.DRIFT))
    assert message == "the schema after 0001_a.sql does not have the recorded fingerprint"
    versions, schema_text = each.state()
    assert (versions, schema_text) == ([], schema.major(schema_text))


def test_a_later_file_with_another_fingerprint_is_rolled_back(each: Database) -> None:
    """The files before it stay applied."""
    each.write(PEOPLE, TOWN)
    forge_fingerprint(each, 2)
    message = str(refused(each, files.DRIFT, allow_new=True))
    assert message == "the schema after 0002_b.sql does not have the recorded fingerprint"
    versions, schema_text = each.state()
    assert (versions, "person.town" in schema_text) == ([1], False)


def test_objects_outside_the_schema_text_are_no_drift(each: Database) -> None:
    """Privileges of other roles, the history, other schemas, and objects of the server are not compared."""
    each.write(PEOPLE)
    each.up()
    role = f"reader_of_{each.query('SELECT current_database()')}"
    each.execute(f"CREATE ROLE {role}; GRANT SELECT, UPDATE ON person TO {role}")
    try:
        each.execute("CREATE INDEX mine ON schema_migration (name); ALTER TABLE schema_migration ADD note text")
        each.execute(
            "CREATE SCHEMA other; CREATE TABLE other.person (id integer); CREATE TYPE other.mood AS ENUM ('x')"
        )
        each.execute("CREATE TEMPORARY TABLE mine (id integer PRIMARY KEY)")
        each.execute("ANALYZE; CREATE PUBLICATION mine; COMMENT ON TABLE person IS 'a comment'")
        each.write(TOWN)
        assert each.verify() == each.up()
        assert each.verify() == []
    finally:
        each.execute("DROP PUBLICATION IF EXISTS mine")
        each.execute(f"REVOKE ALL ON person FROM {role}; DROP ROLE {role}")


def test_objects_of_extensions_are_no_drift(database: Database) -> None:
    """A table with its index, a type, a view and a function of an extension are not in the schema text."""
    database.write(PEOPLE)
    database.up()
    before = database.state()
    database.execute("CREATE TABLE theirs (id integer PRIMARY KEY, at integer); CREATE TYPE their_mood AS ENUM ('x')")
    database.execute("CREATE INDEX theirs_at ON theirs (at); CREATE VIEW their_view AS SELECT 1 AS one")
    database.execute("CREATE FUNCTION their_function() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    assert database.state() != before
    alter_extension(database, "ADD")
    try:
        database.execute("CREATE SEQUENCE ours")
        assert database.state()[1].splitlines() == sorted([*before[1].splitlines(), "table ours S p f"], key=str.encode)
        database.execute("DROP SEQUENCE ours")
        assert (database.state(), database.verify()) == (before, [])
    finally:
        alter_extension(database, "DROP")


def alter_extension(database: Database, action: str) -> None:
    with psycopg.connect(superuser_url(database), autocommit=True) as connection:
        for member in ("TABLE theirs", "TYPE their_mood", "VIEW their_view", "FUNCTION their_function()"):
            connection.execute(f"ALTER EXTENSION plpgsql {action} {member}".encode())


def test_fingerprints_of_another_major_are_not_compared(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """A warning is logged; a manual change is still found, because the history has the schema too."""
    database.write(PEOPLE, TOWN)
    pretend_another_major(database)
    with caplog.at_level("WARNING", "ledger"):
        assert len(database.up()) == 2
    assert {vars(record)["event"] for record in caplog.records} == {"migration.unproven"}
    database.execute("ALTER TABLE person ADD COLUMN mine text")
    assert refused(database, files.DRIFT).difference == ["+ column person.mine text"]


def test_checksums_of_another_major_are_compared(database: Database) -> None:
    """Edits are refused, but without a difference, because each major version prints the schema in its own way."""
    database.write(PEOPLE, TOWN)
    pretend_another_major(database)
    database.up()
    database.execute("UPDATE schema_migration SET checksum = 'other' WHERE version = 2")
    assert refused(database, files.INTEGRITY).difference == []
    with (database.sql / "0001_a.sql").open("a") as edited:
        edited.write("-- x\n")
    refused(database, files.INTEGRITY)


def pretend_another_major(database: Database) -> None:
    """Rewrite the checksum file and the snapshot as if another major version of PostgreSQL had made them."""
    checksums, snapshot = database.sql / files.CHECKSUMS, database.sql / files.SNAPSHOT
    other = snapshot.read_text().rstrip().replace("PostgreSQL ", "PostgreSQL 9")
    lines = [
        re.sub(r" ([0-9]+) [0-9a-f]{64}$", rf" 9\1 {files.fingerprint(other)}", line)
        for line in checksums.read_text().splitlines()
    ]
    checksums.write_text("\n".join([*lines, ""]))
    snapshot.write_text(other)


def test_a_database_with_tables_but_no_history_is_refused(each: Database) -> None:
    """Exit code 3, and schema_migration is not created."""
    each.write(PEOPLE)
    each.execute("CREATE TABLE theirs (id integer)")
    before = each.contents()
    assert refused(each, files.DRIFT).difference[0] == "+ column theirs.id integer"
    assert each.contents() == before


def test_verify_accepts_an_empty_database(each: Database) -> None:
    """All files are pending, and nothing is created."""
    pending = each.write(PEOPLE, TOWN)
    before = each.contents()
    assert each.verify() == pending
    assert each.contents() == before
