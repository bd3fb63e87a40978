"""Each promise about writes fails on a build that breaks it. docs/reliability.md lists them.

Each check is a function, so that it runs on the service, where it passes, and on a broken build, where it fails.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pytest

from service import config
from service.http.app import Application
from service.server import build_application
from tests.support import broken_builds
from tests.support.client import Client
from tests.support.ledger import Urls, empty
from tests.support.proxy import Proxy, confirms_commit, has_commit
from tests.support.threads import Call
from tests.support.waiting import wait_for_lock_waiters, wait_until


@dataclass(frozen=True)
class Setup:
    """Two applications, the first behind the proxy, and an open connection of the owner."""

    client: Client
    other_client: Client
    proxy: Proxy
    urls: Urls
    owner: psycopg.Connection[Any]

    def numbers(self) -> dict[str, int]:
        """The number of each posted transfer, by id."""
        return dict(self.owner.execute("SELECT id, number FROM transfer WHERE number > 0 ORDER BY number").fetchall())


@pytest.fixture
def start(
    client: Client, proxy: Proxy, urls: Urls, owner: psycopg.Connection[Any], environment: dict[str, str]
) -> Iterator[Callable[[], Setup]]:
    """Builds the applications when it is called, so that their connections have the settings of the broken build."""
    client.open("a", "b", "c", "d", min_balance=None)
    client.open("poor")
    applications: list[Application] = []

    def build() -> Setup:
        for url in (proxy.url, urls.service):
            applications.append(build_application(config.load(environment | {"DATABASE_URL": url, "POOL_SIZE": "2"})))
        first, second = (Client(application) for application in applications)
        for each in (first, second):
            wait_until(partial(is_connected, each), "the application is connected")
        return Setup(first, second, proxy, urls, owner)

    yield build
    for application in applications:
        application.dependencies.database.close()


def is_connected(client: Client) -> bool:
    return client.get("/v1/transfers").status == 200


def a_lost_commit_is_not_acknowledged(setup: Setup) -> None:
    """A COMMIT that does not reach the server is sent again before the response."""
    setup.proxy.cut_to_server, setup.proxy.cuts = has_commit, 1
    assert setup.client.move("t", "a", "b", 5).status == 201
    assert setup.numbers() == {"t": 1}


def a_lost_response_to_commit_posts_once(setup: Setup) -> None:
    """The retry finds what the first attempt posted."""
    setup.proxy.cut_to_client, setup.proxy.cuts = confirms_commit, 1
    assert setup.client.move("t", "a", "b", 5).status == 200
    assert setup.numbers() == {"t": 1}


def a_repeat_returns_the_first_result(setup: Setup) -> None:
    """The second response has the number of the first."""
    replies = [setup.client.move("t", "a", "b", 5) for _ in range(2)]
    assert [(reply.status, reply.json["number"]) for reply in replies] == [(201, 1), (200, 1)]


def a_decline_stays(setup: Setup) -> None:
    """The transfer is declined again when the account has the money."""
    assert setup.client.move("t", "poor", "b", 5).status == 422
    assert setup.client.move("fund", "a", "poor", 5).status == 201
    assert setup.client.move("t", "poor", "b", 5).status == 422


def numbers_are_gapless(setup: Setup) -> None:
    """Two postings on different accounts wait for the journal row, and both are posted."""
    with psycopg.connect(setup.urls.owner) as blocker:
        blocker.execute("SELECT FROM journal FOR UPDATE")
        postings = [
            Call(partial(client.move, id, *ends))
            for client, id, ends in ((setup.client, "t1", ("a", "b")), (setup.other_client, "t2", ("c", "d")))
        ]
        wait_for_lock_waiters(setup.urls, len(postings))
        blocker.rollback()
    assert [posting.result().status for posting in postings] == [201, 201]
    assert sorted(setup.numbers().values()) == [1, 2]


CASES = [
    (a_lost_commit_is_not_acknowledged, broken_builds.swallow_the_error_of_commit),
    (a_lost_response_to_commit_posts_once, broken_builds.retry_with_a_new_id),
    (a_repeat_returns_the_first_result, broken_builds.post_without_looking_for_the_id),
    (a_decline_stays, broken_builds.forget_declines),
    (numbers_are_gapless, broken_builds.number_before_the_lock),
]


@pytest.mark.parametrize("check", [check for check, _ in CASES], ids=lambda check: str(check.__name__))
def test_the_service_passes(start: Callable[[], Setup], check: Callable[[Setup], None]) -> None:
    """The service has the property in the docstring of the check."""
    check(start())


@pytest.mark.parametrize(("check", "build"), CASES, ids=lambda function: str(function.__name__))
def test_a_broken_build_fails(
    start: Callable[[], Setup],
    monkeypatch: pytest.MonkeyPatch,
    check: Callable[[Setup], None],
    build: Callable[[pytest.MonkeyPatch], None],
) -> None:
    """Broken on purpose, as the docstring of the build says: the check fails."""
    build(monkeypatch)
    setup = start()
    with pytest.raises(AssertionError):
        check(setup)
    empty(setup.owner)
