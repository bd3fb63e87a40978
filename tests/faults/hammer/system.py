"""What the faults hit: a PostgreSQL that flushes to disk, and two processes of the service, each behind its own links.

    client ── link ── service ── link ── PostgreSQL

A link leads to one replica, so a fault can hit one replica, or both.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import dotenv
import psycopg
from psycopg.conninfo import make_conninfo

from dev import postgres
from service.migrate import runner
from service.migrate.files import read_files
from tests.faults.hammer.network import Link, to_port, to_socket_file
from tests.support import live
from tests.support.ledger import CLOCK
from tests.support.waiting import LIMIT_SECONDS, wait_until

REPLICAS = 2
PG_CTL_SECONDS = 60.0  # crash recovery after a fault
PROBE_SECONDS = 0.01  # between two attempts to connect to a PostgreSQL that starts
# Small, so that the file system of the fault "disk of the WAL full" can be small too.
WAL_SETTINGS = {"max_wal_size": "128MB", "min_wal_size": "32MB"}


class Replica:
    """One process of the service with its gunicorn worker, its links, and a process that reads its log."""

    def __init__(self, number: int, stack: contextlib.ExitStack, database: "Database", module: tuple[str, ...]) -> None:
        self.number = number
        self.module = module
        socket_file = str(database.server.socket_directory / ".s.PGSQL.5432")
        self.service_port = stack.enter_context(live.reserved_port())
        self.to_database = stack.enter_context(contextlib.closing(Link(to_socket_file(socket_file))))
        self.to_service = stack.enter_context(contextlib.closing(Link(to_port(self.service_port))))
        url = make_conninfo(database.server.service_url, host="127.0.0.1", port=self.to_database.port)
        settings = {name: value for name, value in dotenv.dotenv_values(live.ROOT / ".env.example").items() if value}
        self.environment = settings | {"DATABASE_URL": url, "PORT": str(self.service_port)}
        self.log = database.folder / f"service-{number}.log"
        self.start()
        stack.callback(self.stop)

    def is_ready(self) -> bool:
        """Whether /ready returns 200. Raises AssertionError if the process has ended."""
        service = live.Live(self.process, self._log_file, f"http://127.0.0.1:{self.service_port}")
        return service.is_ready()

    def start(self) -> None:
        """Start the process. Its stdout is a pipe to `cat`, which can be stopped, and which writes the log."""
        self._log_file: IO[bytes] = self.log.open("ab")
        self.reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=self._log_file, start_new_session=True)
        assert self.reader.stdin is not None, "bug: cat was started without a pipe"
        self.process = live.start([*self.module], self.environment, self.reader.stdin)
        self.reader.stdin.close()

    def restart(self) -> None:
        """Start it again as a supervisor does: until it is ready, because the port may still be in use."""
        until = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < until:
            self.reader.wait(LIMIT_SECONDS)
            self._log_file.close()
            self.start()
            with contextlib.suppress(AssertionError):  # it has ended: the old worker listens still
                wait_until(self.is_ready, "the service is ready")
                return
        raise AssertionError(f"replica {self.number} did not start within {LIMIT_SECONDS:.0f} s")

    def workers(self) -> list[int]:
        return children(self.process.pid)

    def stop(self) -> None:
        """Kill the process and its workers. A graceful stop is not what this tests."""
        self.reader.send_signal(signal.SIGCONT)
        pids = [self.process.pid, *self.workers()]
        send_signal(pids, signal.SIGKILL)
        self.process.wait(LIMIT_SECONDS)
        self.reader.wait(LIMIT_SECONDS)
        self._log_file.close()


class Database:
    """A PostgreSQL with fsync, and the programs to stop and start it."""

    def __init__(self, folder: Path, server: postgres.Server) -> None:
        self.folder = folder
        self.server = server
        self.account = postgres.server_account()

    @property
    def pids(self) -> list[int]:
        """The postmaster and its children, the postmaster first."""
        postmaster = int((self.server.data / "postmaster.pid").read_text().split("\n", 1)[0])
        return [postmaster, *children(postmaster)]

    def pg_ctl(self, *arguments: str) -> int:
        """Run pg_ctl and return its exit code. `restart` also starts a server that is not running."""
        return subprocess.call(
            [self.server.binaries / "pg_ctl", *arguments, "-D", self.server.data, "-l", self.server.data / "log"],
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PG_CTL_SECONDS,
            **self.account,
        )

    def accepts_connections(self) -> bool:
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.server.superuser_url, connect_timeout=2):
            return True
        return False

    def restart(self, mode: str = "immediate") -> None:
        """Restart, or start, and return as soon as it accepts connections."""
        self.pg_ctl("restart", "-m", mode, "-W")
        self.await_connections()

    def await_connections(self) -> None:
        """Wait until the server accepts connections. If it has ended, start it."""
        until = time.monotonic() + PG_CTL_SECONDS
        while not self.accepts_connections():
            assert time.monotonic() < until, f"PostgreSQL did not start within {PG_CTL_SECONDS:.0f} s"
            if self.pg_ctl("status") != 0:
                self.pg_ctl("restart", "-W")
            time.sleep(PROBE_SECONDS)

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection of the superuser to the ledger's database."""
        with psycopg.connect(self.server.superuser_url, autocommit=True) as connection:
            yield connection


class System:
    """The database and the replicas."""

    def __init__(self, database: Database, replicas: list[Replica]) -> None:
        self.database = database
        self.replicas = replicas


@contextlib.contextmanager
def running(module: tuple[str, ...] = ("service",)) -> Iterator[System]:
    """The system during the block, ready. `module` may be one that breaks the service."""
    folder = Path(tempfile.mkdtemp(prefix="hammer-", dir="/tmp"))  # PostgreSQL's account must be able to enter it
    folder.chmod(0o711)
    try:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(postgres.running(folder / "postgres"))
            database = Database(folder, server)
            prepare(database)
            replicas = [Replica(number, stack, database, module) for number in range(REPLICAS)]
            for replica in replicas:
                wait_until(replica.is_ready, "the service is ready")
            yield System(database, replicas)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepare(database: Database) -> None:
    """Create the tables and the clock that a fault moves, and apply WAL_SETTINGS."""
    with psycopg.connect(database.server.owner_url, autocommit=True) as owner:
        runner.up(owner, read_files())
        owner.execute(CLOCK)
    with database.connection() as connection:
        [(fsync,)] = connection.execute("SELECT current_setting('fsync')").fetchall()
        assert fsync == "on", "bug: the durable server of dev/postgres.py has fsync off"
        for name, value in WAL_SETTINGS.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        connection.execute("SELECT pg_reload_conf()")


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in found.split()]


def send_signal(pids: list[int], number: int) -> None:
    """Send the signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
