"""What was changed by hand is found: `up` and `verify` show the very lines, and nothing is applied."""

import re

import psycopg
import pytest

from service.migrate import files, runner, schema
from service.migrate.files import MigrationError
from tests.migrations import PEOPLE, TOWN, Database, superuser

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

BY_HAND = {
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
        "ALTER TABLE person ALTER COLUMN name SET DEFAULT 'no body'",  # one space less
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


def refused(database: Database, *, verify: bool = False) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        (database.verify if verify else database.up)()
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("change", BY_HAND)
def test_a_change_by_hand_is_shown(database: Database, change: str) -> None:
    """`verify` and `up` end with 3 and show the line of this object and no other, and a pending file is not applied."""
    compare(database, *BY_HAND[change])


def test_all_changes_by_hand_are_shown_together(each: Database) -> None:
    """On every PostgreSQL, in the same words."""
    alone = [BY_HAND[name] for name in BY_HAND if name not in ("storage", "newline of a function", "index dropped")]
    compare(each, "; ".join(change for change, _ in alone), [line for _, lines in alone for line in lines])


def compare(database: Database, change: str, lines: list[str]) -> None:
    database.write(PEOPLE)
    database.up()
    database.execute(change)
    database.write(TOWN)
    before = database.everything()
    for verify in (True, False):
        error = refused(database, verify=verify)
        assert error.exit_code == files.DRIFT
        # The definition of a view has the table's name before each column up to PostgreSQL 15.
        shown = [
            line.replace("person.id, person.name", "id, name").replace("person.age >=", "age >=")
            for line in error.difference
            if not line.startswith("- function")
        ]
        assert sorted(shown) == sorted(lines)
    assert database.everything() == before


PET = """\
CREATE TABLE pet (owner_id bigint CONSTRAINT pet_owner REFERENCES person, name text);
CREATE RULE pet_stays AS ON DELETE TO pet DO INSTEAD NOTHING;
"""
OWNED = "constraint pet.pet_owner FOREIGN KEY (owner_id) REFERENCES person(id)"
STAYS = "CREATE RULE pet_stays AS ON DELETE TO public.pet DO INSTEAD NOTHING;"


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ("ALTER TABLE pet DISABLE TRIGGER ALL", [f"- {OWNED}", f"+ {OWNED} DISABLED"]),
        ("ALTER TABLE person DISABLE TRIGGER ALL; ALTER TABLE person ENABLE TRIGGER USER",
         [f"- {OWNED}", f"+ {OWNED} DISABLED"]),
        ("ALTER TABLE pet DISABLE RULE pet_stays",
         [f"- rule pet.pet_stays {STAYS}", f"+ rule pet.pet_stays D {STAYS}"]),
    ],
)  # fmt: skip
def test_what_was_switched_off_is_shown(each: Database, change: str, lines: list[str]) -> None:
    """A foreign key whose triggers a superuser disabled holds nothing any more; nor does a disabled rule."""
    each.write(PEOPLE, PET)
    each.up()
    with psycopg.connect(superuser(each), autocommit=True) as connection:
        connection.execute(change.encode())
    assert sorted(refused(each, verify=True).difference) == sorted(lines)


def test_a_right_that_two_have_granted_is_one_right(each: Database) -> None:
    """Who granted it is not compared, so that a second grantor is no drift."""
    each.write(PEOPLE)
    each.up()
    role = f"giver_of_{each.ask('SELECT current_database()')}"
    with psycopg.connect(superuser(each), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role}; GRANT SELECT ON person TO {role} WITH GRANT OPTION".encode())
        connection.execute(f"SET ROLE {role}; GRANT SELECT ON person TO ledger_service; RESET ROLE".encode())
        try:
            assert each.verify() == []
        finally:
            connection.execute(f"REVOKE ALL ON person FROM {role} CASCADE; DROP ROLE {role}".encode())


def test_what_differs_between_two_engineers_is_named(each: Database) -> None:
    """One edits and seals an unmerged file after the other applied it: that one gets the lines, and what mends it."""
    each.write(PEOPLE, "ALTER TABLE person ADD COLUMN town text;\n")
    each.up()
    seal = each.sql / files.SEAL
    seal.write_text("".join(seal.read_text().splitlines(keepends=True)[:-1]))
    (each.sql / "0002_b.sql").write_text("ALTER TABLE person ADD COLUMN town varchar(80) NOT NULL DEFAULT '';\n")
    each.seal()
    before = each.everything()
    for verify in (True, False):
        error = refused(each, verify=verify)
        assert (error.exit_code, error.difference) == (
            files.INTEGRITY,
            [
                "- column person.town character varying(80) NOT NULL DEFAULT ''::character varying",
                "+ column person.town text",
            ],
        )
        assert "make clean" in error.fix
        checksums = [files.read_files(each.sql)[1].checksum, each.ask("SELECT checksum FROM schema_migration OFFSET 1")]
        assert all(checksum in str(error) for checksum in checksums)
    assert each.everything() == before


