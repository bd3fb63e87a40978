"""Reads and checks the migration files of sql/ and their checksum file. Knows no database."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

SQL_FOLDER = Path(__file__).parents[2] / "sql"
# After a header, one line for each file: name, SHA-256, PostgreSQL's major version, fingerprint of the schema after it.
CHECKSUMS = "migrations.sum"
SNAPSHOT = "schema.snapshot"  # the schema after the last file, so that a review shows the effect of a migration
DRIFT, INTEGRITY, LOCKED, UNFIT, CONFLICT, FAILED, INTERRUPTED = range(3, 10)  # exit codes

_DIRECTIVE_LIKE = re.compile(r"\s*--\s*migrate\s*:", re.IGNORECASE)  # finds misspelt directives too
_DIRECTIVES = {"no-transaction": "", "contract-for": "[0-9]{4}", "statement-timeout": "[1-9][0-9]*(ms|s|min|h)"}
# These cannot run in a transaction, and are safe to run again: if interrupted, they leave at most one INVALID index.
_CONCURRENTLY = re.compile(
    r"(?:--[^\n]*\n|\s)*(?:CREATE (?:UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS|DROP INDEX CONCURRENTLY IF EXISTS)"
    r" ([a-z_][a-z0-9_]*)(?:\s+ON [a-z_][a-z0-9_]*\s*(?:USING|\()[^;]*)?\s*;\s*"
)
_UNMERGED = f"or, if the file was never merged, remove its line from sql/{CHECKSUMS} and run make seal"


class MigrationError(Exception):
    """The runner stopped. `fix` says what to do, `difference` has the lines of the schema that differ."""

    def __init__(self, exit_code: int, message: str, fix: str, difference: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.fix = fix
        self.difference = list(difference)


@dataclass(frozen=True)
class Migration:
    """One file of sql/. The checksum is the SHA-256 of its raw bytes, so that it shows every change, even a space."""

    version: int
    name: str
    checksum: str
    statements: str = ""
    index: str | None = None  # the index that a no-transaction file creates or drops; None for all other files
    contract_for: int = 0  # code that knows fewer migrations than this must not run on the result
    statement_timeout: str = "1min"
    # From the checksum file. Another major version of PostgreSQL may print the same schema differently.
    expected_major: int = 0
    expected_fingerprint: str | None = None  # of the schema after this file; None if the checksum file lacks this file
    snapshot: str | None = None  # the schema after the last file of the checksum file; None for all other files


def read_files(folder: Path | None = None, *, allow_new: bool = False) -> list[Migration]:
    """The migrations of SQL_FOLDER, or of another folder, if all match the checksum file. Else raises MigrationError.

    `allow_new` accepts files after the last one of the checksum file, and does not compare the snapshot.
    """
    folder = folder or SQL_FOLDER
    found = {path.name: path for path in folder.glob("[!.]*") if path.name.lower().endswith(".sql")}
    recorded = {name: words for name, *words in map(str.split, checksum_lines(folder))}
    files: list[Migration] = []
    for number, name in enumerate(sorted(found.keys() | recorded.keys()), start=1):
        checksum, major, fingerprint_after = recorded.get(name, ("", 0, None))
        if name not in found:
            raise _invalid(f"{name} is missing, checksum {checksum}", f"git checkout -- sql/{name}; {_UNMERGED}")
        file = replace(_read_file(found[name]), expected_major=int(major), expected_fingerprint=fingerprint_after)
        if checksum not in ("", file.checksum):
            message = f"{name} was edited after make seal: recorded checksum {checksum}, file {file.checksum}"
            raise _invalid(message, f"git checkout -- sql/{name} and write a new migration; {_UNMERGED}")
        if file.version != number:
            raise _invalid(f"{name} must have the number {number:04}: there are no gaps", f"rename it; {_UNMERGED}")
        if not (checksum or (allow_new and number > len(recorded))):
            fix = f"make seal; if its line was removed by mistake, git checkout -- sql/{CHECKSUMS}"
            raise _invalid(f"{name} is not in {CHECKSUMS}; its checksum is {file.checksum}", fix)
        files.append(file)
    if not (files or allow_new):
        raise _invalid("*.sql: no such file", "git checkout -- sql, or build the image with sql/")
    if recorded and not allow_new:
        files[-1] = replace(files[-1], snapshot=_read_snapshot(folder, str(files[-1].expected_fingerprint)))
    return files


def checksum_lines(folder: Path) -> list[str]:
    """The lines of the checksum file without its header; none if there is no file. Raises MigrationError."""
    path = folder / CHECKSUMS
    text = path.read_text("utf-8", errors="replace") if path.exists() else ""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    names = [line.partition(" ")[0] for line in lines]
    well_formed = all(re.fullmatch(r"\S+ [0-9a-f]{64} [0-9]+ [0-9a-f]{64}", line) for line in lines)
    if not well_formed or names != sorted(set(names)):
        raise _invalid(f"{CHECKSUMS} was edited", f"git checkout -- sql/{CHECKSUMS}")
    return lines


def fingerprint(schema: str) -> str:
    """SHA-256 of the text of a schema."""
    return sha256(schema.encode()).hexdigest()


def _read_snapshot(folder: Path, expected: str) -> str:
    path = folder / SNAPSHOT
    text = path.read_text("utf-8", errors="replace").rstrip("\n") if path.exists() else ""
    if (found := fingerprint(text)) != expected:
        raise _invalid(f"{SNAPSHOT} was edited: recorded {expected}, file {found}", "git checkout -- sql, or make seal")
    return text


def _read_file(path: Path) -> Migration:
    content = path.read_bytes()
    checksum, statements = sha256(content).hexdigest(), content.decode("utf-8", errors="replace")
    lines = statements.splitlines()
    marked = [line for line in lines if _DIRECTIVE_LIKE.match(line)]
    directives = dict(line.removeprefix("-- migrate:").strip().partition("=")[::2] for line in marked)
    are_valid = lines[: len(directives)] == marked and all(
        re.fullmatch(_DIRECTIVES.get(name, "(?!)"), value) for name, value in directives.items()
    )
    names = directives.keys()
    concurrently = _CONCURRENTLY.fullmatch(statements)
    for holds, rule in (
        (re.fullmatch(r"[0-9]{4}_[a-z0-9_]+\.sql", path.name), "must be named NNNN_words_with_underscores.sql"),
        ("\ufffd" not in statements and statements[:1] != "\ufeff", "must be UTF-8 without a byte order mark"),
        ("\r" not in statements and statements.endswith("\n"), "must have LF line endings and end with a newline"),
        (are_valid, f"may have only these directives, each once, on its first lines: {', '.join(_DIRECTIVES)}"),
        (directives.get("contract-for", "") <= path.name[:4], "must not have a contract-for above its own number"),
        (not {"no-transaction", "statement-timeout"} <= names, "must not have statement-timeout with no-transaction"),
        (
            ("no-transaction" in names) == bool(concurrently),
            "must have both or neither: the directive no-transaction, and as its only statement CREATE INDEX "
            "CONCURRENTLY IF NOT EXISTS or DROP INDEX CONCURRENTLY IF EXISTS, with names without a schema",
        ),
    ):
        if not holds:
            raise _invalid(f"{path.name} ({checksum}) {rule}", "correct the file, or git checkout -- sql")
    return Migration(
        version=int(path.name[:4]),
        name=path.name,
        checksum=checksum,
        statements=statements,
        index=concurrently and concurrently[1],
        contract_for=int(directives.get("contract-for", 0)),
        statement_timeout=directives.get("statement-timeout", Migration.statement_timeout),
    )


def _invalid(message: str, fix: str) -> MigrationError:
    return MigrationError(INTEGRITY, f"sql/{message}", fix)
