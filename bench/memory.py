"""Section memory: start to ready, and the memory of one process, idle and during a million requests of all kinds."""

import itertools
import time

from bench import load
from bench.load import Load
from bench.measure import Bench, warm_up
from bench.processes import BenchError, Service, serving
from bench.throughput import ACCOUNTS, CALLERS, TRANSFERS

SECTION = "memory"
REQUESTS = 1_000_000
SMOKE_REQUESTS = 10_000
KINDS = ("spread", "read", "hot", "page")
IDLE_SECONDS = 1.0  # after the start, until the process has opened its connections
LIMIT_SECONDS = 1800  # for all requests
STEP_SECONDS = 5.0  # of one kind of request, after which the memory is read


def run(bench: Bench) -> None:
    """Start several times; then let the last process serve the requests."""
    with bench.ledger(TRANSFERS, ACCOUNTS) as ledger:
        for _ in range(bench.rounds):
            with serving(ledger.service_url, bench.work) as service:
                time.sleep(IDLE_SECONDS)
                bench.results.add(SECTION, "start", {"ready_seconds": service.ready_seconds, **read_memory(service)})
        with serving(ledger.service_url, bench.work) as service:
            serve(bench, service)


def serve(bench: Bench, service: Service) -> None:
    """Record the memory after each step, until the process has served all requests."""
    wanted = SMOKE_REQUESTS if bench.is_smoke_test else REQUESTS
    seconds = min(STEP_SECONDS, bench.seconds)
    until = time.monotonic() + LIMIT_SECONDS
    time.sleep(IDLE_SECONDS)
    bench.results.add(SECTION, "requests", {"requests": 0, **read_memory(service)})
    warm_up(service)
    served = 0
    for kind in itertools.cycle(KINDS):
        running = load.start_wrk([service.url], Load(kind, CALLERS), seconds)
        summary = load.finish_wrk(running, seconds)
        served += summary.requests
        measurement = {"requests": served, "failed": summary.failed + summary.refused, **read_memory(service)}
        bench.results.add(SECTION, "requests", measurement)
        if served >= wanted:
            return
        if time.monotonic() > until:
            raise BenchError(f"only {served} requests in {LIMIT_SECONDS} s")


def read_memory(service: Service) -> dict[str, float]:
    return {"rss_mb": service.memory_mb(), "pss_mb": service.proportional_memory_mb()}
