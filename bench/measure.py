"""What all sections of `make bench` share: a ledger on the measured PostgreSQL, and the measurement of one load."""

import contextlib
import itertools
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from bench import ledgers, load
from bench.load import Load
from bench.processes import TOKEN, BenchError, Service, cpu_seconds
from bench.results import Measurement, Results
from dev import postgres
from service import session
from service.ledger import audit

WARM_UP_SECONDS = 1.0  # of each load, before the transfers are counted
END_SECONDS = 0.1  # the counting ends so long before the load ends
CPU_NAMES = ("service_cpu_us", "database_cpu_us")  # per request
HEALTH_RATE = 50.0  # requests to /health per second beside a load: enough for a p99, and hardly a load itself
POSTINGS = ("spread", "hot", "batch", "old_batch")  # kinds of load that write transfers
OPENING = "opening"  # the kind of load that opens accounts


@dataclass(frozen=True)
class Ledger:
    """A database with a ledger, and its PostgreSQL."""

    service_url: str
    owner_url: str
    superuser: "psycopg.Connection[tuple[object, ...]]"  # to this database
    postmaster: int  # process id

    def last_number(self) -> int:
        """The number of the newest transfer."""
        return self.query_integer("SELECT last_number FROM journal")

    def count_written(self, kind: str) -> int:
        """The transfers, or for a load that opens accounts the accounts, that were written so far."""
        return self.query_integer("SELECT count(*) FROM account") if kind == OPENING else self.last_number()

    def query_integer(self, statement: str) -> int:
        row = self.superuser.execute(statement.encode()).fetchone()
        assert row is not None, "bug: the statement returned no row"
        return int(str(row[0]))


@dataclass
class Bench:
    """One run: the server, the working directory, the options, and where results go."""

    server: postgres.Server
    work: Path
    rounds: int
    seconds: float  # of each measurement
    results: Results
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def is_smoke_test(self) -> bool:
        """Fewer than three rounds only show that everything works."""
        return self.rounds < 3

    @contextlib.contextmanager
    def ledger(self, transfers: int, accounts: int) -> Iterator[Ledger]:
        """A new database with that many transfers between that many accounts; it is dropped at the end."""
        name = f"bench_{next(self.numbers)}"
        with psycopg.connect(self.server.superuser_url, autocommit=True) as administrator:
            administrator.execute(SQL("CREATE DATABASE {} OWNER ledger_owner").format(Identifier(name)))
            try:
                with psycopg.connect(self.server.url("ledger_owner", name), autocommit=True) as owner:
                    ledgers.create(owner, transfers, accounts)
                administrator.execute("CHECKPOINT")  # so that each measurement begins in the same state
                with psycopg.connect(self.server.url("postgres", name), autocommit=True) as superuser:
                    postmaster = int((self.server.data / "postmaster.pid").read_text().splitlines()[0])
                    urls = self.server.url("ledger_service", name), self.server.url("ledger_owner", name)
                    yield Ledger(*urls, superuser, postmaster)
            finally:
                administrator.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def audit_seconds(ledger: Ledger) -> float:
    """Audit the whole ledger, and return how long it took. Raises BenchError if it finds an error."""
    started_at = time.monotonic()
    with session.connect(ledger.service_url) as connection:
        session.configure(connection)
        report = audit.run(connection)
    if report.errors:
        raise BenchError(f"the audit found errors in the measured ledger, first {report.errors[0]}")
    return time.monotonic() - started_at


def warm_up(service: Service) -> None:
    """Let the service open its connections and prepare its statements."""
    for kind in ("spread", "read", "page"):
        load.finish_wrk(load.start_wrk([service.url], Load(kind, 16), WARM_UP_SECONDS), WARM_UP_SECONDS)


def measure(
    ledger: Ledger,
    services: Sequence[Service],
    loaded: Load,
    seconds: float,
    *,
    health: bool = False,
    warm_up_seconds: float = WARM_UP_SECONDS,
) -> Measurement:
    """Put the load on the services, and return rate, latencies, CPU time, and with `health` the latency of /health.

    The rate of postings is counted in the database while the load is constant: wrk does not count the requests that are
    in progress at its end, and with batches these are many transfers or accounts.
    """
    total_seconds = seconds + warm_up_seconds
    cpu_before = _cpu_seconds(ledger, services)
    first_count = ledger.count_written(loaded.kind)
    running = load.start_wrk([service.url for service in services], loaded, total_seconds)
    time.sleep(warm_up_seconds)
    probe = start_health_probe(services[0], seconds - 1) if health else None
    counted_from, counted_at = ledger.count_written(loaded.kind), time.perf_counter()
    time.sleep(seconds - END_SECONDS)
    written, counted_seconds = ledger.count_written(loaded.kind) - counted_from, time.perf_counter() - counted_at
    summary = load.finish_wrk(running, total_seconds)
    is_writing = loaded.kind in (*POSTINGS, OPENING)
    if is_writing and ledger.count_written(loaded.kind) - first_count < summary.successes * loaded.items:
        raise BenchError(f"{summary.successes} responses reported success, but the database has fewer rows")
    measurement = {"rate": written / counted_seconds if is_writing else summary.successes / summary.seconds}
    measurement |= {name: value for name, value in vars(summary).items() if name != "seconds"}
    for name, before, after in zip(CPU_NAMES, cpu_before, _cpu_seconds(ledger, services), strict=True):
        measurement[name] = (after - before) / max(1, summary.requests) * 1e6
    if probe:
        found = load.finish_module(probe, seconds)
        measurement |= {f"health_{name}": found[name] for name in ("p50_ms", "p99_ms", "max_ms", "failed")}
    return measurement


def _cpu_seconds(ledger: Ledger, services: Sequence[Service]) -> tuple[float, float]:
    """CPU time of the services and of PostgreSQL so far, in the order of CPU_NAMES."""
    return sum(service.cpu_seconds() for service in services), cpu_seconds(ledger.postmaster)


def start_health_probe(service: Service, seconds: float) -> "subprocess.Popen[str]":
    """Probe /health beside the load, each time on a new connection."""
    return load.start_module("open_loop", "health", service.port, HEALTH_RATE, max(1.0, seconds), 2, TOKEN)
