"""`make figures`: how fast one process posts, as it is built and with single decisions turned round.

It calls the ledger without HTTP, from threads, on a new database. Every variant posts new transfers between random
accounts for a few seconds; the table says transfers a second, for so many threads x so many transfers in one posting.
"""

import logging
import os
import platform
import random
import threading
import time
import unittest.mock
from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from service.database import Connection, Database
from service.ledger import accounts, journal
from service.ledger.errors import Refusal
from service.ledger.records import TransferRequest
from service.migrate import runner
from service.migrate.files import read_files

SECONDS = 5.0  # for each figure
ACCOUNTS = 10_000
SHAPES = [(8, 1), (64, 1), (8, 100), (8, 1000)]  # threads, transfers in one posting
FOREIGN_KEYS = ("from_account", "to_account")


def main() -> None:
    """Print the machine and the table."""
    logging.disable()  # postings that wait too long for each other are left out of the figures, and not worth a line
    owner = psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True)
    runner.up(owner, read_files())
    database = Database(os.environ["DATABASE_URL"], 8)
    for n in range(ACCOUNTS):
        members: dict[str, Any] = {"currency": "EUR", "min_balance": None, "metadata": {}}
        database.run(partial(accounts.open, id=f"a{n}", members=members, caller="bench"))
    postgresql = owner.info.parameter_status("server_version")
    print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, PostgreSQL {postgresql}")
    print(time.strftime("%Y-%m-%d"), "\n")
    print(f"{'':34}", *(f"{threads:>3} x {size:<5}" for threads, size in SHAPES))
    show("as built", database)
    with unittest.mock.patch.object(Connection, "execute_and_commit", in_a_pipeline):
        show("writes and COMMIT in a pipeline", database)
    for side in FOREIGN_KEYS:
        owner.execute(f"ALTER TABLE transfer DROP CONSTRAINT transfer_{side}_fkey")
    show("without foreign keys", database)
    database.close()
    owner.close()


def show(name: str, database: Database) -> None:
    rates = [measure(name, database, threads, size) for threads, size in SHAPES]
    print(f"{name:34}", *(f"{rate:>10,.0f}" for rate in rates), flush=True)


def measure(name: str, database: Database, threads: int, size: int) -> float:
    """Transfers a second."""
    posted = [0] * threads
    until = time.monotonic() + SECONDS

    def work(thread: int) -> None:
        for round_ in count():
            if time.monotonic() > until:
                return
            requests = [new_transfer(f"{name}:{threads}:{size}:{thread}:{round_}:{n}") for n in range(size)]
            try:
                database.run(partial(journal.post, requests=requests, atomic=False, caller="bench"))
            except Refusal:  # waited too long for the accounts of another posting: it does not count
                continue
            posted[thread] += size

    running = [threading.Thread(target=work, args=[thread]) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(posted) / SECONDS


def new_transfer(id: str) -> TransferRequest:
    source, target = random.sample(range(ACCOUNTS), 2)
    return TransferRequest(
        id=id, from_account=f"a{source}", to_account=f"a{target}", amount=1, currency="EUR", metadata={}
    )


def in_a_pipeline(self: Connection, statements: str, parameters: Mapping[str, Any]) -> TupleRow | None:
    """The other way to send them: each statement a message of its own, prepared, and COMMIT the last of them."""
    self.commit_sent = True
    parts = [part.strip() for part in statements.split(";\n")]
    with self.pipeline():
        cursors = [self.execute(part, parameters if "%(" in part else None) for part in parts]
    return next((cursor.fetchone() for cursor in cursors if cursor.description), None)


if __name__ == "__main__":
    main()
