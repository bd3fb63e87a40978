"""A client whose requests reach the database through a proxy."""

from collections.abc import Iterator

import pytest

from service import config
from service.server import build_application
from tests.support.client import Client
from tests.support.ledger import Urls
from tests.support.proxy import Proxy, proxy_to
from tests.support.waiting import wait_until


@pytest.fixture
def proxy(urls: Urls) -> Iterator[Proxy]:
    """A proxy in front of the test database."""
    with proxy_to(urls.service) as started:
        yield started


@pytest.fixture
def proxied_client(client: Client, proxy: Proxy, environment: dict[str, str]) -> Iterator[Client]:
    """A client of an application with one connection, which goes through the proxy and is open.

    The accounts `a` and `b` have no lower limit.
    """
    client.open("a", "b", min_balance=None)
    application = build_application(config.load(environment | {"DATABASE_URL": proxy.url, "POOL_SIZE": "1"}))
    proxied = Client(application)
    wait_until(lambda: proxied.get("/v1/transfers").status == 200, "the application is connected")
    yield proxied
    application.dependencies.database.close()


@pytest.fixture
def own_client(client: Client, environment: dict[str, str]) -> Iterator[Client]:
    """A client of an application that only this test uses. The accounts `a` to `d` have no lower limit."""
    client.open("a", "b", "c", "d", min_balance=None)
    application = build_application(config.load(environment))
    own = Client(application)
    wait_until(lambda: own.get("/v1/transfers").status == 200, "the application is connected")
    yield own
    application.dependencies.database.close()
