"""`python -m dev.postgres -- .venv/bin/python -m bench.trial_balance ACCOUNTS`: the time of a trial balance.

It creates a ledger with ACCOUNTS accounts and as many transfers, and prints how long the reads take without HTTP: while
many holds are open, and after all of them have expired. Then it measures the list of the open holds of one account.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import psycopg
from psycopg.sql import SQL

from bench import ledgers
from service import session
from service.ledger import holds, trial_balance

ROUNDS = 15  # of each read; psycopg prepares a statement at its sixth execution
HOLDS = 100_000  # of each kind
# Holds of the accounts a1, a2 … in turn. They expire in an hour, after the end of the measurement.
PLACE = SQL(
    """
    INSERT INTO hold (
        id, status, from_account, to_account, amount, currency, expires_at, metadata, created_at, created_by
    )
    SELECT md5(number::text), 'open', concat('a', 1 + number % ({accounts} - 1)), 'a0', 1, 'EUR',
        now() + interval '1 hour', '{{}}', now(), 'bench'
    FROM generate_series(1, {holds}) AS number;
    UPDATE account
    SET held = placed.amount
    FROM (SELECT from_account, sum(amount) AS amount FROM hold GROUP BY from_account) AS placed
    WHERE id = from_account
    """
)
# Holds of one account, which do not expire.
PLACE_ON_ONE = SQL(
    """
    INSERT INTO hold (id, status, from_account, to_account, amount, currency, metadata, created_at, created_by)
    SELECT concat('one-', md5(number::text)), 'open', 'a0', 'a1', 1, 'EUR', '{{}}', now(), 'bench'
    FROM generate_series(1, {holds}) AS number;
    UPDATE account SET held = {holds} WHERE id = 'a0'
    """
)


def main() -> None:
    """Create the ledger and print the figures."""
    accounts = int(sys.argv[1])
    with (
        psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True) as owner,
        session.connect(os.environ["DATABASE_URL"]) as connection,
    ):
        ledgers.create(owner, accounts, accounts)
        session.configure(connection)
        owner.execute(PLACE.format(accounts=accounts, holds=HOLDS))
        owner.execute("VACUUM ANALYZE")
        measure("all accounts", lambda: trial_balance.read_and_advance_time(connection, ""))
        measure("a ninth of them, by prefix", lambda: trial_balance.read_and_advance_time(connection, "a1"))
        owner.execute("UPDATE hold SET expires_at = created_at + interval '1 microsecond'")
        owner.execute("VACUUM ANALYZE hold")
        measure("all accounts, all holds expired", lambda: trial_balance.read_and_advance_time(connection, ""))
        owner.execute(PLACE_ON_ONE.format(holds=HOLDS))
        owner.execute("VACUUM ANALYZE hold")
        measure("holds of one account, first page", lambda: read_page(connection, after=""))
        before_last_page = owner.execute("SELECT id FROM hold ORDER BY id DESC OFFSET 50 LIMIT 1").fetchone()
        assert before_last_page
        measure("holds of one account, last page", lambda: read_page(connection, after=before_last_page[0]))


def read_page(connection: session.Connection, after: str) -> None:
    """A page of 50 holds, as the endpoint reads it."""
    assert len(holds.list_open_and_advance_time(connection, "a0", after=after, limit=51)) >= 50


def measure(name: str, read: Callable[[], object]) -> None:
    """Print the median and the shortest time of ROUNDS reads, after one that is not counted."""
    seconds = []
    for _ in range(ROUNDS + 1):
        started_at = time.monotonic()
        read()
        seconds.append(time.monotonic() - started_at)
    counted = [1000 * each for each in seconds[1:]]
    print(f"{name}: median {statistics.median(counted):.1f} ms, shortest {min(counted):.1f} ms", flush=True)


if __name__ == "__main__":
    main()
