"""`python -m dev.postgres -- .venv/bin/python -m bench.old_versions VERSIONS`: a snapshot is held while others post.

VACUUM cannot remove the old versions of the journal's row that the snapshot may read. This prints the time of one
posting before them, with VERSIONS of them, and after the snapshot has ended.
"""

import os
import statistics
import sys
import time
from itertools import count

import psycopg

from bench import ledgers
from service import database, session
from service.ledger import posting
from service.ledger.types import TransferCommand

TRANSFERS, ACCOUNTS = 10_000, 1_000
POSTINGS = 200  # of one figure
SNAPSHOT_SECONDS = 600  # the snapshot of this measurement may be idle for this time

# Each version needs a transaction of its own, as each posting has.
MAKE_VERSIONS = """
    DO $$
    BEGIN
        FOR version IN 1..{versions} LOOP
            UPDATE journal SET last_at = last_at;
            COMMIT;
        END LOOP;
    END
    $$
"""
PAGES = "SELECT pg_relation_size('journal') / 8192"
_numbers = count()


def main() -> None:
    """Create the ledger, make the versions, and print the times."""
    versions = int(sys.argv[1])
    database.SNAPSHOT_IDLE_SECONDS = SNAPSHOT_SECONDS
    service_url, owner_url = os.environ["DATABASE_URL"], os.environ["MIGRATE_DATABASE_URL"]
    with (
        psycopg.connect(owner_url, autocommit=True) as owner,
        session.connect(service_url) as connection,
        session.connect(service_url) as reader,
    ):
        ledgers.create(owner, TRANSFERS, ACCOUNTS)
        session.configure(connection)
        session.configure(reader)
        report(owner, connection, "before")
        with database.read_only_snapshot(reader):
            reader.execute("SELECT FROM account LIMIT 1")
            owner.execute("SET synchronous_commit = off")
            owner.execute(MAKE_VERSIONS.format(versions=versions).encode())
            report(owner, connection, f"{versions:,} versions, snapshot held")
            owner.execute("VACUUM journal")
            report(owner, connection, "the same, after VACUUM")
        report(owner, connection, "snapshot ended")
        owner.execute("VACUUM journal")
        report(owner, connection, "the same, after VACUUM")


def report(owner: "psycopg.Connection[tuple[object, ...]]", connection: session.Connection, state: str) -> None:
    """Print the median and the shortest time of a posting, and the pages of the journal."""
    times = [post(connection) * 1000 for _ in range(POSTINGS)]
    pages = owner.execute(PAGES.encode()).fetchone()
    assert pages is not None, "bug: the statement returned no row"
    print(
        f"{state}: median {statistics.median(times):.2f} ms, fastest {min(times):.2f} ms, {pages[0]} pages", flush=True
    )


def post(connection: session.Connection) -> float:
    """Post one transfer; the seconds that it took."""
    number = next(_numbers)
    command = TransferCommand(
        id=f"new{number}",
        from_account=f"a{number % ACCOUNTS}",
        to_account=f"a{(number + 1) % ACCOUNTS}",
        amount=1,
        currency=ledgers.CURRENCY,
        metadata={},
        created_by="bench",
    )
    started_at = time.perf_counter()
    (result,) = posting.post(connection, [command], atomic=False)
    assert result.is_new, result
    return time.perf_counter() - started_at


if __name__ == "__main__":
    main()
