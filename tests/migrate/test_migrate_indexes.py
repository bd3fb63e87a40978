"""Files without a transaction: `up` builds exactly their index, also over what is left of another one."""

import re

from service.migrate import files
from tests.support.migrations import INDEX, PEOPLE, TOWN, Database, refused


def test_a_unique_index_over_duplicates_is_refused(each: Database) -> None:
    """Exit code 9 with the reason at each attempt; the index is built after the duplicate is deleted."""
    each.write(PEOPLE, TOWN)
    each.up()
    each.execute("INSERT INTO person (town) VALUES ('Köln'), ('Köln')")
    each.write(INDEX)
    for _ in range(2):
        assert "(town)=(Köln) is duplicated" in str(refused(each, files.INTERRUPTED))
        assert not each.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'person_town'::regclass")
    each.execute("DELETE FROM person WHERE id = 1")
    assert len(each.up()) == 1
    assert each.verify() == []


def test_a_manual_index_of_the_same_name_is_replaced(each: Database) -> None:
    """The result is the index of the file, with the recorded fingerprint."""
    each.write(PEOPLE, TOWN, INDEX)
    each.up()
    complete = each.state()
    for index in ("CREATE INDEX person_town ON person (mood)", "CREATE UNIQUE INDEX person_town ON person (town)"):
        each.execute(f"DROP INDEX person_town; DELETE FROM schema_migration WHERE version = 3; {index}")
        assert len(each.up()) == 1
        assert (each.state(), each.verify()) == (complete, [])


def test_a_manual_index_is_replaced_where_fingerprints_are_not_compared(each: Database) -> None:
    """With a checksum file of another major version, the result is the index of the file too."""
    each.write(PEOPLE, TOWN, INDEX)
    checksums, snapshot = each.sql / files.CHECKSUMS, each.sql / files.SNAPSHOT
    snapshot.write_text(snapshot.read_text().replace("PostgreSQL ", "PostgreSQL 9", 1))
    other = files.fingerprint(snapshot.read_text().rstrip("\n"))
    checksums.write_text(re.sub(r" ([0-9]+) [0-9a-f]{64}\n", rf" 9\1 {other}\n", checksums.read_text()))
    each.up()
    before = each.state()
    each.execute("DROP INDEX person_town; DELETE FROM schema_migration WHERE version = 3")
    each.execute("CREATE INDEX person_town ON person (mood)")
    assert len(each.up()) == 1
    assert each.state() == before


def test_other_manual_changes_are_drift_before_an_index_too(each: Database) -> None:
    """Exit code 3 before the index is built: only an index of the same name is accepted."""
    each.write(PEOPLE, TOWN)
    each.up()
    each.execute("CREATE INDEX person_town_too ON person (town)")
    each.write(INDEX)
    before = each.contents()
    assert len(refused(each, files.DRIFT).difference) == 1
    assert each.contents() == before
