"""A message that fails leaves a connection that the next request can use."""

import psycopg
import pytest

from service import config
from service.server import build_application
from service.session import Connection
from tests.support import broken
from tests.support.client import Client
from tests.support.ledger import Urls
from tests.support.threads import Call
from tests.support.waiting import wait_for_lock_waiters

# Postings before the one that fails. psycopg prepares a statement when it is used for the sixth time.
EARLIER = range(8)


def post_after_a_lock_timeout(client: Client, urls: Urls, environment: dict[str, str], earlier: int) -> set[int]:
    """The statuses of postings before and after one that did not get the lock of its account, on one connection."""
    application = build_application(config.load(environment | {"POOL_SIZE": "1"}))
    own = Client(application)
    ids = [f"{name}-{earlier}" for name in ("repeated", "blocked", "other")]
    statuses = [own.move(ids[0]).status, own.move(ids[0]).status]
    statuses += [own.move(f"before-{earlier}-{number}").status for number in range(earlier)]
    with psycopg.connect(urls.owner) as blocker:
        blocker.execute("SELECT FROM account WHERE id = 'a' FOR UPDATE")
        posting = Call(lambda: own.move(ids[1]))
        wait_for_lock_waiters(urls, 1)
        statuses.append(own.move(ids[2], "c", "d").status)
        blocker.rollback()
    statuses.append(posting.result().status)
    application.dependencies.database.close()
    return set(statuses)


def test_a_posting_that_does_not_get_its_lock_breaks_no_later_one(
    client: Client, urls: Urls, environment: dict[str, str]
) -> None:
    """A statement that was not prepared, because its message failed, is not used as a prepared one."""
    client.open("a", "b", "c", "d", min_balance=None)
    for earlier in EARLIER:
        assert post_after_a_lock_timeout(client, urls, environment, earlier) == {200, 201}


def test_a_build_with_pipelines_fails(
    client: Client, urls: Urls, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: psycopg takes a statement of a failed pipeline for a prepared one, and the next use fails."""
    monkeypatch.setattr(Connection, "fetch_together", broken.fetch_in_a_pipeline)
    client.open("a", "b", "c", "d", min_balance=None)
    found = [post_after_a_lock_timeout(client, urls, environment, earlier) for earlier in EARLIER]
    assert {200, 201, 500} in found
