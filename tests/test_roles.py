"""What the service may do in the database, and what not even a mistake of ours can make it do."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL

from service import database
from service.database import Connection
from service.ledger import errors
from tests.client import Client
from tests.conftest import Urls


@pytest.fixture
def service(urls: Urls, client: Client) -> Iterator[psycopg.Connection[Any]]:
    """A connection as the service uses it, and one transfer and one hold in the books."""
    client.open("a", "b", min_balance=None)
    client.move("t", "a", "b", 1)
    client.hold("h", "a", "b", 1)
    with database.connect(urls.service) as connection:
        database.configure(connection)
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
def test_the_role_may_not(service: psycopg.Connection[Any], statement: str) -> None:
    """The books are append-only and the schema is not the service's, whoever writes the code."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute(SQL(statement))


def test_the_application_works_as_this_role(client: Client) -> None:
    """Every connection of the pool has dropped to ledger_service, whatever it logged in as."""

    def who(connection: Connection) -> Any:
        return connection.execute("SELECT current_user, current_setting('is_superuser')").fetchone()

    assert client.application.parts.database.run(who) == ("ledger_service", "off")


def test_statements_are_neither_compiled_nor_read_tables_whole(client: Client) -> None:
    """The journal row is found through its index, so no plan of a posting costs so much that it is compiled."""

    def plan(connection: Connection) -> Any:
        settings = connection.execute("SELECT current_setting('jit'), current_setting('enable_seqscan')").fetchone()
        rows = connection.execute("EXPLAIN UPDATE journal SET last_number = last_number WHERE only_row").fetchall()
        return settings, " ".join(line for (line,) in rows)

    settings, explained = client.application.parts.database.run(plan)
    assert settings == ("off", "off")
    assert "journal_pkey" in explained


def test_every_constraint_that_is_translated_exists(owner: psycopg.Connection[Any]) -> None:
    """The names in the table are names of the schema; a unique index that is partial is no constraint in its eyes."""
    rows = owner.execute(
        "SELECT conname FROM pg_constraint UNION SELECT indexrelid::regclass::text FROM pg_index WHERE indisunique"
    )
    assert errors.CONSTRAINTS.keys() | errors.RACES <= {name for (name,) in rows}


def test_every_check_has_a_name_of_its_own(owner: psycopg.Connection[Any]) -> None:
    """A constraint is named after its table and what it holds, never by the database."""
    rows = owner.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND contype = 'c'"
    )
    assert all(name.startswith(f"{table}_") and not name.endswith("_check") for table, name in rows)


def test_balances_are_updated_in_place(client: Client, owner: psycopg.Connection[Any]) -> None:
    """No index covers a column that a posting changes, so updates of accounts can stay HOT."""
    rows = owner.execute(
        "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)"
        " WHERE indrelid IN ('account'::regclass, 'journal'::regclass)"
    )
    assert {name for (name,) in rows} == {"id", "only_row"}
