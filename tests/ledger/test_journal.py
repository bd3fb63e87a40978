"""The row of the journal, which every posting updates: its old versions, and the settings of its table."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service import database, session
from tests.support.client import Client
from tests.support.ledger import Urls
from tests.support.waiting import wait_until

SETTINGS = (Path(__file__).parents[2] / "sql" / "0009_journal_vacuum.sql").read_text("utf-8")
VERSIONS = """
    DO $$
    BEGIN
        FOR version IN 1..2000 LOOP
            UPDATE journal SET last_at = last_at;
            COMMIT;
        END LOOP;
    END
    $$
"""
MANY_PAGES, FEW_PAGES = 10, 5  # 2,000 versions are on 13 pages


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    client.open("a", "b", min_balance=None)


def pages_read(owner: psycopg.Connection[Any]) -> int:
    """How many pages of the table and its index a read of the row needs."""
    row = owner.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT FROM journal WHERE only_row").fetchone()
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    return int(plan[0]["Plan"]["Shared Hit Blocks"])


def test_postings_go_on_while_the_settings_are_changed(client: Client, owner: psycopg.Connection[Any]) -> None:
    """The transaction of the migration is open, and a transfer is posted meanwhile."""
    with owner.transaction():
        owner.execute(SETTINGS.encode())
        assert client.move("t1").status == 201


def test_the_end_of_a_snapshot_ends_the_cost_of_old_versions(
    client: Client, owner: psycopg.Connection[Any], urls: Urls
) -> None:
    """While a snapshot is held, each read passes the old versions. Afterwards, postings remove them without VACUUM."""
    owner.execute("SET enable_seqscan = off")
    try:
        with session.connect(urls.service) as reader, database.read_only_snapshot(reader):
            reader.execute("SELECT FROM account LIMIT 1")
            owner.execute(VERSIONS.encode())
            assert pages_read(owner) > MANY_PAGES
        numbers = iter(range(1000))

        def are_removed() -> bool:
            assert client.move(f"t{next(numbers)}").status == 201
            return pages_read(owner) <= FEW_PAGES

        wait_until(are_removed, "postings have removed the old versions")
    finally:
        owner.execute("RESET enable_seqscan")
