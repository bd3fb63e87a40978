"""`python -m dev.postgres -- .venv/bin/python -m bench.reversals REVERSALS...`: one more reversal of a transfer.

For each argument, it prints the time of one posting that reverses 1 of a transfer with this number of reversals.
"""

import logging
import os
import statistics
import sys
import time

import psycopg

from service import session
from service.ledger import posting
from service.ledger.types import TransferCommand
from service.migrate import runner
from service.migrate.files import read_files

POSTINGS = 200  # of one figure
OTHER_TRANSFERS = 200_000

# Two accounts and one transfer for each number of reversals. `all` is the amount of the transfer.
LEDGER = """
    INSERT INTO account (id, currency, balance, metadata, created_by)
    VALUES ('a%(reversals)s', 'EUR', %(reversals)s - %(all)s, '{}', 'bench'),
        ('b%(reversals)s', 'EUR', %(all)s - %(reversals)s, '{}', 'bench');
    INSERT INTO transfer (
        id, number, status, from_account, to_account, amount, currency, from_balance, to_balance, reverses,
        reversed_total, metadata, created_at, created_by
    )
    SELECT 't%(reversals)s', last_number + 1, 'posted', 'a%(reversals)s', 'b%(reversals)s', %(all)s, 'EUR', -%(all)s,
        %(all)s, NULL, NULL::bigint, '{}'::jsonb, last_at, 'bench'
    FROM journal
    UNION ALL
    SELECT concat('t%(reversals)s-', reversal), last_number + 1 + reversal, 'posted', 'b%(reversals)s',
        'a%(reversals)s', 1, 'EUR', %(all)s - reversal, reversal - %(all)s, 't%(reversals)s', reversal, '{}', last_at,
        'bench'
    FROM journal
    CROSS JOIN generate_series(1, %(reversals)s) AS reversal;
    UPDATE journal SET last_number = last_number + 1 + %(reversals)s
"""

# Later transfers of other accounts, so that the reversals are neither the last ones nor most of the table.
OTHERS = """
    INSERT INTO account (id, currency, balance, metadata, created_by)
    VALUES ('a', 'EUR', -%(others)s, '{}', 'bench'), ('b', 'EUR', %(others)s, '{}', 'bench');
    INSERT INTO transfer (
        id, number, status, from_account, to_account, amount, currency, from_balance, to_balance, metadata, created_at,
        created_by
    )
    SELECT concat('other', other), last_number + other, 'posted', 'a', 'b', 1, 'EUR', -other, other, '{}', last_at,
        'bench'
    FROM journal
    CROSS JOIN generate_series(1, %(others)s) AS other;
    UPDATE journal SET last_number = last_number + %(others)s
"""


def main() -> None:
    """Create the transfers, and print the times. Each round posts one reversal of each, so all have the same load."""
    logging.disable()
    counts = [int(argument) for argument in sys.argv[1:]]
    with psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True) as owner:
        runner.up(owner, read_files())
        for reversals in counts:
            psycopg.ClientCursor(owner).execute(LEDGER, {"reversals": reversals, "all": reversals + POSTINGS})
        psycopg.ClientCursor(owner).execute(OTHERS, {"others": OTHER_TRANSFERS})
        owner.execute("VACUUM ANALYZE")
    with session.connect(os.environ["DATABASE_URL"]) as connection:
        session.configure(connection)
        rounds = [[reverse(connection, reversals, number) for reversals in counts] for number in range(POSTINGS)]
    for reversals, times in zip(counts, zip(*rounds, strict=True), strict=True):
        median, shortest = statistics.median(times) * 1000, min(times) * 1000
        print(f"{reversals:,} reversals: median {median:.2f} ms, shortest {shortest:.2f} ms")


def reverse(connection: session.Connection, reversals: int, number: int) -> float:
    """Reverse 1 of the transfer with this number of reversals; the seconds that it took."""
    command = TransferCommand(
        id=f"new{reversals}-{number}", amount=1, metadata={}, created_by="bench", reverses=f"t{reversals}"
    )
    started_at = time.perf_counter()
    (result,) = posting.post(connection, [command], atomic=False)
    assert (result.is_new, result.refusal) == (True, None), result
    return time.perf_counter() - started_at


if __name__ == "__main__":
    main()
