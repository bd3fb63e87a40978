"""What the repository has: the migrations of sql/ and their seal. Knows no database."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

SQL_FOLDER = Path(__file__).parents[2] / "sql"
SEAL = "migrations.sum"  # below a heading a line for each file: name, SHA-256, PostgreSQL's major, fingerprint after it
SNAPSHOT = "schema.snapshot"  # the schema after the last sealed file, so that a review shows what a migration does
DRIFT, INTEGRITY, LOCKED, UNFIT, CONFLICT, FAILED, INTERRUPTED = range(3, 10)  # exit codes

_MARKED = re.compile(r"\s*--\s*migrate\s*:", re.IGNORECASE)  # what looks like a directive must be one
_DIRECTIVES = {"no-transaction": "", "contract-for": "[0-9]{4}", "statement-timeout": "[1-9][0-9]*(ms|s|min|h)"}
# What cannot run in a transaction and is safe to run again: what it leaves half-done is one index of the schema public.
_CONCURRENTLY = re.compile(
    r"(?:--[^\n]*\n|\s)*(?:CREATE (?:UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS|DROP INDEX CONCURRENTLY IF EXISTS)"
    r" ([a-z_][a-z0-9_]*)(?:\s+ON [a-z_][a-z0-9_]*\s*(?:USING|\()[^;]*)?\s*;\s*"
)
_UNMERGED = f"or, if it was never merged, take its line out of sql/{SEAL} and run make seal"


class MigrationError(Exception):
    """The runner stopped. `fix` says what to do about it, `difference` which lines of the schema differ."""

    def __init__(self, exit_code: int, message: str, fix: str, difference: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.fix = fix
        self.difference = list(difference)


@dataclass(frozen=True)
class Migration:
    """One file of sql/. The checksum is SHA-256 of its raw bytes: whatever was changed, even a space, shows."""

    version: int
    name: str
    checksum: str
    statements: str = ""
    index: str | None = None  # what the one statement of a no-transaction file makes or drops. None: a transaction
    contract_for: int = 0  # code that knows fewer migrations than this must not run on the result
    statement_timeout: str = "1min"  # a file that needs longer says so, and its reviewer sees it
    sealed_major: int = 0  # PostgreSQL's, when it was sealed; another may word the same schema otherwise
    sealed_fingerprint: str | None = None  # of the schema after it. None: it is new, and not sealed yet
    snapshot: str | None = None  # the schema after it. None: it is not the last one that is sealed


def read_files(folder: Path = SQL_FOLDER, *, unsealed: bool = False) -> list[Migration]:
    """The migrations of the folder as they were sealed; `unsealed` lets new ones lack it. Raises MigrationError."""
    found = {path.name: path for path in folder.glob("[!.]*") if path.name.lower().endswith(".sql")}
    sealed = {name: words for name, *words in map(str.split, seal_lines(folder))}
    files: list[Migration] = []
    for number, name in enumerate(sorted(found.keys() | sealed.keys()), start=1):
        checksum, major, schema_sum = sealed.get(name, ("", 0, None))
        if name not in found:
            raise _broken(f"{name} was sealed as {checksum} and is gone", f"git checkout -- sql/{name}; {_UNMERGED}")
        file = replace(_read_file(found[name]), sealed_major=int(major), sealed_fingerprint=schema_sum)
        if checksum not in ("", file.checksum):
            wrong = f"{name} was edited after it was sealed: sealed {checksum}, file {file.checksum}"
            raise _broken(wrong, f"git checkout -- sql/{name} and write a new migration; {_UNMERGED}")
        if file.version != number:
            raise _broken(f"{name} should have the number {number:04}: there are no gaps", f"rename it; {_UNMERGED}")
        if not (checksum or (unsealed and number > len(sealed))):
            fix = f"make seal; or git checkout -- sql/{SEAL}, if it was sealed"
            raise _broken(f"{name} is not sealed, its checksum is {file.checksum}", fix)
        files.append(file)
    if not (files or unsealed):
        raise _broken("0001 and all others are gone", "git checkout -- sql, or build the image with it")
    if sealed and not unsealed:  # which a seal writes anew
        files[-1] = replace(files[-1], snapshot=_snapshot(folder, str(files[-1].sealed_fingerprint)))
    return files


def seal_lines(folder: Path) -> list[str]:
    """The lines of the seal without its heading."""
    path = folder / SEAL
    text = path.read_text("utf-8", errors="replace") if path.exists() else ""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    names = [line.partition(" ")[0] for line in lines]
    fit = all(re.fullmatch(r"\S+ [0-9a-f]{64} [0-9]+ [0-9a-f]{64}", line) for line in lines)
    if not fit or names != sorted(set(names)):
        raise _broken(f"{SEAL} is not as it was written", f"git checkout -- sql/{SEAL}")
    return lines


def fingerprint(schema: str) -> str:
    """SHA-256 of a schema, as the seal has it."""
    return sha256(schema.encode()).hexdigest()


def _snapshot(folder: Path, sealed: str) -> str:
    path = folder / SNAPSHOT
    text = path.read_text("utf-8", errors="replace").rstrip("\n") if path.exists() else ""
    if (found := fingerprint(text)) != sealed:
        raise _broken(f"{SNAPSHOT} was edited: sealed {sealed}, file {found}", "git checkout -- sql, or make seal")
    return text


def _read_file(path: Path) -> Migration:
    content = path.read_bytes()
    checksum, statements = sha256(content).hexdigest(), content.decode("utf-8", errors="replace")
    lines = statements.splitlines()
    marked = [line for line in lines if _MARKED.match(line)]
    told = dict(line.removeprefix("-- migrate:").strip().partition("=")[::2] for line in marked)
    alone = _CONCURRENTLY.fullmatch(statements)
    known = all(re.fullmatch(_DIRECTIVES.get(name, "(?!)"), value) for name, value in told.items())
    for fit, rule in (
        (re.fullmatch(r"[0-9]{4}_[a-z0-9_]+\.sql", path.name), "must be named NNNN_words_with_underscores.sql"),
        ("\ufffd" not in statements and statements[:1] != "\ufeff", "must be UTF-8 without a byte order mark"),
        ("\r" not in statements and statements.endswith("\n"), "must have LF line ends, one of them at its end"),
        (
            known and lines[: len(told)] == marked,
            f"may begin with these directives only, each once: {', '.join(_DIRECTIVES)}",
        ),
        (told.get("contract-for", "") <= path.name[:4], "is contract-for code that comes after it"),
        (not {"no-transaction", "statement-timeout"} <= told.keys(), "has no limit of time without a transaction"),
        (
            ("no-transaction" in told) == bool(alone),
            "must be one CREATE INDEX CONCURRENTLY IF NOT EXISTS or DROP INDEX CONCURRENTLY IF EXISTS, with bare "
            "names and -- migrate: no-transaction before it, or neither",
        ),
    ):
        if not fit:
            raise _broken(f"{path.name} ({checksum}) {rule}", "mend it, or git checkout -- sql")
    return Migration(
        version=int(path.name[:4]),
        name=path.name,
        checksum=checksum,
        statements=statements,
        index=alone and alone[1],
        contract_for=int(told.get("contract-for", 0)),
        statement_timeout=told.get("statement-timeout", Migration.statement_timeout),
    )


def _broken(what: str, fix: str) -> MigrationError:
    return MigrationError(INTEGRITY, f"sql/{what}", fix)
