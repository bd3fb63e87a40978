"""A client of two applications that only one test uses. Their sessions end with the test, which counts their deadlocks.

Two, because one application posts the commands that wait at the same moment in one transaction.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import psycopg
import pytest

from service import config, database, session
from service.contract import LIMITS
from service.http.app import Application
from service.ledger import group, posting
from service.server import build_application
from tests.support.client import Client, Reply
from tests.support.threads import number_of_thread
from tests.support.waiting import wait_until

SESSIONS = "ledger/concurrency"  # application_name

# The service's lock_timeout is 1 s, and so is the server's deadlock_timeout. At equal limits a deadlock ends as a lock
# timeout and is not counted. The other limits are longer only so that a slow machine does not change a result.
LONG_SECONDS = 20
LONG_TIMEOUTS = f"; SET lock_timeout = '{LONG_SECONDS}s'; SET statement_timeout = '{LONG_SECONDS}s'"
LONG_LIMITS = dataclasses.replace(LIMITS, request_deadline_seconds=LONG_SECONDS)


class Replicas(Client):
    """Sends the requests of even threads to the first application and those of odd threads to the second."""

    def __init__(self, applications: Sequence[Application]) -> None:
        super().__init__(applications[0])
        self.applications = applications

    def request(self, *arguments: Any, **options: Any) -> Reply:
        return Client(self.applications[(number_of_thread() or 0) % 2]).request(*arguments, **options)


@pytest.fixture
def expected_deadlocks() -> int:
    """The number of deadlocks that the test causes on purpose."""
    return 0


@pytest.fixture
def client(
    environment: dict[str, str],
    owner: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    expected_deadlocks: int,
) -> Iterator[Client]:
    """A client of two applications. The test fails if the database counts an unexpected deadlock."""
    monkeypatch.setattr(session, "SESSION", session.SESSION + LONG_TIMEOUTS)
    monkeypatch.setattr(session, "LOCK_TIMEOUT_MILLISECONDS", LONG_SECONDS * 1000)
    monkeypatch.setattr(database, "LIMITS", LONG_LIMITS)
    monkeypatch.setattr(group, "LIMITS", LONG_LIMITS)
    monkeypatch.setattr(group, "GROUP_LOCK_MILLISECONDS", LONG_SECONDS * 1000)
    monkeypatch.setattr(posting, "post", partial(posting.post, lock_milliseconds=LONG_SECONDS * 1000))  # of batches
    monkeypatch.setitem(session.CONNECT, "application_name", SESSIONS)
    before = count_deadlocks(owner)
    applications = [build_application(config.load(environment)) for _ in range(2)]
    yield Replicas(applications)
    for application in applications:
        application.dependencies.database.close()
    wait_until(lambda: count_sessions(owner) == 0, "all sessions of the applications have ended")
    assert count_deadlocks(owner) == before + expected_deadlocks


def count_sessions(owner: psycopg.Connection[Any]) -> int:
    """The sessions of this database that the applications opened."""
    counting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    (count,) = owner.execute(counting, [SESSIONS]).fetchone() or (0,)
    return int(count)


def count_deadlocks(owner: psycopg.Connection[Any]) -> int:
    """The deadlocks of this database. A session reports its own at its end at the latest."""
    owner.execute("SELECT pg_stat_clear_snapshot()")
    counting = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    (count,) = owner.execute(counting).fetchone() or (0,)
    return int(count)
