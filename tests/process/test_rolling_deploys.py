"""Rolling deploys behind a TCP load balancer: no request fails, and each acknowledged write is stored once."""

import contextlib
import shutil
import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from service import VERSION
from service.__main__ import EXIT_SCHEMA
from service.ledger import audit
from tests.support import live, traffic
from tests.support.balancer import FORGET_SECONDS, Balancer, balancing
from tests.support.ledger import DEVELOPMENT
from tests.support.live import ROOT, Live
from tests.support.migrations import Database
from tests.support.traffic import Traffic, traffic_to
from tests.support.waiting import wait_until

REPLICAS = 2
REQUESTS = 10_000  # of all clients, while replicas are replaced ten times
REQUESTS_BETWEEN = 200  # from one replacement to the next, at least
DRAIN_SECONDS = 3
NEW_VERSION = "9.9.9"
EXPAND = "ALTER TABLE account ADD COLUMN note text;\n"


@dataclass(frozen=True)
class Release:
    """A version of the service: the folder with its code and migrations."""

    version: str
    folder: Path


class Deployment:
    """The replicas behind a balancer. As with `maxUnavailable: 0`, an old one stops after a new one is ready."""

    def __init__(self, environment: dict[str, str], balancer: Balancer, stack: contextlib.ExitStack) -> None:
        self.environment = environment
        self._balancer = balancer
        self._stack = stack
        self._replicas: deque[Live] = deque()
        self._replaced: list[Live] = []
        self.lines: list[dict[str, Any]] = []  # of all replicas, after `finish`

    def add(self, release: Release) -> None:
        """Start a replica, and send it connections when it is ready."""
        replica = self._stack.enter_context(live.serving(self.environment, folder=release.folder))
        self._replicas.append(replica)
        self._balancer.add(port_of(replica))

    def replace(self, release: Release) -> None:
        """Replace the oldest replica. Do not wait until it has stopped."""
        self.add(release)
        oldest = self._replicas.popleft()
        oldest.process.send_signal(signal.SIGTERM)
        self._balancer.forget_soon(port_of(oldest))
        self._replaced.append(oldest)

    def finish(self) -> None:
        """Stop the replicas after the traffic, and read the logs. Each replica, also a replaced one, ends with 0."""
        for replica in (*self._replicas, *self._replicas):  # twice, because there are no clients to drain
            replica.process.send_signal(signal.SIGTERM)
        for replica in (*self._replaced, *self._replicas):
            assert replica.finish() == 0
            self.lines += replica.lines


def port_of(replica: Live) -> int:
    return urlsplit(replica.url).port or 0


@contextlib.contextmanager
def deployed(database: Database, release: Release, drain_seconds: int) -> Iterator[tuple[Deployment, Traffic]]:
    """REPLICAS of a release behind a balancer, with traffic."""
    environment = {
        "DATABASE_URL": database.urls.service,
        "CALLERS": DEVELOPMENT,
        "ENVIRONMENT": "development",
        "HOST": "127.0.0.1",
        "DRAIN_SECONDS": str(drain_seconds),
    }
    with contextlib.ExitStack() as stack, balancing() as balancer:
        deployment = Deployment(environment, balancer, stack)
        for _ in range(REPLICAS):
            deployment.add(release)
        with traffic_to(balancer.address) as clients:
            yield deployment, clients
        deployment.finish()


@pytest.fixture
def old(database: Database) -> Release:
    """The release of this repository. `database` has its schema."""
    for path in (ROOT / "sql").iterdir():
        shutil.copy(path, database.sql)
    database.up()
    return Release(VERSION, ROOT)


@pytest.fixture
def new(database: Database, old: Release) -> Release:
    """A release with one more migration, which is not applied yet, and another version."""
    number = len(list(database.sql.glob("*.sql"))) + 1
    (database.sql / f"{number:04}_note.sql").write_text(EXPAND)
    database.seal()
    init = database.copy_service() / "service/__init__.py"
    init.write_text(init.read_text().replace(f'"{VERSION}"', f'"{NEW_VERSION}"'))
    return Release(NEW_VERSION, database.root)


def check_ledger(database: Database, clients: Traffic) -> None:
    """Each acknowledged transfer is in the ledger once. If all requests succeeded, it has no others."""
    with database.connect() as connection:
        ids = [id for (id,) in connection.execute("SELECT id FROM transfer ORDER BY id").fetchall()]
        assert audit.run(connection).errors == []
    assert len(clients.acknowledged) == len(set(clients.acknowledged))
    assert set(clients.acknowledged) <= set(ids)
    if not clients.failures(with_retries=False):
        assert clients.acknowledged == ids


def fail_to_become_ready(deployment: Deployment, new: Release, clients: Traffic) -> None:
    """Start releases that do not become ready: one without its migration, and one with a bug in its readiness check."""
    with live.reserved_port() as port:
        code, _ = live.run(["service"], deployment.environment | {"PORT": str(port)}, new.folder)
    assert code == EXIT_SCHEMA
    with live.starting(deployment.environment, ("tests.support.broken_service", "stay_unready")) as unready:
        wait_until(lambda: responds(unready), "the release with a bug responds")
        clients.await_requests(REQUESTS_BETWEEN)
        assert not unready.is_ready()


def responds(service: Live) -> bool:
    """Whether /health returns 200."""
    with contextlib.suppress(OSError):
        return service.request("GET", "/health")[0] == 200
    return False


@pytest.mark.slow
def test_ten_replacements_lose_no_request(database: Database, old: Release, new: Release) -> None:
    """Three replacements, two releases that do not become ready, a migration, a rollout, a rollback and a rollout."""
    with deployed(database, old, DRAIN_SECONDS) as (deployment, clients):
        for release in (old, old, old):
            deployment.replace(release)
            clients.await_requests(REQUESTS_BETWEEN)
        fail_to_become_ready(deployment, new, clients)
        assert database.run("up")[0] == 0
        for release in (new, new, old, old, new, old, new):
            deployment.replace(release)
            clients.await_requests(REQUESTS_BETWEEN)
        clients.await_requests(REQUESTS + 1 - clients.requests)
    assert [line for line in deployment.lines if line["level"] in ("error", "critical")] == []
    assert [clients.failures(with_retries=retries) for retries in (False, True)] == [[], []]
    assert [client.retried for client in clients.clients if client.retried] == []
    assert clients.requests > REQUESTS
    assert min(client.requests for client in clients.clients) > REPLICAS
    check_ledger(database, clients)
    assert {line["version"] for line in deployment.lines if line["event"] == "request"} == {VERSION, NEW_VERSION}


@pytest.mark.slow
def test_without_the_drain_requests_fail(database: Database, old: Release) -> None:
    """The same clients find the fault. Those that retry lose nothing, and no acknowledged write is lost."""
    with deployed(database, old, drain_seconds=0) as (deployment, clients):
        for _ in range(REPLICAS):
            deployment.replace(old)
        wait_until(lambda: bool(clients.failures(with_retries=False)), "a client that does not retry has a failure")
    assert not clients.failures(with_retries=True)
    check_ledger(database, clients)


def test_a_drain_is_longer_than_the_balancer_and_the_clients_wait() -> None:
    """Otherwise a replica could stop while it still gets connections, or while a client keeps an idle one."""
    assert DRAIN_SECONDS > FORGET_SECONDS + traffic.SPARSE_SECONDS
    assert traffic.RETRIES * traffic.RETRY_SECONDS > FORGET_SECONDS
