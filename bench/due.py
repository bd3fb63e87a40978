"""`python -m tests.postgres -- .venv/bin/python -m bench.due NUMBER`: so many holds of one account end at one moment.

Then one caller posts a transfer from that account, again until it is done, while another posts between other accounts.
"""

import logging
import os
import sys
import threading
import time
from functools import partial
from itertools import count
from typing import Any

import psycopg

from service.database import Database
from service.ledger import accounts, journal
from service.ledger.errors import Refusal
from service.ledger.records import TransferRequest
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
    """Print each answer with its seconds, and the longest that the other caller waited."""
    logging.disable()
    holds = int(sys.argv[1])
    database = Database(os.environ["DATABASE_URL"], 4)
    with psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True) as owner:
        runner.up(owner, read_files())
        for id in "abcd":
            members: dict[str, Any] = {"currency": "EUR", "min_balance": None, "metadata": {}}
            database.run(partial(accounts.open, id=id, members=members, caller="bench"))
        psycopg.ClientCursor(owner).execute(HOLDS, {"holds": holds})
        owner.execute("VACUUM ANALYZE")
    waited: list[float] = []
    done = threading.Event()
    other = threading.Thread(target=lambda: waited.extend(others(database, done)))
    other.start()
    answer = ""
    while answer != "posted":
        answer, seconds = post(database, "first", "a", "b")
        print(f"{holds:,} holds: {answer} after {seconds:.2f} s")
    done.set()
    other.join()
    print(f"between other accounts: {len(waited):,} posted meanwhile, {max(waited):.2f} s at most")
    database.close()


def others(database: Database, done: threading.Event) -> list[float]:
    """The seconds of each posting until it is over; none of them may fail."""
    waited = []
    for number in count():
        answer, seconds = post(database, f"other{number}", "c", "d")
        assert answer == "posted", answer
        waited.append(seconds)
        if done.wait(0.01):
            break
    return waited


def post(database: Database, id: str, source: str, target: str) -> tuple[str, float]:
    started_at = time.monotonic()
    asked = TransferRequest(id=id, from_account=source, to_account=target, amount=1, currency="EUR", metadata={})
    try:
        database.run(lambda connection: journal.post_one(connection, asked, caller="bench"))
        answer = "posted"
    except Refusal as refusal:
        answer = refusal.slug
    return answer, time.monotonic() - started_at


if __name__ == "__main__":
    main()
