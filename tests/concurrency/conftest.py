"""A client of an application that only one test uses. Its sessions end with the test, which counts their deadlocks."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from service import config, database
from service.contract import LIMITS
from service.server import build_application
from tests.support.client import Client
from tests.support.waiting import wait_until

SESSIONS = "ledger/concurrency"  # application_name

# The service's lock_timeout is 1 s, and so is the server's deadlock_timeout. At equal limits a deadlock ends as a lock
# timeout and is not counted. The other limits are longer only so that a slow machine does not change a result.
LONG_SECONDS = 20
LONG_TIMEOUTS = f"; SET lock_timeout = '{LONG_SECONDS}s'; SET statement_timeout = '{LONG_SECONDS}s'"
LONG_LIMITS = dataclasses.replace(LIMITS, request_deadline_seconds=LONG_SECONDS)


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
    """A client of an application of its own. The test fails if the database counts an unexpected deadlock."""
    monkeypatch.setattr(database, "SESSION", database.SESSION + LONG_TIMEOUTS)
    monkeypatch.setattr(database, "LIMITS", LONG_LIMITS)
    monkeypatch.setattr(database, "POOL_TIMEOUT_SECONDS", LONG_SECONDS)
    monkeypatch.setitem(database.CONNECT, "application_name", SESSIONS)
    before = count_deadlocks(owner)
    application = build_application(config.load(environment))
    yield Client(application)
    application.dependencies.database.close()
    wait_until(lambda: count_sessions(owner) == 0, "all sessions of the application have ended")
    assert count_deadlocks(owner) == before + expected_deadlocks


def count_sessions(owner: psycopg.Connection[Any]) -> int:
    """The sessions of this database that the application opened."""
    counting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    (count,) = owner.execute(counting, [SESSIONS]).fetchone() or (0,)
    return int(count)


def count_deadlocks(owner: psycopg.Connection[Any]) -> int:
    """The deadlocks of this database. A session reports its own at its end at the latest."""
    owner.execute("SELECT pg_stat_clear_snapshot()")
    counting = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    (count,) = owner.execute(counting).fetchone() or (0,)
    return int(count)
