"""The faults. Each is a context manager: it injects the fault, and at the end of the block it removes it.

When the block has ended, the fault has ended. From then on the recovery counts. For a PostgreSQL that was stopped this
is when it accepts connections again, for a killed service when its new process is ready.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

from tests.faults.hammer import wal_disk
from tests.faults.hammer.history import History
from tests.faults.hammer.network import Link, confirms_commit, to_port
from tests.faults.hammer.system import Replica, System, send_signal
from tests.support.waiting import LIMIT_SECONDS

CONTROL = "none"
LOSE_CHANCE = 0.2  # of each response that a fault can lose
SLOW_SECONDS = 0.1  # of each message between the service and PostgreSQL; a posting has about six
TERMINATIONS = 50
TERMINATE_PAUSE_SECONDS = 0.02  # after each
COPY_MARGIN_SECONDS = 0.5  # a request that was recorded as not copied has passed the link by then
AHEAD = timedelta(milliseconds=500)  # a usual correction of a clock
FAR_AHEAD = timedelta(hours=1)  # more than the service accepts
BACK = timedelta(seconds=-30)


@dataclass(frozen=True)
class Stage:
    """What a fault needs: the system, the history, the random numbers of this run, and how long an outage lasts."""

    system: System
    history: History
    random: random.Random
    outage_seconds: float

    @property
    def one_replica(self) -> Replica:
        return self.random.choice(self.system.replicas)

    @property
    def database_links(self) -> list[Link]:
        return [replica.to_database for replica in self.system.replicas]

    @property
    def service_links(self) -> list[Link]:
        return [replica.to_service for replica in self.system.replicas]


Inject = Callable[[Stage], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """A fault, how long it lasts, and what it needs. Without `seconds`, the run says how long."""

    inject: Inject
    seconds: float | None
    needs_root: bool = False


@contextmanager
def nothing(stage: Stage) -> Iterator[None]:
    """Nothing. What follows is the usual time of a write under this load, with which the others compare."""
    yield


@contextmanager
def worker_killed(stage: Stage) -> Iterator[None]:
    """kill -9 of gunicorn's worker; its master starts another one."""
    replica = stage.one_replica
    send_signal(replica.workers(), signal.SIGKILL)
    yield


@contextmanager
def service_killed(stage: Stage) -> Iterator[None]:
    """kill -9 of gunicorn's master; its worker ends by itself, and the process is started again."""
    replica = stage.one_replica
    replica.process.kill()
    replica.process.wait(LIMIT_SECONDS)
    yield
    replica.restart()


@contextmanager
def service_stopped(stage: Stage) -> Iterator[None]:
    """One process of the service and its worker get SIGSTOP, and later SIGCONT."""
    replica = stage.one_replica
    pids = [replica.process.pid, *replica.workers()]
    send_signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send_signal(pids, signal.SIGCONT)


@contextmanager
def stdout_blocked(stage: Stage) -> Iterator[None]:
    """The program that reads the log of one process of the service gets SIGSTOP, and later SIGCONT."""
    reader = stage.one_replica.reader
    reader.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        reader.send_signal(signal.SIGCONT)


@contextmanager
def postgres_restarted(stage: Stage) -> Iterator[None]:
    """`pg_ctl restart -m immediate`: PostgreSQL ends without a checkpoint, and recovers."""
    stage.system.database.restart("immediate")
    yield


@contextmanager
def postgres_down(stage: Stage) -> Iterator[None]:
    """PostgreSQL ends without a checkpoint, and is started later: the first time after 40 s in a full run."""
    stage.system.database.pg_ctl("stop", "-m", "immediate")
    yield
    stage.system.database.await_connections()


@contextmanager
def postgres_stopped(stage: Stage) -> Iterator[None]:
    """All processes of PostgreSQL get SIGSTOP, and later SIGCONT: connections stay open and silent."""
    pids = stage.system.database.pids
    send_signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send_signal(pids, signal.SIGCONT)
    stage.system.database.await_connections()


@contextmanager
def backends_terminated(stage: Stage) -> Iterator[None]:
    """`pg_terminate_backend` for each session of the service, 50 times."""
    terminate(stage, "TRUE")
    yield


@contextmanager
def commits_terminated(stage: Stage) -> Iterator[None]:
    """`pg_terminate_backend` for each session that runs a COMMIT, 50 times."""
    terminate(stage, "state = 'active' AND query LIKE '%%COMMIT%%'")
    yield


def terminate(stage: Stage, condition: str) -> None:
    """Terminate the sessions of the service for which the condition is true, 50 times."""
    statement = f"""
        SELECT pg_terminate_backend(pid)
        FROM pg_stat_activity
        WHERE usename = %s AND {condition}
    """
    with stage.system.database.connection() as connection:
        for _ in range(TERMINATIONS):
            connection.execute(statement.encode(), ["ledger_service"])
            time.sleep(TERMINATE_PAUSE_SECONDS)


@contextmanager
def connections_exhausted(stage: Stage) -> Iterator[None]:
    """The sessions end, and new ones get 53300, too many connections: the role's CONNECTION LIMIT is 0."""
    with stage.system.database.connection() as superuser:
        superuser.execute("ALTER ROLE ledger_service CONNECTION LIMIT 0")
        superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ledger_service'")
        yield
        superuser.execute("ALTER ROLE ledger_service CONNECTION LIMIT -1")


