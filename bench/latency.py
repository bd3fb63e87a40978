"""Section latency: p50 and p99 at 25, 50 and 75 % of the best throughput, in an open loop (see open_loop.py)."""

import statistics

from bench import load
from bench.load import Load
from bench.measure import Bench, measure, warm_up
from bench.processes import TOKEN, serving
from bench.throughput import ACCOUNTS, CALLERS, TRANSFERS

SECTION = "latency"
KINDS = ("spread", "hot")
PERCENT = (25, 50, 75)  # of the best rate


def run(bench: Bench) -> None:
    """Measure the best rate in a closed loop, then the latencies below it."""
    with bench.ledger(TRANSFERS, ACCOUNTS) as ledger, serving(ledger.service_url, bench.work) as service:
        warm_up(service)
        best = {}
        for kind in KINDS:
            for _ in range(bench.rounds):
                found = measure(ledger, [service], Load(kind, CALLERS), bench.seconds)
                bench.results.add(SECTION, f"{kind} best", found)
            best[kind] = statistics.median(found["rate"] for found in bench.results.cases(SECTION)[f"{kind} best"])
        for _ in range(bench.rounds):
            for kind in KINDS:
                for percent in PERCENT:
                    rate = best[kind] * percent / 100
                    found = load.run_module(
                        "open_loop", bench.seconds, kind, service.port, rate, bench.seconds, ACCOUNTS, TOKEN
                    )
                    bench.results.add(SECTION, f"{kind} {percent}", {"target_rate": rate, **found})
