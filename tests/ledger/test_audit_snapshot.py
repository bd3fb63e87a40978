"""The audit while transfers are posted: it reads one snapshot and gives no false alarm."""

import threading

import pytest

from service import session
from service.ledger import audit
from tests.support import waiting
from tests.support.client import Client, item
from tests.support.ledger import Urls


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    client.open("world", "a", "b", min_balance=None)


def test_all_checks_read_one_snapshot(client: Client, urls: Urls) -> None:
    """No check sees a transfer that was posted after the first check began."""
    posted: list[str] = []

    def post(check: str) -> None:
        client.move(f"during-{check}", "world", "a", 1)
        posted.append(check)

    with session.connect(urls.service) as connection:
        session.configure(connection)
        report = audit.run(connection, on_check=post)
    assert posted == list(audit.CHECKS)
    assert (report.errors, report.transfers, report.last_number) == ([], 1, 1)  # the first one precedes the snapshot


def test_an_audit_during_postings_finds_no_errors(client: Client, urls: Urls) -> None:
    """Every audit is clean while another thread posts."""

    def post() -> None:
        for n in range(100):
            client.batch(*(item(f"busy-{n}-{x}", x, y, 1) for x, y in (("world", "a"), ("a", "b"), ("b", "world"))))

    last_numbers = set()
    thread = threading.Thread(target=post)
    with session.connect(urls.service) as connection:
        session.configure(connection)

        def audit_until_posted() -> bool:
            report = audit.run(connection)
            assert not report.errors
            last_numbers.add(report.last_number)
            return not thread.is_alive()

        thread.start()
        waiting.wait_until(audit_until_posted, "all batches are posted")
    assert len(last_numbers) > 1
