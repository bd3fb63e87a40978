"""What engineers need and production does not: sealing migrations, beginning one, comparing a seal with its past."""

import re
import subprocess
from typing import Any

from psycopg import Connection

from service.migrate import files, runner, schema
from service.migrate.files import INTEGRITY, SEAL, SNAPSHOT, SQL_FOLDER, UNFIT, MigrationError
from service.migrate.history import read_history

_HEADING = "# Appended by make seal: file, SHA-256, PostgreSQL's major, SHA-256 of the schema after it. Never edit it."


def seal(connection: Connection[Any]) -> int:
    """Build the schema in this empty database, append new files to the seal, write the snapshot; how many are new."""
    found, before = files.read_files(unsealed=True), files.seal_lines(SQL_FOLDER)
    if read_history(connection) or "\n" in schema.read(connection):
        raise MigrationError(UNFIT, "this database is not empty, so it proves nothing about the files", "make seal")
    if not found:
        return 0
    runner.up(connection, found)
    history, major = read_history(connection), connection.info.server_version // 10000
    lines = [f"{row.name} {row.checksum} {major} {files.fingerprint(str(row.schema))}" for row in history]
    lines = before + lines[len(before) :]
    (SQL_FOLDER / SEAL).write_text("\n".join([_HEADING, *lines, ""]), "utf-8")
    if lines[-1].endswith(files.fingerprint(str(history[-1].schema))):  # not so for another PostgreSQL's old seal
        (SQL_FOLDER / SNAPSHOT).write_text(f"{history[-1].schema}\n", "utf-8")
    return len(lines) - len(before)


def check(base: str | None) -> int:
    """Compare files and seal, and the seal with that of the commit `base`, to which it may only add; how many."""
    number = len(files.read_files())
    if not base:
        return number
    command = ["git", "show", "--end-of-options", f"{base}:./{SEAL}"]
    shown = subprocess.run(command, cwd=SQL_FOLDER, capture_output=True, encoding="utf-8", errors="replace")
    if shown.returncode:  # a comparison with nothing proves nothing
        wrong = f"{' '.join(command)}: {' '.join(shown.stderr.split())}"
        raise MigrationError(INTEGRITY, wrong, "git fetch, or name a commit that has a seal")
    sealed = {line.partition(" ")[0]: line for line in files.seal_lines(SQL_FOLDER)}
    for old in shown.stdout.splitlines():
        now = sealed.get(old.partition(" ")[0], "nothing")
        if now != old and not old.startswith("#"):
            wrong = f"sql/{SEAL} was rewritten since {base}. It was: {old}. It is: {now}"
            raise MigrationError(INTEGRITY, wrong, f"git checkout {base} -- sql, and write a new migration")
    return number


def new(name: str) -> str:
    """Begin the next migration, and return the name of its file."""
    path = SQL_FOLDER / f"{len(files.read_files(unsealed=True)) + 1:04}_{name}.sql"
    if not re.fullmatch("[a-z0-9_]+", name):
        raise MigrationError(INTEGRITY, "a name is of a-z, 0-9 and underscores", "new words_with_underscores")
    path.write_text("-- Why this is done, for whoever reads the schema in a year.\n", "utf-8")
    return path.name
