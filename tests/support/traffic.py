"""Clients that post transfers and read each one back, for as long as a test runs.

They keep their connections, or open one for each request. Before a request, they do not check whether an idle
connection was closed; many HTTP libraries do not check it either.
"""

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dev.run import TOKEN
from tests.support.threads import Call
from tests.support.waiting import LIMIT_SECONDS, wait_until

CLIENTS = 3  # of each behaviour
ONE_SHOT_SECONDS = 0.02  # the pause of a client without a kept connection, so that it leaves CPU time to the others
SPARSE_SECONDS = 0.5  # the pause of a client that keeps an idle connection
RETRIES, RETRY_SECONDS = 20, 0.1  # of a client that retries: together longer than the balancer uses a stopped backend


@dataclass(frozen=True)
class Behaviour:
    """How a client behaves. Without retries, each request has one attempt."""

    keeps_connection: bool
    pause_seconds: float
    retries: int


BEHAVIOURS = [
    Behaviour(keeps_connection, pause_seconds, retries)
    for keeps_connection, pause_seconds in ((False, ONE_SHOT_SECONDS), (True, 0.0), (True, SPARSE_SECONDS))
    for retries in (0, RETRIES)
]


@dataclass
class Client:
    """One client, and what happened to its requests. Its ids begin with `name`."""

    name: str
    behaviour: Behaviour
    connection: http.client.HTTPConnection
    stopped: threading.Event
    requests: int = 0
    retried: list[str] = field(default_factory=list)  # failed attempts that were followed by another one
    failures: list[str] = field(default_factory=list)  # requests whose last attempt failed
    acknowledged: list[str] = field(default_factory=list)  # ids of transfers

    def work(self) -> None:
        """Send requests until the traffic is stopped."""
        # All clients share two accounts, so that replicas wait for each other's locks.
        source, target = "traffic:source", "traffic:target"
        self._request("PUT", "accounts", source, {"currency": "EUR", "min_balance": None})
        self._request("PUT", "accounts", target, {"currency": "EUR"})
        transfer = {"from": source, "to": target, "amount": 1, "currency": "EUR"}
        for count in itertools.count():
            id = f"{self.name}:{count}"
            if self._request("PUT", "transfers", id, transfer):
                self.acknowledged.append(id)
                self._request("GET", "transfers", id)
            if self.stopped.wait(self.behaviour.pause_seconds):
                break
        self.connection.close()

    def _request(self, method: str, resource: str, id: str, body: Any = None) -> bool:
        """Send a request, with the retries of this client. Whether it succeeded."""
        self.requests += 1
        error = self._attempt(method, resource, id, body)
        for _ in range(self.behaviour.retries if error else 0):
            self.retried.append(f"{method} {id}: {error}")
            time.sleep(RETRY_SECONDS)  # also after the traffic was stopped
            error = self._attempt(method, resource, id, body)
            if not error:
                break
        if error:
            self.failures.append(f"{method} {id}: {error}")
        return not error

    def _attempt(self, method: str, resource: str, id: str, body: Any) -> str:
        """Send the request once. The error, or an empty string if the response is the account or transfer."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)
        try:
            self.connection.request(method, f"/v1/{resource}/{id}", content, headers)
            response = self.connection.getresponse()
            received = json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return repr(error)
        if not self.behaviour.keeps_connection:
            self.connection.close()
        return "" if response.status in (200, 201) and received["id"] == id else f"{response.status} {received}"


class Traffic:
    """CLIENTS of each behaviour."""

    def __init__(self, address: str) -> None:
        self.stopped = threading.Event()
        self.clients = [
            Client(
                f"{kind}-{number}", behaviour, http.client.HTTPConnection(address, timeout=LIMIT_SECONDS), self.stopped
            )
            for kind, behaviour in enumerate(BEHAVIOURS)
            for number in range(CLIENTS)
        ]

    @property
    def requests(self) -> int:
        return sum(client.requests for client in self.clients)

    @property
    def acknowledged(self) -> list[str]:
        return sorted(id for client in self.clients for id in client.acknowledged)

    def failures(self, *, with_retries: bool) -> list[str]:
        """The failed requests of the clients that retry, or of those that do not."""
        clients = [client for client in self.clients if bool(client.behaviour.retries) is with_retries]
        return [failure for client in clients for failure in client.failures]

    def await_requests(self, count: int) -> None:
        """Wait until the clients have sent this number of further requests."""
        until = self.requests + count
        wait_until(lambda: self.requests >= until, f"{count} requests were sent")


@contextlib.contextmanager
def traffic_to(address: str) -> Iterator[Traffic]:
    """The clients work until the end of the block."""
    traffic = Traffic(address)
    calls = [Call(client.work) for client in traffic.clients]
    try:
        yield traffic
    finally:
        traffic.stopped.set()
    for call in calls:
        call.result()
