"""`python -m dev.postgres --data DIR -- .venv/bin/python -m bench.recovery`: probes beside overload, and recovery.

2,500 connections repeat transfers at once, as in the section overload of `make bench`. Meanwhile /health, /ready and
/metrics are requested, each time on a new connection. After the overload, one caller posts transfers: it prints how
long the first one took, and when one first took less than QUICK_SECONDS.
"""

import json
import os
import secrets
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg

from bench import ledgers, load
from bench.load import Load
from bench.measure import warm_up
from bench.processes import TOKEN, Service, serving

TRANSFERS, ACCOUNTS, CONNECTIONS = 10_000, 10_000, 2500
SECONDS = 10.0
SETTLE_SECONDS = 2.0  # until all connections are open
PROBES_PER_SECOND = 20.0  # of each path
QUICK_SECONDS = 0.1
LIMIT_SECONDS = 30.0  # for the recovery


def main() -> None:
    """Create the ledger, overload the service, and print the figures."""
    load.check_open_files(CONNECTIONS)
    with psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True) as owner:
        ledgers.create(owner, TRANSFERS, ACCOUNTS)
    with tempfile.TemporaryDirectory() as work, serving(os.environ["DATABASE_URL"], Path(work)) as service:
        warm_up(service)
        running = load.start_wrk([service.url], Load("spread", CONNECTIONS), SECONDS)
        time.sleep(SETTLE_SECONDS)
        seconds = SECONDS - SETTLE_SECONDS - 1
        probes = {
            kind: load.start_module("open_loop", kind, service.port, PROBES_PER_SECOND, seconds, ACCOUNTS, TOKEN)
            for kind in ("health", "ready", "metrics")
        }
        for kind, probe in probes.items():
            found = load.finish_module(probe, seconds)
            print(f"/{kind}:", *(f"{name} {found[name]:.0f}" for name in ("p50_ms", "p99_ms", "max_ms", "failed")))
        summary = load.finish_wrk(running, SECONDS)
        print(
            f"overload: {summary.successes / summary.seconds:,.0f}/s, p99 {summary.p99_ms:.0f} ms, "
            f"{summary.refused} refused, {summary.failed} failed"
        )
        recover(service)


def recover(service: Service) -> None:
    """Post until a transfer takes less than QUICK_SECONDS."""
    ended_at = time.monotonic()
    first = 0.0
    while time.monotonic() < ended_at + LIMIT_SECONDS:
        seconds = post(service)
        first = first or seconds
        if seconds < QUICK_SECONDS:
            print(f"recovery: first transfer {first:.2f} s, quick after {time.monotonic() - ended_at:.2f} s")
            return
    print(f"no recovery in {LIMIT_SECONDS:.0f} s")


def post(service: Service) -> float:
    """The seconds until one transfer is posted; LIMIT_SECONDS if it is refused."""
    body = json.dumps({"from": "a0", "to": "a1", "amount": 1, "currency": ledgers.CURRENCY}).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    url = f"{service.url}/v1/transfers/{secrets.token_hex(8)}"
    started_at = time.monotonic()
    try:
        urllib.request.urlopen(urllib.request.Request(url, body, headers, method="PUT"), timeout=LIMIT_SECONDS).close()
    except urllib.error.HTTPError:
        return LIMIT_SECONDS
    return time.monotonic() - started_at


if __name__ == "__main__":
    main()
