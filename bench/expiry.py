"""`python -m dev.postgres -- .venv/bin/python -m bench.expiry HOLDS`: many holds of an account expire at the same time.

One caller posts a transfer from that account and repeats it until it is posted. Meanwhile another caller posts between
other accounts.
"""

import logging
import os
import sys
import threading
import time
from itertools import count

import psycopg

from service.database import Database
from service.errors import Refusal
from service.ledger import posting
from service.ledger.group import GroupPosting
from service.ledger.types import AccountCommand, TransferCommand
from service.migrate import runner
from service.migrate.files import read_files

HOLDS = """
    INSERT INTO hold (
        id, status, from_account, to_account, amount, currency, expires_at, metadata, created_at, created_by
    )
    SELECT concat('h', number), 'open', 'a', 'b', 1, 'EUR', now(), '{}', now(), 'bench'
    FROM generate_series(1, %(holds)s) AS number;
    UPDATE account SET held = %(holds)s WHERE id = 'a'
"""


def main() -> None:
    """Print the result and the seconds of each attempt, and the longest posting of the other caller."""
    logging.disable()
    holds = int(sys.argv[1])
    database = Database(os.environ["DATABASE_URL"], 4, posting.RETRIED_CONSTRAINTS)
    postings = GroupPosting(database)
    with psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True) as owner:
        runner.up(owner, read_files())
        for id in "abcd":
            postings.post(
                AccountCommand(id, "EUR", min_balance=None, max_balance=None, metadata={}, created_by="bench")
            )
        psycopg.ClientCursor(owner).execute(HOLDS, {"holds": holds})
        owner.execute("VACUUM ANALYZE")
    durations: list[float] = []
    is_done = threading.Event()
    other = threading.Thread(target=post_until, args=(is_done, postings, durations))
    other.start()
    result = ""
    while result != "posted":
        result, seconds = post(postings, "first", "a", "b")
        print(f"{holds:,} holds: {result} after {seconds:.2f} s")
    is_done.set()
    other.join()
    print(f"other accounts: {len(durations):,} transfers posted meanwhile, each in at most {max(durations):.2f} s")
    database.close()


def post_until(is_done: threading.Event, postings: GroupPosting, durations: list[float]) -> None:
    """Post between other accounts until the event is set, and append the seconds of each posting. None may fail."""
    for number in count():
        result, seconds = post(postings, f"other{number}", "c", "d")
        assert result == "posted", result
        durations.append(seconds)
        if is_done.wait(0.01):
            break


def post(postings: GroupPosting, id: str, source: str, target: str) -> tuple[str, float]:
    """`posted`, or the slug of the refusal; and the seconds that it took."""
    started_at = time.monotonic()
    command = TransferCommand(
        id=id, from_account=source, to_account=target, amount=1, currency="EUR", metadata={}, created_by="bench"
    )
    try:
        postings.post(command)
        result = "posted"
    except Refusal as refusal:
        result = refusal.slug
    return result, time.monotonic() - started_at


if __name__ == "__main__":
    main()
