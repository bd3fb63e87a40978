"""The rights and the settings of the service in the database, and the names of its constraints."""

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL

from service import config, session
from service.ledger.posting import RETRIED_CONSTRAINTS
from service.server import build_application
from service.session import Connection
from tests.support.client import Client
from tests.support.ledger import Urls
from tests.support.waiting import wait_until


@pytest.fixture
def service(urls: Urls, client: Client) -> Iterator[psycopg.Connection[Any]]:
    """A connection with the role and the settings of the service, to a ledger with one transfer and one hold."""
    client.open("a", "b", min_balance=None)
    client.move("t", "a", "b", 1)
    client.hold("h", "a", "b", 1)
    with session.connect(urls.service) as connection:
        session.configure(connection)
        yield connection


@pytest.mark.promise(24)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfer SET amount = 2",
        "DELETE FROM transfer",
        "TRUNCATE transfer",
        "UPDATE transfer SET reverses = NULL, takes_rest = true",
        "DELETE FROM hold",
        "TRUNCATE hold",
        "UPDATE hold SET amount = 2",
        "UPDATE hold SET expires_at = NULL",
        "UPDATE hold SET to_account = 'c', from_account = 'c'",
        "UPDATE hold SET currency = 'USD'",
        "UPDATE hold SET created_at = now()",
        "DELETE FROM account",
        "UPDATE account SET id = 'c' WHERE id = 'a'",
        "UPDATE account SET currency = 'USD'",
        "UPDATE account SET created_by = 'x'",
        "INSERT INTO journal DEFAULT VALUES",
        "DELETE FROM journal",
        "UPDATE account_change SET changed_by = 'x'",
        "UPDATE account_change SET before = '{}'",
        "DELETE FROM account_change",
        "CREATE TABLE mine (id integer)",
        "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE transfer ADD COLUMN mine text",
        "DROP TABLE transfer",
        "ALTER TABLE account DISABLE TRIGGER ALL",
        "UPDATE schema_migration SET checksum = ''",
        "INSERT INTO schema_migration (version, name, checksum) VALUES (9, '', '')",
        "DELETE FROM schema_migration",
        "SET session_replication_role = replica",
    ],
)
def test_the_role_lacks_the_right(service: psycopg.Connection[Any], statement: str) -> None:
    """The service cannot change or delete what was posted, nor change the schema."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute(SQL(statement))


def test_the_pool_connects_under_the_role(client: Client) -> None:
    """The role of a pool's connection is ledger_service, not the login."""

    def read_role(connection: Connection) -> Any:
        return connection.execute("SELECT current_user, current_setting('is_superuser')").fetchone()

    assert client.application.dependencies.database.run(read_role) == ("ledger_service", "off")


def test_statements_use_indexes_and_no_jit(client: Client) -> None:
    """jit and enable_seqscan are off, so a posting finds the journal row through its index."""

    def read_plan(connection: Connection) -> Any:
        settings = connection.execute("SELECT current_setting('jit'), current_setting('enable_seqscan')").fetchone()
        rows = connection.execute("EXPLAIN UPDATE journal SET last_number = last_number WHERE only_row").fetchall()
        return settings, " ".join(line for (line,) in rows)

    settings, plan = client.application.dependencies.database.run(read_plan)
    assert settings == ("off", "off")
    assert "journal_pkey" in plan


def test_every_retried_constraint_exists(owner: psycopg.Connection[Any]) -> None:
    """RETRIED_CONSTRAINTS has names of constraints or unique indexes of the schema."""
    rows = owner.execute(
        "SELECT conname FROM pg_constraint UNION SELECT indexrelid::regclass::text FROM pg_index WHERE indisunique"
    )
    assert {name for (name,) in rows} >= RETRIED_CONSTRAINTS


def test_every_check_constraint_has_a_chosen_name(owner: psycopg.Connection[Any]) -> None:
    """The name begins with the table and is not one that PostgreSQL generated."""
    rows = owner.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND contype = 'c'"
    )
    assert all(name.startswith(f"{table}_") and not name.endswith("_check") for table, name in rows)


def test_no_index_covers_a_balance(owner: psycopg.Connection[Any]) -> None:
    """So PostgreSQL can update the rows of accounts and the journal without new index entries (HOT)."""
    rows = owner.execute(
        "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)"
        " WHERE indrelid IN ('account'::regclass, 'journal'::regclass)"
    )
    assert {name for (name,) in rows} == {"id", "only_row"}


def test_every_table_and_column_has_a_comment(owner: psycopg.Connection[Any]) -> None:
    """The schema documents itself: psql shows the comments."""
    rows = owner.execute(
        "SELECT relname, attname FROM pg_class LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0"
        " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'schema_migration'"
        " AND (obj_description(pg_class.oid, 'pg_class') IS NULL"
        " OR col_description(pg_class.oid, attnum) IS NULL AND NOT attisdropped)"
    )
    assert rows.fetchall() == []


def test_settings_of_the_login_do_not_change_what_is_stored(
    client: Client, urls: Urls, environment: dict[str, str]
) -> None:
    """Another encoding or format of dates, set for the login or in the URL, has no effect."""
    client.open("a", "b", min_balance=None)
    url = make_conninfo(urls.service, client_encoding="LATIN1", options="-c DateStyle=German")
    application = build_application(config.load(environment | {"DATABASE_URL": url}))
    with contextlib.closing(application.dependencies.database):
        other = Client(application)
        wait_until(lambda: other.get("/v1/transfers").status == 200, "the application is connected")
        reply = other.move("t", metadata={"text": "Ł 𝄞"})
        assert (reply.status, reply.json) == (201, client.get("/v1/transfers/t").json)
        assert other.get("/v1/transfers/t").json["metadata"] == {"text": "Ł 𝄞"}
