"""Settings of the login and of earlier files do not affect a file or the text of the schema."""

import pytest
from psycopg.conninfo import make_conninfo

from service.migrate import runner
from tests.support.migrations import PEOPLE, Database

HOSTILE = {
    "search_path": "other",
    "client_encoding": "'LATIN1'",
    "IntervalStyle": "'iso_8601'",
    "bytea_output": "'escape'",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "idle_in_transaction_session_timeout": "'10ms'",
    "idle_session_timeout": "'1min'",
    "lock_timeout": "1",
    "statement_timeout": "'2s'",
    "quote_all_identifiers": "on",
    "DateStyle": "'German'",
    "default_transaction_isolation": "'serializable'",
}


def test_status_reads_the_history_with_any_search_path(database: Database) -> None:
    """The history is read from the schema public, wherever the login searches first."""
    database.write(PEOPLE)
    database.up()
    elsewhere = make_conninfo(database.urls.owner, options="-c search_path=other")
    assert database.run_here("status", "--check", url=elsewhere) == 0


def test_settings_of_the_login_do_not_reach_files_and_schema(each: Database) -> None:
    """Neither its search_path nor its formats nor a short timeout."""
    each.write(
        PEOPLE,
        "CREATE TABLE constant (wait interval DEFAULT '1 day 2 hours', bytes bytea DEFAULT '\\x00ff',"
        " half double precision DEFAULT '0.30000000000000004'::double precision,"
        " CONSTRAINT short CHECK (wait < interval '3 days 1 hour'), CONSTRAINT sharp CHECK (bytes <> '\\xff00'));\n",
        "SELECT pg_sleep(0.3); -- 1 €\n",
    )
    settings = dict(HOSTILE)
    if each.query("SELECT current_setting('transaction_timeout', true)") is not None:
        settings["transaction_timeout"] = "'200ms'"
    name = each.query("SELECT current_database()")
    try:
        each.execute("; ".join(f"ALTER DATABASE {name} SET {setting} = {value}" for setting, value in settings.items()))
        assert len(each.up()) == 3
        assert each.verify() == []
        with each.connect() as connection:
            connection.execute(runner.SESSION)
            limits = "SELECT count(*) FROM pg_settings WHERE name LIKE '%session_timeout' AND setting <> '0'"
            assert connection.execute(limits).fetchone() == (0,)
    finally:
        each.execute(f"ALTER DATABASE {name} RESET ALL")


def test_settings_of_a_file_do_not_reach_the_next_file(each: Database) -> None:
    """Each file starts with the default settings, the role of the login and no temporary tables."""
    settings = "SET check_function_bodies = off; SET statement_timeout = '1h'; SET ROLE pg_database_owner;\n"
    check = "DO $$ BEGIN ASSERT current_setting('check_function_bodies') = 'on', 'it leaked'; END $$;\n"
    check += "DO $$ BEGIN ASSERT current_user <> 'pg_database_owner', 'it leaked'; END $$;\n"
    shadow = "CREATE TEMPORARY TABLE person AS SELECT * FROM public.person;\n"
    index = "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS person_age ON person (age);\n"
    each.write(PEOPLE, settings, check, shadow, index, "INSERT INTO person (name) VALUES ('x');\n")
    assert len(each.up()) == 6
    assert each.verify() == []
    assert each.query("SELECT name FROM person") == "X"


@pytest.mark.parametrize(
    "setting",
    [
        "SET TIME ZONE 'Europe/Berlin'",
        "SET IntervalStyle = 'iso_8601'",
        "SET quote_all_identifiers = on",
        "SET search_path = public, other",
        "SELECT set_config('search_path', '', false)",
    ],
)
def test_settings_of_a_file_do_not_reach_the_text_of_the_schema(database: Database, setting: str) -> None:
    """The recorded text is the one that later reads give; otherwise the next `verify` would report drift."""
    database.write(
        "CREATE SCHEMA other; CREATE TYPE other.color AS ENUM ('red');\n",
        f"{setting};\nCREATE TABLE public.thing (color other.color, wait interval DEFAULT '1 day 2 hours',"
        " at timestamptz CHECK (at > '2020-01-01 00:00+00'));\n",
    )
    assert len(database.up()) == 2
    assert database.verify() == []
    assert database.query("SELECT schema FROM schema_migration ORDER BY version DESC") == database.state()[1]
