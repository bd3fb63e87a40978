"""The process that starts and stops one PostgreSQL server. postgres.py starts it; it is not run by hand.

It reads its order from standard input, starts the server, writes its location, and waits for the next line. That line,
or the end of the input, which also comes if the parent is killed, makes it stop the server and clean up. It ignores
the signals SIGHUP, SIGINT and SIGTERM.

The directory of the data, or without one a temporary directory under /tmp, has:
    cluster/      the files of initdb; the directory gets this name when it is complete
    lock          locked by the keeper and by the server, so that the lock is free only if both have ended
    postgres.log  the output of the last start
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPORARY = Path("/tmp")  # not TMPDIR: a socket path has at most 103 bytes, and the server's account needs access
ROLES = """\
CREATE ROLE ledger_owner LOGIN CREATEDB CREATEROLE PASSWORD '{password}';
CREATE ROLE ledger_service LOGIN PASSWORD '{password}';
CREATE DATABASE ledger OWNER ledger_owner;
"""
SETTINGS = ("listen_addresses=", "port=5432", "max_connections=200", "timezone=UTC", "log_timezone=UTC")
TEMPORARY_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
LOCK_SECONDS = 1  # a killed run releases the lock after about 0.2 s; if it is held longer, a server is running
START_SECONDS = 60  # a usual start takes 0.1 s, crash recovery may take longer
STOPS = ((signal.SIGINT, 30), (signal.SIGQUIT, 10), (signal.SIGKILL, 5))  # seconds to wait; a usual stop takes 0.1 s


class KeeperError(Exception):
    """The server cannot be started; the message has the reason and what to do."""


def keep(order: dict[str, Any]) -> int:
    """Run the server of this order until the parent ends it; returns the exit code, 0 if the server was started."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)  # the server does not inherit this, unlike SIG_IGN
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    os.environ["LC_ALL"] = "C"
    os.umask(0o022)
    try:
        with tempfile.TemporaryDirectory(prefix="ledger-", dir=TEMPORARY, ignore_cleanup_errors=True) as temporary:
            cluster = prepare(order, Path(temporary))
            with cluster.served():
                respond(data=cluster.data, socket_directory=cluster.socket_directory)
                sys.stdin.readline()
        return 0
    except (KeeperError, OSError, subprocess.SubprocessError) as error:
        respond(error=error)
        return 1


def prepare(order: dict[str, Any], temporary: Path) -> "Cluster":
    """Lock the directory of the cluster, and create the cluster if there is none."""
    temporary.chmod(0o711 if order["account"] else 0o700)
    home = Path(order["data"]) if order["data"] else temporary
    cluster = Cluster(
        binaries=Path(order["binaries"]),
        major=order["major"],
        account=order["account"],
        kept=bool(order["data"]),
        home=home,
        temporary=temporary,
        lock=acquire_lock(home),
    )
    cluster.log.write_bytes(b"")
    if cluster.data.exists():
        cluster.check_version()
    else:
        cluster.create(order["password"])
    return cluster


def respond(**values: object) -> None:
    """Write one line of JSON to the parent, if it still runs."""
    line = json.dumps({name: str(value) for name, value in values.items()}) + "\n"
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), line.encode())


