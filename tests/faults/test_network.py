"""The network is cut, silent or stopped at a chosen message: requests end in time, and other clients continue."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from service import database, readiness, session
from service.contract import LIMITS
from tests.support import broken
from tests.support.client import Client, Reply
from tests.support.proxy import Proxy
from tests.support.threads import Call
from tests.support.waiting import wait_for, wait_until


def test_a_dead_connection_of_the_pool_is_replaced(proxied_client: Client, proxy: Proxy) -> None:
    """A restart of the database fails no request."""
    proxy.cut_all()
    assert proxied_client.move("t", "a", "b", 5).status == 201


@pytest.mark.parametrize(
    ("stop_before", "outcome"), [(b"", "not_applied"), (b"COMMIT", "unknown")], ids=["at once", "before COMMIT"]
)
def test_a_silent_network_ends_the_request_at_its_deadline(
    proxied_client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, stop_before: bytes, outcome: str
) -> None:
    """No setting of the server limits a dead network. The response says what may have happened."""
    monkeypatch.setattr(database, "LIMITS", dataclasses.replace(LIMITS, request_deadline_seconds=1))
    proxy.stop_before = stop_before
    if not stop_before:
        proxy.stop()
    reply = proxied_client.move("t", "a", "b", 5)
    assert (reply.status, reply.slug, reply.json["outcome"]) == (503, "deadline-exceeded", outcome)
    proxy.cut_all()
    proxy.resume()


@contextmanager
def a_client_stuck_before_commit(proxied_client: Client, proxy: Proxy) -> Iterator[Call[Reply]]:
    """During the block, the COMMIT of a posting is held back. Yields the posting."""
    proxy.stop_before = b"COMMIT"
    posting = Call(lambda: proxied_client.move("stuck", "a", "b", 1))
    wait_for(proxy.stopped)
    yield posting
    proxy.resume()


def test_a_client_that_is_stuck_before_its_commit_does_not_block_others(
    client: Client, proxied_client: Client, proxy: Proxy
) -> None:
    """The journal row is not locked before the server has received COMMIT."""
    client.open("c", "d", min_balance=None)
    with a_client_stuck_before_commit(proxied_client, proxy) as posting:
        replies = [client.move(f"t{n}", "c", "d", 1) for n in range(3)]
    replies.append(posting.result())
    assert [(reply.status, reply.json["number"]) for reply in replies] == [(201, n) for n in (1, 2, 3, 4)]


def test_a_build_that_sends_statements_one_by_one_blocks_others(
    client: Client,
    proxied_client: Client,
    proxy: Proxy,
    owner: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken on purpose: in pipeline mode the stuck client holds the journal row, and other clients are refused."""
    client.open("c", "d", min_balance=None)
    monkeypatch.setattr(session.Connection, "execute_and_commit", broken.execute_in_a_pipeline)
    with a_client_stuck_before_commit(proxied_client, proxy) as posting:
        wait_until(
            lambda: owner.execute("SELECT FROM journal FOR UPDATE SKIP LOCKED").rowcount == 0, "the row is locked"
        )
        reply = client.move("t", "c", "d", 1)
    assert (reply.status, reply.slug, posting.result().status) == (503, "deadline-exceeded", 201)


def test_a_server_that_does_not_respond_is_not_ready(
    proxied_client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts the connection and sends nothing: the probe fails after its own timeout."""
    monkeypatch.setattr(readiness, "PROBE_EVERY_SECONDS", 0)
    monkeypatch.setattr(readiness, "MISSES_UNTIL_UNREADY", 1)
    assert proxied_client.get("/ready").status == 200
    with monkeypatch.context() as impatient:
        impatient.setattr(readiness, "PROBE_TIMEOUT_SECONDS", 0.1)
        proxy.stop_before = b"SET ROLE"
        assert proxied_client.get("/ready").json["checks"]["database"] is False
    proxy.resume()
    assert proxied_client.get("/ready").status == 200
