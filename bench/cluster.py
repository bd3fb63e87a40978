"""`python -m bench.cluster`: what it costs if each commit waits for a second server.

It prints a table for docs/scaling.md: transfers per second on one server, on a cluster that does not wait
(asynchronous) and on one that waits for one of two standbys (quorum). All servers are on this machine and share its
processors and its disk, and no network is between them. So the table shows an upper limit of the cost in CPU, and a
lower limit of the cost in latency.
"""

import argparse
import contextlib
import datetime
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench import ledgers, machine
from bench.__main__ import working_directory
from bench.load import Load
from bench.measure import Ledger, audit_seconds, measure, warm_up
from bench.processes import BenchError, Service, serving
from bench.results import Measurement
from dev import cluster, postgres

TRANSFERS = 20_000  # at the start
ACCOUNTS = 10_000
LOADS = {
    "1 caller": Load("spread", 1),
    "64 callers, grouped": Load("spread", 64),
    "batches of 100, 4 callers": Load("batch", 4, items=100),
    "batches of 1,000, 4 callers": Load("batch", 4, items=1000),
}
DEFAULT_ROUNDS, DEFAULT_SECONDS = 3, 3.0


@dataclass(frozen=True)
class Subject:
    """A server or a cluster with a ledger, and a service on it."""

    ledger: Ledger
    service: Service


def main() -> int:
    """Measure each load on each server, in rounds, and print the medians; returns 1 if this is not possible."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS)
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[Measurement]] = {}
    try:
        with contextlib.ExitStack() as stack:
            work = stack.enter_context(working_directory())
            subjects = start_subjects(stack, work)
            for subject in subjects.values():
                warm_up(subject.service)
            for _ in range(options.rounds):
                for case, loaded in LOADS.items():
                    for name, subject in subjects.items():
                        measured = measure(subject.ledger, [subject.service], loaded, options.seconds)
                        found.setdefault((case, name), []).append(measured)
            for subject in subjects.values():
                audit_seconds(subject.ledger)
            print_table(found, list(subjects), options.rounds, options.seconds, machine.flush_ms(work))
    except (BenchError, postgres.PostgresError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def start_subjects(stack: contextlib.ExitStack, work: Path) -> dict[str, Subject]:
    """One server, and two clusters of three servers."""
    server = stack.enter_context(postgres.running(work / "postgres"))
    postmaster = int((server.data / "postmaster.pid").read_text().splitlines()[0])
    urls = server.service_url, server.owner_url, server.superuser_url
    subjects = {"one server": stack.enter_context(subject_on(*urls, postmaster, work))}
    for name, mode in (("asynchronous", False), ("quorum", "quorum")):
        started = stack.enter_context(cluster.running(mode))
        primary = started.primary()
        if primary is None:
            raise BenchError("the cluster has lost its primary")
        urls = started.url("ledger_service"), started.url("ledger_owner"), started.url("postgres")
        subjects[name] = stack.enter_context(subject_on(*urls, primary.server_pid(), work))
    return subjects


@contextlib.contextmanager
def subject_on(service_url: str, owner_url: str, superuser_url: str, postmaster: int, work: Path) -> Iterator[Subject]:
    """A ledger on the database of these URLs, and a service, during the block."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        ledgers.create(owner, TRANSFERS, ACCOUNTS)
    with psycopg.connect(superuser_url, autocommit=True) as superuser, serving(service_url, work) as service:
        superuser.execute("CHECKPOINT")
        yield Subject(Ledger(service_url, owner_url, superuser, postmaster), service)


def print_table(
    found: dict[tuple[str, str], list[Measurement]], names: list[str], rounds: int, seconds: float, flush_ms: float
) -> None:
    """Transfers per second and the median latency of a request, for each load and server."""
    print(f"\n{datetime.date.today()}, commit {machine.commit()}, {machine.memory_bytes() / 1e9:.0f} GB,")
    print(f"{machine.cpu_model()}, flush of one page {flush_ms:.2f} ms, medians of {rounds} × {seconds:.0f} s\n")
    print(f"| load | {' | '.join(names)} | quorum ÷ one server |")
    print("| --- " * (len(names) + 2) + "|")
    for case in LOADS:
        rates = [statistics.median(each["rate"] for each in found[case, name]) for name in names]
        latencies = [statistics.median(each["p50_ms"] for each in found[case, name]) for name in names]
        cells = [f"{rate:,.0f}/s, {ms:.1f} ms" for rate, ms in zip(rates, latencies, strict=True)]
        print(f"| {case} | {' | '.join(cells)} | {rates[-1] / rates[0]:.0%} |")


if __name__ == "__main__":
    sys.exit(main())
