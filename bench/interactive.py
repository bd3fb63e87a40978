"""`python -m bench.interactive URL CALLERS SECONDS HOT ACCOUNTS`: what a simple service without rules would write.

Each caller is a process with one psycopg connection. It posts one transfer after another: BEGIN, lock both accounts,
update them, insert the transfer, COMMIT, each in a round trip of its own. The rows are those of the ledger. There is no
HTTP, no check of ids, floors or status, no log, and the number comes from a sequence. Prints one line of JSON.
"""

import json
import multiprocessing
import random
import sys
import time
import uuid

import psycopg

from bench.open_loop import percentile_ms

START_SECONDS = 1.0  # until all callers are connected
LIMIT_SECONDS = 60  # for the callers to end


def main() -> None:
    """Run the callers and print the rate and the latencies of all of them."""
    url, callers, seconds, hot, accounts = sys.argv[1:]
    start = time.monotonic() + START_SECONDS
    until = start + float(seconds)
    with multiprocessing.Pool(int(callers)) as pool:
        running = pool.starmap_async(post_until, [(url, start, until, hot == "1", int(accounts))] * int(callers))
        latencies = [latency for found in running.get(LIMIT_SECONDS + float(seconds)) for latency in found]
    result = {
        "rate": len(latencies) / float(seconds),
        "p50_ms": percentile_ms(latencies, 0.5),
        "p99_ms": percentile_ms(latencies, 0.99),
        "max_ms": percentile_ms(latencies, 1),
    }
    print(json.dumps(result))


def post_until(url: str, start: float, until: float, hot: bool, accounts: int) -> list[float]:
    """Post transfers in that time, and return the seconds of each."""
    random.seed()  # a forked process has the state of its parent
    latencies = []
    with psycopg.connect(url, autocommit=True) as connection:
        time.sleep(max(0.0, start - time.monotonic()))
        while (started_at := time.monotonic()) < until:
            source = 0 if hot else random.randrange(accounts)
            target = (source + random.randrange(1, accounts)) % accounts
            post(connection, f"a{source}", f"a{target}")
            latencies.append(time.monotonic() - started_at)
    return latencies


def post(connection: psycopg.Connection[tuple[int, ...]], source: str, target: str) -> None:
    """One transfer of 1. The locks are taken in the order of the ids, so no two transactions wait for each other."""
    connection.execute("BEGIN")
    connection.execute(
        "SELECT id, balance FROM account WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE",
        {"ids": [source, target]},
    )
    balances = []
    for id, change in ((source, -1), (target, 1)):
        row = connection.execute(
            "UPDATE account SET balance = balance + %(change)s WHERE id = %(id)s RETURNING balance",
            {"id": id, "change": change},
        ).fetchone()
        assert row is not None, "bug: the account is missing"
        balances.append(row[0])
    connection.execute(
        """
        INSERT INTO transfer (
            id, number, status, from_account, to_account, amount, currency, from_balance, to_balance, metadata,
            created_at, created_by
        ) VALUES (
            %(id)s, nextval('bench_number'), 'posted', %(source)s, %(target)s, 1, 'EUR', %(from_balance)s,
            %(to_balance)s, '{"order": "A-19"}', clock_timestamp(), 'bench'
        )
        """,
        {
            "id": str(uuid.uuid4()),
            "source": source,
            "target": target,
            "from_balance": balances[0],
            "to_balance": balances[1],
        },
    )
    connection.execute("COMMIT")


if __name__ == "__main__":
    main()
