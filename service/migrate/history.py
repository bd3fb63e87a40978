"""What a database has, and what it lacks: the rows of schema_migration against the files of sql/."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

from service.migrate.files import CONFLICT, INTEGRITY, Migration, MigrationError

LOCAL = "if only your own database has it, make that anew: make clean, or DROP DATABASE and CREATE DATABASE, then up"


@dataclass(frozen=True)
class Applied:
    """One row of schema_migration, as far as it is compared with anything."""

    version: int
    name: str
    checksum: str
    min_code: int  # the migration's contract_for
    schema: str | None = None  # what schema.read found after it. None: applied by a runner that did not look


def exists(connection: Connection[Any]) -> bool:
    """Whether this database ever saw a migration by a runner like this one."""
    asked = "SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.schema_migration') AND attname = 'schema'"
    return connection.execute(asked).fetchone() is not None


def create(connection: Connection[Any]) -> None:
    """Make the table of the history: a row is one migration as it was applied. sql/0001 lets the service read it."""
    if not exists(connection):
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
            -- The first runner made the table without these.
            ALTER TABLE public.schema_migration ADD COLUMN min_code integer NOT NULL DEFAULT 0, ADD COLUMN schema text
            """
        )


def read_history(connection: Connection[Any]) -> list[Applied]:
    """What was applied to this database, in order; nothing when it never saw a migration."""
    if not exists(connection):
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
    """The migrations still to be applied. Pure.

    Raises MigrationError INTEGRITY when an applied one is edited, renamed or missing, CONFLICT when a newer one took
    away what this code needs. Otherwise a history that is ahead is in order: older code runs on an expanded schema.
    """
    if [applied.version for applied in history] != list(range(1, len(history) + 1)):
        raise MigrationError(INTEGRITY, "the versions in schema_migration have gaps", "ask who changed that table")
    for file, applied in zip(files, history, strict=False):
        if (file.name, file.checksum) != (applied.name, applied.checksum):
            raise MigrationError(
                INTEGRITY,
                f"sql/{file.name} was edited or renamed after it was applied as {applied.name}: "
                f"applied {applied.checksum}, file {file.checksum}",
                f"git checkout the file as it was applied and write a new migration; {LOCAL}",
            )
    needed = max((applied.min_code for applied in history), default=0)
    if needed > len(files):
        wrong = f"the database needs code that knows migration {needed:04}, this code knows {len(files)} migrations"
        raise MigrationError(CONFLICT, wrong, "deploy a newer release: none older than that runs on this database")
    return list(files[len(history) :])


def look(connection: Connection[Any]) -> tuple[int, int, bool]:
    """The newest migration, the oldest code that may run on it, and whether the database takes writes."""
    row = connection.execute(
        """
        SELECT coalesce(max(version), 0), coalesce(max(min_code), 0), current_setting('transaction_read_only') = 'off'
        FROM public.schema_migration
        """
    ).fetchone()
    return row or (0, 0, False)
