"""The table schema_migration, which has one row for each applied migration, and its comparison with sql/."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.rows import class_row

from service.migrate.files import CONFLICT, INTEGRITY, Migration, MigrationError

FIX_LOCAL = "if it is only in your local database, recreate that: make clean, or DROP and CREATE DATABASE; then up"


@dataclass(frozen=True)
class Applied:
    """The columns of schema_migration that are compared."""

    version: int
    name: str
    checksum: str
    min_code: int  # the migration's contract_for
    schema: str | None = None  # what schema.read returned after it; None if the first version of this runner applied it


def has_history(connection: Connection[Any]) -> bool:
    """Whether schema_migration exists with all its columns; its first version lacked two."""
    query = "SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.schema_migration') AND attname = 'schema'"
    return connection.execute(query).fetchone() is not None


def create(connection: Connection[Any]) -> None:
    """Create schema_migration, or add its missing columns. sql/0001 grants the service the right to read it."""
    if not has_history(connection):
        connection.execute(
            """
            CREATE TABLE IF NOT EXISTS public.schema_migration (
                version integer NOT NULL CONSTRAINT schema_migration_pkey PRIMARY KEY,
                name text NOT NULL,
                checksum text NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
                duration_ms integer NOT NULL,
                applied_by text NOT NULL DEFAULT current_user,
                app_version text NOT NULL
            );
            -- The first version of this runner created the table without these two.
            ALTER TABLE public.schema_migration ADD COLUMN min_code integer NOT NULL DEFAULT 0, ADD COLUMN schema text
            """
        )


def read_history(connection: Connection[Any]) -> list[Applied]:
    """The applied migrations in order; none if `has_history` is false."""
    if not has_history(connection):
        return []
    cursor = connection.cursor(row_factory=class_row(Applied))
    return cursor.execute(
        """
        SELECT version, name, checksum, min_code, schema
        FROM public.schema_migration
        ORDER BY version
        """
    ).fetchall()


def reconcile(files: Sequence[Migration], history: Sequence[Applied]) -> list[Migration]:
    """The migrations that are pending. A pure function.

    Raises MigrationError with INTEGRITY if an applied migration was edited, renamed or removed, and with CONFLICT if
    one excludes this code (contract-for). More rows than files are no error: older code runs on an expanded schema.
    """
    if [applied.version for applied in history] != list(range(1, len(history) + 1)):
        raise MigrationError(INTEGRITY, "the versions in schema_migration have gaps", "restore the deleted rows")
    for file, applied in zip(files, history, strict=False):
        if (file.name, file.checksum) != (applied.name, applied.checksum):
            raise MigrationError(
                INTEGRITY,
                f"sql/{file.name} was edited or renamed after it was applied as {applied.name}: "
                f"applied {applied.checksum}, file {file.checksum}",
                f"restore the applied file with git checkout and write a new migration; {FIX_LOCAL}",
            )
    needed = max((applied.min_code for applied in history), default=0)
    if needed > len(files):
        message = f"the database needs code that knows migration {needed:04}, this code knows 0001 to {len(files):04}"
        raise MigrationError(CONFLICT, message, "deploy a newer release")
    return list(files[len(history) :])


class SchemaState(NamedTuple):
    """What each probe of /ready reads."""

    version: int  # of the newest migration
    min_code: int  # the highest
    is_writable: bool
    time: datetime


def read_schema_state(connection: Connection[Any]) -> SchemaState:
    """The newest migration, the highest min_code, whether the database accepts writes, and its time."""
    cursor = connection.cursor(row_factory=class_row(SchemaState))
    [state] = cursor.execute(
        """
        SELECT coalesce(max(version), 0) AS version, coalesce(max(min_code), 0) AS min_code,
            current_setting('transaction_read_only') = 'off' AS is_writable, clock_timestamp() AS time
        FROM public.schema_migration
        """
    )
    return state
