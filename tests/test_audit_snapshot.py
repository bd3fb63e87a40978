"""The audit of a ledger at work: one snapshot, and no false alarms."""

import threading

import pytest

from service import database
from service.ledger import audit
from tests.client import Client, item
from tests.conftest import Urls


@pytest.fixture(autouse=True)
def books(client: Client) -> None:
    client.open("world", "a", "b", min_balance=None)


def test_reads_one_snapshot(client: Client, urls: Urls) -> None:
    """What is posted between two checks is in none of them: the report ends where its first check began."""
    posted: list[str] = []

    def post(check: str) -> None:
        client.move(f"during-{check}", "world", "a", 1)
        posted.append(check)

    with database.connect(urls.service) as connection:
        database.configure(connection)
        report = audit.run(connection, 0, post)
    assert posted == list(audit.CHECKS)
    assert (report.errors, report.transfers, report.last_number) == ([], 1, 1)  # only the first was before the snapshot


def test_gives_no_false_alarm_while_transfers_are_posted(client: Client, urls: Urls) -> None:
    """Audit after audit is clean while another thread posts."""

    def post() -> None:
        for n in range(100):
            client.batch(*(item(f"busy-{n}-{x}", x, y, 1) for x, y in (("world", "a"), ("a", "b"), ("b", "world"))))

    thread = threading.Thread(target=post)
    thread.start()
    ends = []
    with database.connect(urls.service) as connection:
        database.configure(connection)
        while thread.is_alive():
            report = audit.run(connection)
            assert not report.errors
            ends.append(report.last_number)
    thread.join()
    assert len(set(ends)) > 1
