"""`python -m dev.postgres --data DIR -- .venv/bin/python -m bench.clients [KIND=COUNT…]`: load beside slow clients.

Without arguments, MAX_IN_FLIGHT and 200 more slow or broken clients of each kind of tests/support/offenders.py. It
prints the rate and latencies of 64 connections that post meanwhile, and the memory of the process.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb

from bench import ledgers, load
from bench.load import Load
from bench.measure import warm_up
from bench.processes import TOKEN, Service, serving
from service.contract import LIMITS
from service.http.app import MAX_IN_FLIGHT
from tests.support import offenders

TRANSFERS, ACCOUNTS, CONNECTIONS = 10_000, 10_000, 64
SECONDS = 6.0  # of each measurement: shorter than the time in which slow clients are cut
SETTLE_SECONDS = 1.0  # after the slow clients have connected, and after they have left
LARGE = {f"{n:040}": "𝄞" * LIMITS.metadata_value_characters for n in range(LIMITS.metadata_members)}


def main() -> None:
    """Create the ledger, whose first page has the most metadata, then measure without and with each kind."""
    counts = dict(argument.split("=") for argument in sys.argv[1:]) or dict.fromkeys(
        offenders.KINDS, str(MAX_IN_FLIGHT + 200)
    )
    with psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True) as owner:
        ledgers.create(owner, TRANSFERS, ACCOUNTS)
        update = "UPDATE transfer SET metadata = %(large)s WHERE number <= %(rows)s"
        owner.execute(update, {"large": Jsonb(LARGE), "rows": LIMITS.page_max})
    with tempfile.TemporaryDirectory() as work, serving(os.environ["DATABASE_URL"], Path(work)) as service:
        warm_up(service)
        for kind, count in counts.items():
            report(service, f"without, before {kind}")
            with offenders.offending(service.port, kind, int(count), TOKEN):
                report(service, f"{count} clients, {kind}")
            time.sleep(SETTLE_SECONDS)


def report(service: Service, case: str) -> None:
    """Measure the load and print its figures."""
    running = load.start_wrk([service.url], Load("spread", CONNECTIONS, accounts=ACCOUNTS), SECONDS)
    time.sleep(SETTLE_SECONDS)
    memory = service.memory_mb()
    found = load.finish_wrk(running, SECONDS)
    print(
        f"{case}: {found.successes / found.seconds:,.0f}/s, p50 {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms, "
        f"{found.refused} refused, {found.failed} failed, {max(memory, service.memory_mb()):.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
