"""Callers that post during a failover, what was acknowledged to them, and the faults of a node."""

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg

from dev import cluster_keeper
from dev.cluster import Cluster, Node
from dev.run import TOKEN
from tests.support.threads import Call
from tests.support.waiting import wait_until

CALLERS = 12
HTTP_TIMEOUT_SECONDS = 10  # twice the request deadline of the service
RETRY_SECONDS = 0.1  # shorter than Retry-After, because the time until a request succeeds is measured
PROMOTION_SECONDS = 60  # the primary may be silent for TTL_SECONDS, and a busy machine adds some seconds
POLL_SECONDS = 0.01
COMPARED = ("number", "amount", "from_balance", "to_balance")


@dataclass(frozen=True)
class Acknowledged:
    """A transfer that the service reported as posted: when, in seconds of time.monotonic(), and its members."""

    caller: int
    at: float
    id: str
    members: dict[str, Any]


@dataclass
class Callers:
    """Callers that post transfers one after another, and repeat each until the service says that it is posted."""

    url: str
    name: str  # the start of each id
    acknowledged: list[Acknowledged] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)  # responses that no failover explains
    is_given_up: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    calls: list["Call[None]"] = field(default_factory=list)

    def start(self) -> None:
        """Open the accounts `a` and `b`, and start the callers."""
        with contextlib.closing(self._connect()) as connection:
            for account in ("a", "b"):
                status, body = self._send(connection, f"accounts/{account}", {"currency": "EUR", "min_balance": None})
                assert status in (200, 201), body
        self.calls = [Call(partial(self._post_until_end, number)) for number in range(CALLERS)]

    def stop(self) -> None:
        """End the callers when the request of each has succeeded."""
        self.ended.set()
        for call in self.calls:
            call.result()

    def give_up(self) -> None:
        """End the callers, also those whose request has not succeeded."""
        self.is_given_up = True
        self.stop()

    def await_posted(self, count: int) -> None:
        """Wait until that many further transfers are acknowledged."""
        target = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= target, f"{count} more transfers are acknowledged")

    def all_served_since(self, since: float) -> bool:
        return len(self._first_served(since)) == CALLERS

    def seconds_until_served(self, since: float) -> tuple[float, float]:
        """The seconds from that time until the first caller, and until every caller, had a transfer acknowledged."""
        first = self._first_served(since)
        return min(first.values()), max(first.values())

    def _first_served(self, since: float) -> dict[int, float]:
        """For each caller, the seconds from that time until its next transfer was acknowledged."""
        first: dict[int, float] = {}
        for each in list(self.acknowledged):
            if each.at > since:
                first.setdefault(each.caller, each.at - since)
        return first

    def _post_until_end(self, caller: int) -> None:
        with contextlib.closing(self._connect()) as connection:
            for number in itertools.count():
                self._post(connection, caller, f"{self.name}-{caller}-{number}")
                if self.ended.is_set():
                    return

    def _post(self, connection: http.client.HTTPConnection, caller: int, id: str) -> None:
        """Post one transfer, and repeat it until it is acknowledged or the callers give up."""
        body = {"from": "a", "to": "b", "amount": 1 + caller, "currency": "EUR"}
        while not self.is_given_up:
            status, members = self._send(connection, f"transfers/{id}", body)
            if status in (200, 201):
                self.acknowledged.append(Acknowledged(caller, time.monotonic(), id, members))
                return
            if status not in (0, 503):
                self.unexpected.append(f"{id}: {status} {members}")
                return
            time.sleep(RETRY_SECONDS)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=HTTP_TIMEOUT_SECONDS)

    def _send(self, connection: http.client.HTTPConnection, target: str, body: Any) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the response to a PUT; 0 if there is no response."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        try:
            connection.request("PUT", f"/v1/{target}", json.dumps(body), headers)
            response = connection.getresponse()
            members: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException):
            connection.close()
            return 0, {}
        return response.status, members


def lost(callers: Callers, owner_url: str) -> list[str]:
    """What was acknowledged and is not in the ledger with the acknowledged members."""
    with psycopg.connect(owner_url) as connection:
        found = {
            id: dict(zip(COMPARED, members, strict=True))
            for id, *members in connection.execute(
                "SELECT id, number, amount, from_balance, to_balance FROM transfer WHERE status = 'posted'"
            )
        }
    wrong = []
    for each in callers.acknowledged:
        expected = {name: each.members[name] for name in COMPARED}
        if found.get(each.id) != expected:
            wrong.append(f"{each.id}: acknowledged {expected}, found {found.get(each.id)}")
    return wrong


class PromotionWatch:
    """Finds out which of these standbys becomes the primary, and when."""

    def __init__(self, cluster: Cluster, standbys: list[Node]) -> None:
        self._promoted: list[tuple[Node, float]] = []
        self._calls = [Call(partial(self._watch, cluster, node)) for node in standbys]

    def await_promotion(self) -> tuple[Node, float]:
        """Wait for the promotion. Returns the new primary, and the time of time.monotonic()."""
        until = time.monotonic() + PROMOTION_SECONDS
        while not self._promoted:
            assert time.monotonic() < until, f"no standby was promoted within {PROMOTION_SECONDS} s"
            time.sleep(POLL_SECONDS)
        for call in self._calls:
            call.result()
        return self._promoted[0]

    def _watch(self, cluster: Cluster, node: Node) -> None:
        until = time.monotonic() + 2 * PROMOTION_SECONDS
        while not self._promoted and time.monotonic() < until:
            with (
                contextlib.suppress(psycopg.OperationalError),  # it restarts
                psycopg.connect(cluster.direct_url("ledger_owner", node), autocommit=True) as connection,
            ):
                self._poll(connection, node)

    def _poll(self, connection: "psycopg.Connection[Any]", node: Node) -> None:
        while not self._promoted:
            (is_standby,) = connection.execute("SELECT pg_is_in_recovery()").fetchone() or (True,)
            if not is_standby:
                self._promoted.append((node, time.monotonic()))
            time.sleep(POLL_SECONDS)


def kill(node: Node) -> None:
    """Kill Patroni and PostgreSQL of the node with SIGKILL."""
    _for_each_process(node, psutil.Process.kill)


def freeze(node: Node) -> None:
    """Stop all processes of the node with SIGSTOP."""
    _for_each_process(node, psutil.Process.suspend)


def resume(node: Node) -> None:
    """Let the processes of a frozen node run again."""
    _for_each_process(node, psutil.Process.resume)


def revive(cluster: Cluster, node: Node) -> None:
    """Let a frozen node run again, and start a killed one."""
    resume(node)
    if cluster.pids[node.name] not in [process.pid for process in cluster_keeper.members(node.directory)]:
        cluster.start_node(node)


def _for_each_process(node: Node, act: Callable[[psutil.Process], None]) -> None:
    """Twice, because a process may start another one meanwhile."""
    for _ in range(2):
        for process in cluster_keeper.members(node.directory):
            with contextlib.suppress(psutil.NoSuchProcess):
                act(process)
