"""`python -m dev.postgres -- .venv/bin/python -m bench.audit TRANSFERS`: the time and memory of an audit.

It creates a ledger with TRANSFERS transfers and prints the seconds from the start to each check and to the end.
"""

import os
import resource
import sys
import time

import psycopg

from bench import ledgers
from service import session
from service.ledger import audit

ACCOUNTS = 10_000


def main() -> None:
    """Create the ledger, run the audit and print the figures."""
    with psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True) as owner:
        ledgers.create(owner, int(sys.argv[1]), ACCOUNTS)
    with session.connect(os.environ["DATABASE_URL"]) as connection:
        session.configure(connection)
        started_at = time.monotonic()

        def print_seconds(text: object) -> None:
            print(f"{time.monotonic() - started_at:6.1f} s {text}")

        print_seconds(audit.run(connection, on_check=print_seconds))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB of memory in this process")


if __name__ == "__main__":
    main()
