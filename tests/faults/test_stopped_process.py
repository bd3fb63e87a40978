"""A process is stopped between its locks and its writes: others get the accounts, and it writes nothing too late."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from service import config, session
from service.ledger import rules
from service.server import build_application
from service.session import Connection
from tests.support import broken
from tests.support.client import Client, Reply
from tests.support.threads import Call
from tests.support.waiting import wait_for, wait_until

Stop = Callable[[], None]


@pytest.fixture
def stopping(client: Client, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of another process, whose session may be idle in a transaction for one second."""
    client.open("a", "b", "c", "d", min_balance=None)
    name = "idle_in_transaction_session_timeout"
    settings = session.SESSION.replace(f"{name} = '5s'", f"{name} = '1s'")
    assert settings != session.SESSION
    with monkeypatch.context() as patched:
        patched.setattr(session, "SESSION", settings)
        application = build_application(config.load(environment | {"POOL_SIZE": "1"}))
        stopping = Client(application)
        wait_until(lambda: stopping.get("/v1/transfers").status == 200, "the application is connected")
    yield stopping
    application.dependencies.database.close()


@contextmanager
def stopped_before_its_writes(
    stopping: Client, monkeypatch: pytest.MonkeyPatch, then: Stop = lambda: None
) -> Iterator[Call[Reply]]:
    """During the block, a transfer of this process has locked `a` and `b` and goes no further. Yields the request."""
    decide, is_stopped, go_on = rules.decide, threading.Event(), threading.Event()

    def decide_later(state: Any, commands: Any, *, atomic: bool) -> Any:
        if any(command.id == "stopped" for command in commands) and not is_stopped.is_set():
            is_stopped.set()
            wait_for(go_on)
            then()
        return decide(state, commands, atomic=atomic)

    monkeypatch.setattr(rules, "decide", decide_later)
    call = Call(lambda: stopping.move("stopped", "a", "b", 5))
    wait_for(is_stopped)
    try:
        yield call
    finally:
        go_on.set()


def post_beside_a_stopped_process(client: Client, stopping: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends the session of the stopped process. Another process, and then this one, post their transfers."""
    with stopped_before_its_writes(stopping, monkeypatch) as stopped:
        assert client.move("t", "a", "b", 1).status == 201
    assert stopped.result().status == 201
    assert client.balance("b") == 6


def test_a_stopped_process_does_not_keep_its_locks(
    client: Client, stopping: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeout for idle transactions counts after the first message of a posting."""
    post_beside_a_stopped_process(client, stopping, monkeypatch)


def test_a_build_that_uses_a_pipeline_keeps_its_locks(
    client: Client, stopping: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: the pipeline ends with a Flush message, and the timeout does not count."""
    monkeypatch.setattr(Connection, "fetch_together", broken.fetch_in_a_pipeline)
    with pytest.raises(AssertionError):
        post_beside_a_stopped_process(client, stopping, monkeypatch)


def continue_after_the_deadline(client: Client, stopping: Client, monkeypatch: pytest.MonkeyPatch) -> Reply:
    """The process goes on when the deadline of its transfer has passed, and before the server ends its session."""

    def pass_the_deadline() -> None:
        [connection] = stopping.application.dependencies.database._in_use
        connection.deadline = 0

    with stopped_before_its_writes(stopping, monkeypatch, pass_the_deadline) as stopped:
        pass
    return stopped.result()


def test_nothing_is_written_after_the_deadline(
    client: Client, stopping: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request ends as not applied, and its session has ended."""
    reply = continue_after_the_deadline(client, stopping, monkeypatch)
    assert (reply.slug, reply.json["outcome"]) == ("deadline-exceeded", "not_applied")
    assert client.get("/v1/transfers/stopped").status == 404
    assert client.move("t", "a", "b", 1).status == 201


def test_a_build_that_writes_after_the_deadline_is_found(
    client: Client, stopping: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: the deadline is forgotten, so COMMIT is sent after it, and the transfer is posted."""
    monkeypatch.setattr(Connection, "_require_time", lambda connection: setattr(connection, "deadline", float("inf")))
    assert continue_after_the_deadline(client, stopping, monkeypatch).status == 201
    assert client.get("/v1/transfers/stopped").status == 200
