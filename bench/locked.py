"""Section locked: another session keeps one account locked while callers wait for it. The others must go on."""

import contextlib
import time
from collections.abc import Iterator

import psycopg

from bench import load
from bench.load import Load
from bench.measure import WARM_UP_SECONDS, Bench, Ledger, measure, warm_up
from bench.processes import serving
from bench.throughput import ACCOUNTS, CALLERS, TRANSFERS

SECTION = "locked"
WAITING_CALLERS = 24
LOCKED_SECONDS = 10.0
SETTLE_SECONDS = 1.0  # until all of them wait
END_SECONDS = 1.0  # the load on the others ends so long before the account is free
FREE, LOCKED = "all accounts free", "one account locked"


def run(bench: Bench) -> None:
    """Measure the load on the other accounts, in turn without and with the locked account."""
    with bench.ledger(TRANSFERS, ACCOUNTS) as ledger, serving(ledger.service_url, bench.work) as service:
        with psycopg.connect(ledger.owner_url, autocommit=True) as owner:
            owner.execute(
                """
                INSERT INTO account (id, currency, min_balance, metadata, created_by)
                VALUES ('locked', 'EUR', NULL, '{}', 'bench')
                """
            )
        warm_up(service)
        seconds = min(bench.seconds, LOCKED_SECONDS - SETTLE_SECONDS - WARM_UP_SECONDS - END_SECONDS)
        for _ in range(bench.rounds):
            bench.results.add(SECTION, FREE, measure(ledger, [service], Load("spread", CALLERS), seconds))
            waiting = load.start_wrk([service.url], Load("locked", WAITING_CALLERS), LOCKED_SECONDS)
            with account_locked(ledger):
                time.sleep(SETTLE_SECONDS)
                found = measure(ledger, [service], Load("spread", CALLERS), seconds)
            bench.results.add(SECTION, LOCKED, found)
            load.finish_wrk(waiting, LOCKED_SECONDS)


@contextlib.contextmanager
def account_locked(ledger: Ledger) -> Iterator[None]:
    """During the block and until LOCKED_SECONDS have passed, a session keeps the account locked."""
    until = time.monotonic() + LOCKED_SECONDS
    with psycopg.connect(ledger.owner_url) as connection:
        connection.execute("SELECT FROM account WHERE id = 'locked' FOR NO KEY UPDATE")
        yield
        time.sleep(max(0.0, until - time.monotonic()))
