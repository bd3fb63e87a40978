"""The keeper of one PostgreSQL server: postgres.py starts it, nobody does by hand.

It reads its order from standard input, starts the server, says where it is, and reads on. The next line, or the end of
the input, which comes however the parent dies, makes it stop the server and clean up; until then no signal ends it.

In the directory of kept data, or else in a room under /tmp, stand:
    cluster/      what initdb made; it gets this name when it is complete, so that it is never there half made
    lock          held by the keeper and by the server itself: whoever gets it knows that no server is left
    postgres.log  what the last start printed
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

ROOMS = Path("/tmp")  # Not TMPDIR: the path of a socket ends at 103 bytes, and the server's account must get in.
ROLES = """\
CREATE ROLE ledger_owner LOGIN CREATEDB CREATEROLE PASSWORD '{password}';
CREATE ROLE ledger_service LOGIN PASSWORD '{password}';
CREATE DATABASE ledger OWNER ledger_owner;
"""
SETTINGS = ("listen_addresses=", "port=5432", "max_connections=200", "timezone=UTC", "log_timezone=UTC")
THROW_AWAY_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
LOCK_SECONDS = 1  # The keeper of a killed run lets go after some 0.2; whoever holds the lock longer is at work.
START_SECONDS = 60  # Crash recovery of kept data may need them; the usual start takes 0.1.
STOPS = ((signal.SIGINT, 30), (signal.SIGQUIT, 10), (signal.SIGKILL, 5))  # With seconds to wait; a usual end takes 0.1.


class KeeperError(Exception):
    """The server cannot be had; the message says why and what to do."""


def keep(order: dict[str, Any]) -> int:
    """Carry out an order from start to end; 0 if there was a server."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)  # Unlike SIG_IGN, the server does not inherit this.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    os.environ["LC_ALL"] = "C"
    os.umask(0o022)
    try:
        with tempfile.TemporaryDirectory(prefix="ledger-", dir=ROOMS, ignore_cleanup_errors=True) as room:
            cluster = prepare(order, Path(room))
            with cluster.served():
                tell(data=cluster.data, socket_directory=cluster.socket_directory)
                sys.stdin.readline()
        return 0
    except (KeeperError, OSError, subprocess.SubprocessError) as error:
        tell(error=error)
        return 1


def prepare(order: dict[str, Any], room: Path) -> "Cluster":
    """Everything up to a complete cluster that is locked for us."""
    room.chmod(0o711 if order["account"] else 0o700)
    home = Path(order["data"]) if order["data"] else room
    cluster = Cluster(
        binaries=Path(order["binaries"]),
        major=order["major"],
        account=order["account"],
        kept=bool(order["data"]),
        home=home,
        room=room,
        lock=locked(home),
    )
    cluster.log.write_bytes(b"")
    if cluster.data.exists():
        cluster.check_version()
    else:
        cluster.create(order["password"])
    return cluster


def tell(**words: object) -> None:
    """Answer the parent in one line of JSON, unless it is gone already."""
    line = json.dumps({name: str(word) for name, word in words.items()}) + "\n"
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), line.encode())


def locked(home: Path) -> int:
    """The descriptor of the lock, ours until the last process that has it ends."""
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise KeeperError(f"{home} is in use by another run. Stop that one first.") from None
        time.sleep(0.02)


@dataclass(frozen=True)
class Cluster:
    """What initdb made, or will make, and all that it takes to serve it."""

    binaries: Path
    major: int
    account: dict[str, Any]  # Whom the server runs as, in the words of subprocess; empty for ourselves.
    kept: bool
    home: Path  # Of cluster, lock and log: the directory of kept data, or else the room.
    room: Path
    lock: int

    @property
    def data(self) -> Path:
        return self.home / "cluster"

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def socket_directory(self) -> Path:
        return self.room / "socket"

    def check_version(self) -> None:
        """Refuse data of another major version, which only pg_upgrade could read."""
        made_by = (self.data / "PG_VERSION").read_text().strip()
        if made_by != str(self.major):
            raise KeeperError(
                f"The data in {self.home} is of PostgreSQL {made_by}, but {self.binaries} is PostgreSQL {self.major}.\n"
                f"Set PG_BIN to the bin directory of a PostgreSQL {made_by}, or remove {self.home} to begin afresh."
            )

    def create(self, password: str) -> None:
        """Make the cluster with its roles and database; an interrupted attempt leaves nothing that counts."""
        unfinished = self.home / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self.give_directory(unfinished)
        password_file = self.room / "password"
        password_file.write_text(password)
        options = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={password_file}", "--no-instructions"]
        options += ["--encoding=UTF8", "--locale=C"]
        if self.major >= 17:  # The first with a provider of its own, which sorts alike on every system.
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self.kept:
            options += ["--no-sync"]
        self.run("initdb", *options, "-D", str(unfinished))
        single = ["--single", "-D", str(unfinished), *self.settings(), "-c", "exit_on_error=on", "postgres"]
        self.run("postgres", *single, words=ROLES.format(password=password))
        unfinished.rename(self.data)

    def settings(self) -> list[str]:
        """As options, which no postgresql.conf overrides."""
        return [word for setting in SETTINGS + (() if self.kept else THROW_AWAY_SETTINGS) for word in ("-c", setting)]

    def inherited(self) -> dict[str, Any]:
        """What every process that touches the data gets from us: the account, and the lock until it ends."""
        return self.account | {"pass_fds": [self.lock]}

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """A server that takes connections, for the length of the block."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # Having the lock, we know that it is a dead one's.
        self.give_directory(self.socket_directory)
        command = [str(self.binaries / "postgres"), "-D", str(self.data), "-k", str(self.socket_directory)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, *self.settings()], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.inherited()
            )
        try:
            self.await_ready(process)
            yield
        finally:
            self.stop(process)

    def await_ready(self, process: "subprocess.Popen[Any]") -> None:
        """Until the last line of postmaster.pid says ready, which is what pg_ctl awaits, too."""
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
        """Ask for a fast end, then force it. A test may have started the server anew: pg_ctl finds that one."""
        for number, seconds in STOPS:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                break
        if (self.data / "postmaster.pid").exists():
            with contextlib.suppress(KeeperError, OSError, subprocess.SubprocessError):
                self.run("pg_ctl", "stop", "-D", str(self.data), "-m", "immediate")

    def run(self, program: str, *arguments: str, words: str = "") -> None:
        """One of the binaries from start to end, as the server's account; what it prints goes to the log."""
        command = [str(self.binaries / program), *arguments]
        with self.log.open("ab") as log:
            done = subprocess.run(
                command,
                check=False,
                input=words,
                text=True,
                stdout=log,
                stderr=log,
                timeout=START_SECONDS,
                **self.inherited(),
            )
        if done.returncode:
            raise self.failure(program)

    def failure(self, program: str) -> KeeperError:
        """With the end of the log, as a throw-away one is soon gone."""
        lines = self.log.read_text(errors="replace").splitlines()[-12:]
        return KeeperError("\n    ".join([f"{program} failed. The end of {self.log}:", *lines]))

    def give_directory(self, path: Path) -> None:
        """A new one that only the account of the server, and root, can enter."""
        path.mkdir(mode=0o700)
        if self.account:
            os.chown(path, self.account["user"], self.account["group"])


if __name__ == "__main__":
    if line := sys.stdin.readline():  # There is none if the parent was killed first.
        sys.exit(keep(json.loads(line)))
