"""What the repository has and what a database has: the files of sql/ and the rows of schema_migration."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

SQL_FOLDER = Path(__file__).parents[2] / "sql"
_FILE_NAME = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql")


class IntegrityError(Exception):
    """The files and the history cannot both be right. The message says what differs and what mends it."""


@dataclass(frozen=True)
class Migration:
    """One file of sql/. The checksum is SHA-256 of its raw bytes: whatever was changed, even a space, shows."""

    version: int
    name: str
    checksum: str
    statements: str


@dataclass(frozen=True)
class Applied:
    """One row of schema_migration, as far as files are compared with it."""

    version: int
    name: str
    checksum: str


def read_files(folder: Path = SQL_FOLDER) -> list[Migration]:
    """The migrations of the folder, in order. Raises IntegrityError for a strange name, a gap or a duplicate."""
    migrations = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if not match:
            raise IntegrityError(f"sql/{path.name} is not named NNNN_words_with_underscores.sql: rename it")
        content = path.read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        migrations.append(Migration(int(match[1]), path.name, checksum, content.decode("utf-8")))
    for expected, migration in enumerate(migrations, start=1):
        if migration.version != expected:
            raise IntegrityError(
                f"sql/{migration.name} should have the number {expected:04}: numbers run from 0001 without gaps"
            )
    return migrations


def exists(connection: Connection[Any]) -> bool:
    """Whether this database ever saw a migration."""
    return connection.execute("SELECT to_regclass('schema_migration') IS NOT NULL").fetchone() == (True,)


def read_history(connection: Connection[Any]) -> list[Applied]:
    """What was applied to this database, in order; nothing when it never saw a migration."""
    if not exists(connection):
        return []
    cursor = connection.cursor(row_factory=class_row(Applied))
    return cursor.execute("SELECT version, name, checksum FROM schema_migration ORDER BY version").fetchall()


def reconcile(files: list[Migration], history: list[Applied]) -> list[Migration]:
    """The migrations still to be applied. Raises IntegrityError when an applied one is edited, renamed or missing.

    Pure. A history that is ahead of the files is in order: an older release runs on a newer schema.
    """
    by_version = {migration.version: migration for migration in files}
    for applied in history:
        migration = by_version.get(applied.version)
        if migration is None:
            if applied.version <= len(files):
                raise IntegrityError(f"{applied.name} was applied and its file is gone: restore it from git")
            continue
        if migration.name != applied.name:
            raise IntegrityError(f"{applied.name} was applied and its file is now {migration.name}: restore the name")
        if migration.checksum != applied.checksum:
            raise IntegrityError(
                f"{applied.name} was edited after it was applied (applied {applied.checksum}, "
                f"file {migration.checksum}): restore it from git and write a new migration"
            )
    versions = [applied.version for applied in history]
    if versions != list(range(1, len(versions) + 1)):
        raise IntegrityError(f"the history has gaps, its versions are {versions}: ask who changed schema_migration")
    return files[len(history) :]


def look(connection: Connection[Any]) -> tuple[int, bool]:
    """The newest migration of this database, and whether it takes writes: a standby does not."""
    row = connection.execute(
        "SELECT max(version), current_setting('transaction_read_only') = 'off' FROM schema_migration"
    ).fetchone()
    version, writable = row or (0, False)
    return version or 0, writable
