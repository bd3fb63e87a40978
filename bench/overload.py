"""Section overload: goodput with up to 2,500 connections that each repeat at once, and /health beside it."""

from bench import load
from bench.load import Load
from bench.measure import Bench, audit_seconds, measure, warm_up
from bench.processes import serving
from bench.throughput import ACCOUNTS, TRANSFERS

SECTION = "overload"
WARM_UP_SECONDS = 2.0  # until 2,500 connections are open and the first requests have left the queue
CONNECTIONS = (64, 256, 1000, 2500)


def run(bench: Bench) -> None:
    """Measure each number of connections; the rate counts only transfers that were posted."""
    load.check_open_files(max(CONNECTIONS))
    with bench.ledger(TRANSFERS, ACCOUNTS) as ledger, serving(ledger.service_url, bench.work) as service:
        warm_up(service)
        for _ in range(bench.rounds):
            for connections in CONNECTIONS:
                loaded = Load("spread", connections)
                found = measure(ledger, [service], loaded, bench.seconds, health=True, warm_up_seconds=WARM_UP_SECONDS)
                bench.results.add(SECTION, f"{connections}", found)
        audit_seconds(ledger)
