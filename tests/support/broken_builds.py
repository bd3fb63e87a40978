"""Builds of the service that are broken on purpose, for tests in process and for the hammer.

Each function breaks the service until the MonkeyPatch is undone.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from psycopg.sql import Composed
from psycopg_pool import ConnectionPool

from service import session
from service.ledger import group, posting, rules, types
from tests.support import broken


def acknowledge_before_the_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """COMMIT is confirmed before it is on the disk."""
    monkeypatch.setattr(session, "SESSION", f"{session.SESSION}; SET synchronous_commit = off")


def swallow_the_error_of_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is lost during COMMIT counts as a success."""
    execute_and_commit = session.Connection.execute_and_commit

    def execute(self: session.Connection, statements: Composed, parameters: Mapping[str, Any]) -> Any:
        try:
            return execute_and_commit(self, statements, parameters)
        except session.CommitUnknown:
            return (0, None)

    monkeypatch.setattr(session.Connection, "execute_and_commit", execute)


def retry_with_a_new_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lost response to COMMIT, the service posts the command again under another id."""
    renamed = (
        "copy_with(entry.command, id=entry.command.id + '-again') if entry.outcome == 'unknown' else entry.command"
    )
    monkeypatch.setattr(group, "copy_with", types.copy_with, raising=False)
    broken.build(monkeypatch, group.GroupPosting._choose, "[entry.command for", f"[{renamed} for")


def post_without_looking_for_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known id is not looked up, so that a repeat is decided again."""
    broken.build(monkeypatch, rules.decide_transfer, "state.transfers.get(command.id)", "None")


def forget_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A declined transfer is not stored under its id."""
    broken.build(monkeypatch, rules.decline, "records[record.id] = declined", "pass")


def number_before_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last number is read before the journal row is locked."""
    broken.replace_sql(monkeypatch, posting, "_LOCK_JOURNAL", "FOR NO KEY UPDATE", "")
    before = "SET last_number = last_number + %(posted)s"
    after = "SET last_number = (SELECT last_number FROM journal) + %(posted)s"
    broken.replace_sql(monkeypatch, posting, "_WRITE_TRANSFERS", before, after)


def wait_a_minute_for_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a connection of the pool ignores the deadline of the request."""
    connection = ConnectionPool.connection
    monkeypatch.setattr(ConnectionPool, "connection", lambda pool, timeout: connection(pool, 60))