def acquire_lock(home: Path) -> int:
    """The file descriptor of the lock, which is released when the last process with this descriptor ends."""
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise KeeperError(f"{home} is in use by another run. Stop that first.") from None
        time.sleep(0.02)


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL cluster on disk, and what is needed to create and run it."""

    binaries: Path
    major: int
    account: dict[str, Any]  # the account of the server, as arguments of subprocess; empty: that of this process
    kept: bool  # whether the data stays after this run
    home: Path  # the directory of cluster, lock and log
    temporary: Path  # the directory of the socket and the password file
    lock: int

    @property
    def data(self) -> Path:
        return self.home / "cluster"

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def socket_directory(self) -> Path:
        return self.temporary / "socket"

    def check_version(self) -> None:
        """Raise KeeperError if another major version of PostgreSQL created the data."""
        made_by = (self.data / "PG_VERSION").read_text().strip()
        if made_by != str(self.major):
            raise KeeperError(
                f"The data in {self.home} is of PostgreSQL {made_by}, but {self.binaries} is PostgreSQL {self.major}.\n"
                f"Set PG_BIN to the bin directory of a PostgreSQL {made_by}, or delete {self.home} and its data."
            )

    def create(self, password: str) -> None:
        """Create the cluster with its roles and database. It gets its name last, so that an interruption is safe."""
        unfinished = self.home / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self.create_directory(unfinished)
        password_file = self.temporary / "password"
        password_file.write_text(password)
        options = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={password_file}", "--no-instructions"]
        options += ["--encoding=UTF8", "--locale=C"]
        if self.major >= 17:  # has its own locale provider, which sorts the same on every system
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self.kept:
            options += ["--no-sync"]
        self.run("initdb", *options, "-D", str(unfinished))
        single = ["--single", "-D", str(unfinished), *self.settings(), "-c", "exit_on_error=on", "postgres"]
        self.run("postgres", *single, input=ROLES.format(password=password))
        unfinished.rename(self.data)

    def settings(self) -> list[str]:
        """The settings as options, which override postgresql.conf."""
        return [word for setting in SETTINGS + (() if self.kept else TEMPORARY_SETTINGS) for word in ("-c", setting)]

    def process_options(self) -> dict[str, Any]:
        """The arguments of subprocess for each program on the data: the account, and the descriptor of the lock."""
        return self.account | {"pass_fds": [self.lock]}

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """A server that accepts connections during the block."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # of a killed server, because the lock was free
        self.create_directory(self.socket_directory)
        command = [str(self.binaries / "postgres"), "-D", str(self.data), "-k", str(self.socket_directory)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, *self.settings()], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.process_options()
            )
        try:
            self.await_ready(process)
            yield
        finally:
            self.stop(process)

    def await_ready(self, process: "subprocess.Popen[Any]") -> None:
        """Wait until the last line of postmaster.pid is "ready", as pg_ctl does."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(FileNotFoundError):
                lines = (self.data / "postmaster.pid").read_bytes().splitlines()
                if lines and lines[-1].strip() == b"ready":
                    return
            if process.poll() is not None or time.monotonic() > deadline:
                raise self.failure("postgres")
            time.sleep(0.01)

    def stop(self, process: "subprocess.Popen[Any]") -> None:
        """Stop the server with a fast shutdown, then by force. pg_ctl stops a server that a test has restarted."""
        for number, seconds in STOPS:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                break
        if (self.data / "postmaster.pid").exists():
            with contextlib.suppress(KeeperError, OSError, subprocess.SubprocessError):
                self.run("pg_ctl", "stop", "-D", str(self.data), "-m", "immediate")

    def run(self, program: str, *arguments: str, input: str = "") -> None:
        """Run one of the programs as the server's account; its output goes to the log. Raises KeeperError."""
        command = [str(self.binaries / program), *arguments]
        with self.log.open("ab") as log:
            done = subprocess.run(
                command,
                check=False,
                input=input,
                text=True,
                stdout=log,
                stderr=log,
                timeout=START_SECONDS,
                **self.process_options(),
            )
        if done.returncode:
            raise self.failure(program)

    def failure(self, program: str) -> KeeperError:
        """The error with the end of the log, because a temporary log is deleted."""
        lines = self.log.read_text(errors="replace").splitlines()[-12:]
        return KeeperError("\n    ".join([f"{program} failed. The end of {self.log}:", *lines]))

    def create_directory(self, path: Path) -> None:
        """Create a directory that only the server's account and root can enter."""
        path.mkdir(mode=0o700)
        if self.account:
            os.chown(path, self.account["user"], self.account["group"])


if __name__ == "__main__":
    if line := sys.stdin.readline():  # empty if the parent was killed first
        sys.exit(keep(json.loads(line)))
