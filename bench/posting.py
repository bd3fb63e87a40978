"""`make figures`: transfers per second of one process, as built and with one design decision changed at a time.

It calls the ledger without HTTP, from several threads, on a new database. Each variant posts new transfers between
random accounts for SECONDS. The columns of the table are threads x transfers in one posting.
"""

import logging
import os
import platform
import random
import threading
import time
import unittest.mock
from functools import partial
from itertools import count
from typing import Any

import psycopg

from service.database import Connection, Database
from service.errors import Refusal
from service.ledger import accounts, posting
from service.ledger.types import TransferCommand
from service.migrate import runner
from service.migrate.files import read_files
from tests.support.broken import execute_in_a_pipeline

SECONDS = 5.0  # for each figure
ACCOUNTS = 10_000
SHAPES = [(8, 1), (64, 1), (8, 100), (8, 1000)]  # threads, transfers in one posting
FOREIGN_KEYS = ("from_account", "to_account")


def main() -> None:
    """Print the machine and the table."""
    logging.disable()  # a posting that waits too long for the locks of another would log a line
    owner = psycopg.connect(os.environ["MIGRATE_DATABASE_URL"], autocommit=True)
    runner.up(owner, read_files())
    database = Database(os.environ["DATABASE_URL"], 8, posting.RETRIED_CONSTRAINTS)
    for n in range(ACCOUNTS):
        members: dict[str, Any] = {"currency": "EUR", "min_balance": None, "metadata": {}}
        database.run(partial(accounts.open, id=f"a{n}", members=members, caller="bench"))
    postgresql = owner.info.parameter_status("server_version")
    print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, PostgreSQL {postgresql}")
    print(time.strftime("%Y-%m-%d"), "\n")
    print(f"{'':34}", *(f"{threads:>3} x {size:<5}" for threads, size in SHAPES))
    print_row("as built", database)
    with unittest.mock.patch.object(Connection, "execute_and_commit", execute_in_a_pipeline):
        print_row("writes and COMMIT in a pipeline", database)
    for side in FOREIGN_KEYS:
        owner.execute(f"ALTER TABLE transfer DROP CONSTRAINT transfer_{side}_fkey")
    print_row("without foreign keys", database)
    database.close()
    owner.close()


def print_row(name: str, database: Database) -> None:
    rates = [measure(name, database, threads, size) for threads, size in SHAPES]
    print(f"{name:34}", *(f"{rate:>10,.0f}" for rate in rates), flush=True)


def measure(name: str, database: Database, threads: int, size: int) -> float:
    """Transfers per second."""
    posted = [0] * threads
    until = time.monotonic() + SECONDS

    def work(thread: int) -> None:
        for attempt in count():
            if time.monotonic() > until:
                return
            commands = [new_transfer(f"{name}:{threads}:{size}:{thread}:{attempt}:{n}") for n in range(size)]
            try:
                database.run(partial(posting.post, commands=commands, atomic=False))
            except Refusal:  # it waited too long for the locks of another posting; it is not counted
                continue
            posted[thread] += size

    running = [threading.Thread(target=work, args=[thread]) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(posted) / SECONDS


def new_transfer(id: str) -> TransferCommand:
    """Between two random accounts."""
    source, target = random.sample(range(ACCOUNTS), 2)
    return TransferCommand(
        id=id,
        from_account=f"a{source}",
        to_account=f"a{target}",
        amount=1,
        currency="EUR",
        metadata={},
        created_by="bench",
    )


if __name__ == "__main__":
    main()