@contextmanager
def network_cut(stage: Stage) -> Iterator[None]:
    """Connections to PostgreSQL end, and new ones are closed at once."""
    for link in stage.database_links:
        link.is_cut = True
        link.cut()
    yield
    restore(stage.database_links)


@contextmanager
def network_reset(stage: Stage) -> Iterator[None]:
    """Each connection to PostgreSQL is reset, five times; new ones are accepted."""
    for _ in range(5):
        for link in stage.database_links:
            link.cut(reset=True)
        time.sleep(stage.random.uniform(0.05, 0.2))
    yield


@contextmanager
def network_silent(stage: Stage) -> Iterator[None]:
    """Nothing arrives at PostgreSQL or from it, and no connection ends."""
    for link in stage.database_links:
        link.flowing.clear()
    yield
    restore(stage.database_links)


@contextmanager
def network_slow(stage: Stage) -> Iterator[None]:
    """Each message to PostgreSQL or from it is 100 ms late."""
    for link in stage.database_links:
        link.delay_seconds = SLOW_SECONDS
    yield
    restore(stage.database_links)


@contextmanager
def commit_responses_lost(stage: Stage) -> Iterator[None]:
    """One in five responses to COMMIT is lost with its connection."""
    for link in stage.database_links:
        link.loses = lambda data: confirms_commit(data) and stage.random.random() < LOSE_CHANCE
    yield
    restore(stage.database_links)


@contextmanager
def http_responses_lost(stage: Stage) -> Iterator[None]:
    """One in five responses to clients is lost with its connection."""
    for link in stage.service_links:
        link.loses = lambda data: stage.random.random() < LOSE_CHANCE
    yield
    restore(stage.service_links)


@contextmanager
def requests_duplicated(stage: Stage) -> Iterator[None]:
    """Each request is also sent to the other process of the service."""
    stage.history.copies = True
    time.sleep(COPY_MARGIN_SECONDS)
    first, second = stage.system.replicas
    first.to_service.copy_to = to_port(second.service_port)
    second.to_service.copy_to = to_port(first.service_port)
    yield
    restore(stage.service_links)
    time.sleep(COPY_MARGIN_SECONDS)
    stage.history.copies = False


def restore(links: list[Link]) -> None:
    for link in links:
        link.restore()


@contextmanager
def clock_ahead(stage: Stage) -> Iterator[None]:
    """The clock of the database is moved 0.5 s forward, and then back."""
    with clock_moved(stage, AHEAD):
        yield


@contextmanager
def clock_far_ahead(stage: Stage) -> Iterator[None]:
    """The clock of the database is moved an hour forward, so that postings are refused, and then back."""
    with clock_moved(stage, FAR_AHEAD):
        yield


@contextmanager
def clock_back(stage: Stage) -> Iterator[None]:
    """The clock of the database is moved 30 s back, and then forward."""
    with clock_moved(stage, BACK):
        yield


@contextmanager
def clock_moved(stage: Stage, ahead: timedelta) -> Iterator[None]:
    with stage.system.database.connection() as connection:
        connection.execute("UPDATE clock.setting SET ahead = %s", [ahead])
        yield
        connection.execute("UPDATE clock.setting SET ahead = '0'")


@contextmanager
def wal_disk_full(stage: Stage) -> Iterator[None]:
    """The file system of the WAL, a small tmpfs, is full: PostgreSQL ends, and is started when there is room."""
    with wal_disk.full(stage.system.database):
        yield


# The key is the name in the results and for ONLY. The times are longer than the service's deadline of 5 s where a
# request waits for its whole deadline, and otherwise as short as the fault allows.
FAULTS: dict[str, Fault] = {
    CONTROL: Fault(nothing, 1.0),
    "worker-killed": Fault(worker_killed, 0.0),
    "service-killed": Fault(service_killed, 0.5),
    "service-stopped": Fault(service_stopped, 3.0),
    "stdout-blocked": Fault(stdout_blocked, 3.0),
    "postgres-restarted": Fault(postgres_restarted, 0.0),
    "postgres-down": Fault(postgres_down, None),
    "postgres-stopped": Fault(postgres_stopped, 6.0),
    "backends-terminated": Fault(backends_terminated, 0.0),
    "commits-terminated": Fault(commits_terminated, 0.0),
    "connections-exhausted": Fault(connections_exhausted, 2.0),
    "network-cut": Fault(network_cut, 2.0),
    "network-reset": Fault(network_reset, 0.0),
    "network-silent": Fault(network_silent, 6.0),
    "network-slow": Fault(network_slow, 3.0),
    "commit-responses-lost": Fault(commit_responses_lost, 3.0),
    "http-responses-lost": Fault(http_responses_lost, 3.0),
    "requests-duplicated": Fault(requests_duplicated, 3.0),
    "clock-ahead": Fault(clock_ahead, 2.0),
    "clock-far-ahead": Fault(clock_far_ahead, 2.0),
    "clock-back": Fault(clock_back, 3.0),
    "wal-disk-full": Fault(wal_disk_full, 3.0, needs_root=True),
}


def available(names: list[str]) -> tuple[list[str], list[str]]:
    """Those of the faults that this user can inject, and those that need root."""
    missing = [name for name in names if FAULTS[name].needs_root and os.geteuid() != 0]
    return [name for name in names if name not in missing], missing
