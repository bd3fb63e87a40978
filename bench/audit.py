"""`python -m dev.postgres -- .venv/bin/python -m bench.audit TRANSFERS`: the time and memory of an audit.

It creates a ledger with TRANSFERS transfers and prints the seconds from the start to each check and to the end.
"""

import os
import resource
import sys
import time

import psycopg

from service import database
from service.ledger import audit
from service.migrate import runner
from service.migrate.files import read_files

# Random transfers between 10,000 accounts, with the balances that the service would write.
LEDGER = """
    ALTER TABLE transfer DROP CONSTRAINT transfer_from_account_fkey, DROP CONSTRAINT transfer_to_account_fkey;
    CREATE TEMP TABLE plan AS
    SELECT number, mod(hash, 10000) AS source, mod(hash + 1 + mod(hash / 10000, 9999), 10000) AS target, 1 AS amount
    FROM generate_series(1, %(transfers)s) AS number, abs(hashint8extended(number, 1) / 2) AS hash;
    INSERT INTO transfer (
        id, number, status, from_account, to_account, amount, currency, from_balance, to_balance, metadata, created_at,
        created_by
    )
    SELECT concat('t', number), number, 'posted', concat('a', source), concat('a', target), amount, 'EUR',
        from_balance, to_balance, '{"order": "A-19"}', '2026-01-01Z'::timestamptz + number * interval '1 ms', 'bench'
    FROM plan
    JOIN (
        SELECT number, max(balance) FILTER (WHERE change < 0) AS from_balance,
            max(balance) FILTER (WHERE change > 0) AS to_balance
        FROM (
            SELECT number, change, sum(change) OVER (PARTITION BY account ORDER BY number) AS balance
            FROM plan CROSS JOIN LATERAL (VALUES (source, -amount), (target, amount)) AS entry (account, change)
        ) AS chain
        GROUP BY number
    ) AS balances USING (number)
    ORDER BY number;
    INSERT INTO account (id, currency, min_balance, balance, metadata, created_by)
    SELECT concat('a', account), 'EUR', NULL, sum(change), '{}', 'bench'
    FROM plan CROSS JOIN LATERAL (VALUES (source, -amount), (target, amount)) AS entry (account, change)
    GROUP BY account;
    UPDATE journal SET last_number = %(transfers)s
"""


def main() -> None:
    """Create the ledger, run the audit and print the figures."""
    with psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True) as owner:
        runner.up(owner, read_files())
        psycopg.ClientCursor(owner).execute(LEDGER, {"transfers": int(sys.argv[1])})
        owner.execute("VACUUM ANALYZE transfer, account")
    with database.connect(os.environ["DATABASE_URL"]) as connection:
        database.configure(connection)
        started_at = time.monotonic()

        def print_seconds(text: object) -> None:
            print(f"{time.monotonic() - started_at:6.1f} s {text}")

        print_seconds(audit.run(connection, on_check=print_seconds))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB of memory in this process")


if __name__ == "__main__":
    main()