@pytest.mark.parametrize("number", [1, 2])
def test_a_result_that_is_not_the_sealed_one_is_rolled_back(each: Database, number: int) -> None:
    """3, as when the seal had been forged: nothing of the file stays, and it has no row in the history."""
    each.write(PEOPLE, TOWN)
    seal = each.sql / files.SEAL
    lines = seal.read_text().splitlines()
    lines[number] = f"{lines[number][:-64]}{'0' * 64}"
    seal.write_text("\n".join([*lines, ""]))
    if number == 1:
        with pytest.raises(MigrationError, match=r"the schema after 0001_a.sql is not what its seal says") as caught:
            each.up()
        assert each.state() == ([], schema.major(each.state()[1]))
    else:
        with each.connect() as connection:
            sealed = files.read_files(each.sql, unsealed=True)
            with pytest.raises(MigrationError, match=r"after 0002_b.sql is not what its seal says") as caught:
                runner.up(connection, sealed)
        assert each.state()[0] == [1]
        assert "person.town" not in each.state()[1]
    assert caught.value.exit_code == files.DRIFT


def test_what_belongs_to_others_is_no_drift(each: Database) -> None:
    """Rights of other roles, the history's own table, other schemas, and what is the server's are not looked at."""
    each.write(PEOPLE)
    each.up()
    role = f"reader_of_{each.ask('SELECT current_database()')}"
    each.execute(f"CREATE ROLE {role}; GRANT SELECT, UPDATE ON person TO {role}")
    try:
        each.execute("CREATE INDEX mine ON schema_migration (name); ALTER TABLE schema_migration ADD note text")
        each.execute(
            "CREATE SCHEMA other; CREATE TABLE other.person (id integer); CREATE TYPE other.mood AS ENUM ('x')"
        )
        each.execute("CREATE TEMPORARY TABLE mine (id integer PRIMARY KEY)")
        each.execute("ANALYZE; CREATE PUBLICATION mine; COMMENT ON TABLE person IS 'those who are'")
        each.write(TOWN)
        assert each.verify() == each.up()
        assert each.verify() == []
    finally:
        each.execute("DROP PUBLICATION IF EXISTS mine")
        each.execute(f"REVOKE ALL ON person FROM {role}; DROP ROLE {role}")


def test_objects_of_extensions_are_no_drift(database: Database) -> None:
    """A table with its index, a type, a view and a function that an extension brought stay out of the text."""
    database.write(PEOPLE)
    database.up()
    before = database.state()
    database.execute("CREATE TABLE theirs (id integer PRIMARY KEY, at integer); CREATE TYPE their_mood AS ENUM ('x')")
    database.execute("CREATE INDEX theirs_at ON theirs (at); CREATE VIEW their_view AS SELECT 1 AS one")
    database.execute("CREATE FUNCTION their_function() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    assert database.state() != before
    own(database, "ADD")
    try:
        database.execute("CREATE SEQUENCE ours")
        assert database.state()[1].splitlines() == sorted([*before[1].splitlines(), "table ours S p f"], key=str.encode)
        database.execute("DROP SEQUENCE ours")
        assert (database.state(), database.verify()) == (before, [])
    finally:
        own(database, "DROP")


def own(database: Database, deed: str) -> None:
    with psycopg.connect(superuser(database), autocommit=True) as connection:
        for member in ("TABLE theirs", "TYPE their_mood", "VIEW their_view", "FUNCTION their_function()"):
            connection.execute(f"ALTER EXTENSION plpgsql {deed} {member}".encode())


def test_the_seal_of_another_major_is_not_compared(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """A warning says so; edits are refused as ever, and a change by hand is found through the history's own text."""
    database.write(PEOPLE, TOWN)
    seal, snapshot = database.sql / files.SEAL, database.sql / files.SNAPSHOT
    other = snapshot.read_text().rstrip().replace("PostgreSQL ", "PostgreSQL 9")
    lines = [
        re.sub(r" ([0-9]+) [0-9a-f]{64}$", rf" 9\1 {files.fingerprint(other)}", line)
        for line in seal.read_text().splitlines()
    ]
    seal.write_text("\n".join([*lines, ""]))
    snapshot.write_text(other)
    with caplog.at_level("WARNING", "ledger"):
        assert len(database.up()) == 2
    assert {vars(record)["event"] for record in caplog.records} == {"migration.unproven"}
    database.execute("ALTER TABLE person ADD COLUMN mine text")
    error = refused(database)
    assert (error.exit_code, error.difference) == (files.DRIFT, ["+ column person.mine text"])
    database.execute("UPDATE schema_migration SET checksum = 'other' WHERE version = 2")
    error = refused(database)
    assert (error.exit_code, error.difference) == (files.INTEGRITY, [])  # each major words its lines in its own way
    with (database.sql / "0001_a.sql").open("a") as edited:
        edited.write("-- x\n")
    assert refused(database).exit_code == files.INTEGRITY


def test_a_database_of_somebody_else_is_left_alone(each: Database) -> None:
    """Where there are tables and no history, `up` ends with 3, and does not even make the table of the history."""
    each.write(PEOPLE)
    each.execute("CREATE TABLE theirs (id integer)")
    before = each.everything()
    error = refused(each)
    assert (error.exit_code, error.difference[0]) == (files.DRIFT, "+ column theirs.id integer")
    assert each.everything() == before


def test_verify_works_before_the_first_migration(each: Database) -> None:
    """An empty database is in order, everything is pending, and nothing is made in it."""
    pending = each.write(PEOPLE, TOWN)
    before = each.everything()
    assert each.verify() == pending
    assert each.everything() == before
