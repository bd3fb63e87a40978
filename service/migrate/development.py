"""The commands that production does not need: `seal`, `check` and `new`."""

import re
import subprocess
from typing import Any

from psycopg import Connection

from service.migrate import files, runner, schema
from service.migrate.files import CHECKSUMS, INTEGRITY, SNAPSHOT, UNFIT, MigrationError
from service.migrate.history import read_history

_HEADER = "# Appended by make seal: file, SHA-256, PostgreSQL's major, SHA-256 of the schema after it. Never edit it."


def seal(connection: Connection[Any]) -> int:
    """Apply all files to this empty database, append the lines of new files to the checksum file, write the snapshot.

    Returns the number of new files. Raises as `runner.up` does.
    """
    found, before = files.read_files(allow_new=True), files.checksum_lines(files.SQL_FOLDER)
    if read_history(connection) or "\n" in schema.read(connection):
        raise MigrationError(UNFIT, "this database is not empty, and seal needs an empty one", "make seal")
    if not found:
        return 0
    runner.up(connection, found)
    history, major = read_history(connection), connection.info.server_version // 10000
    lines = [f"{row.name} {row.checksum} {major} {files.fingerprint(str(row.schema))}" for row in history]
    lines = before + lines[len(before) :]
    (files.SQL_FOLDER / CHECKSUMS).write_text("\n".join([_HEADER, *lines, ""]), "utf-8")
    if lines[-1].endswith(files.fingerprint(str(history[-1].schema))):  # false if the line is of another major version
        (files.SQL_FOLDER / SNAPSHOT).write_text(f"{history[-1].schema}\n", "utf-8")
    return len(lines) - len(before)


def check(base: str | None) -> int:
    """Compare the files with the checksum file, and with `base` the checksum file with that of this commit.

    Since `base`, lines may only have been added. Returns the number of files. Raises MigrationError.
    """
    number = len(files.read_files())
    if not base:
        return number
    command = ["git", "show", "--end-of-options", f"{base}:./{CHECKSUMS}"]
    shown = subprocess.run(command, cwd=files.SQL_FOLDER, capture_output=True, encoding="utf-8", errors="replace")
    if shown.returncode:  # without the old file there is nothing to compare
        message = f"{' '.join(command)}: {' '.join(shown.stderr.split())}"
        raise MigrationError(INTEGRITY, message, f"git fetch, or use a commit that has sql/{CHECKSUMS}")
    lines = {line.partition(" ")[0]: line for line in files.checksum_lines(files.SQL_FOLDER)}
    for old in shown.stdout.splitlines():
        new = lines.get(old.partition(" ")[0], "missing")
        if new != old and not old.startswith("#"):
            message = f"sql/{CHECKSUMS} has a line that was changed since {base}. Old: {old}. New: {new}"
            raise MigrationError(INTEGRITY, message, f"git checkout {base} -- sql, and write a new migration")
    return number


def new(name: str) -> str:
    """Create the file of the next migration; returns its file name."""
    path = files.SQL_FOLDER / f"{len(files.read_files(allow_new=True)) + 1:04}_{name}.sql"
    if not re.fullmatch("[a-z0-9_]+", name):
        raise MigrationError(INTEGRITY, "a name may have only a-z, 0-9 and underscores", "new words_with_underscores")
    path.write_text("-- The reason for this change.\n", "utf-8")
    return path.name
