"""More requests than the service accepts: it refuses the excess at once instead of letting it wait."""

import contextlib
import threading
from functools import partial
from typing import Any

import pytest

from service import config, database
from service.http import auth
from service.server import build_application
from tests.support.client import Client
from tests.support.threads import Call
from tests.support.waiting import wait_for, wait_until


def test_a_request_that_gets_no_connection_is_refused(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections of the pool stay in use until its timeout."""
    monkeypatch.setattr(database, "POOL_TIMEOUT_SECONDS", 0.1)
    application = build_application(config.load(environment | {"POOL_SIZE": "1"}))
    client = Client(application)
    in_use, release = threading.Event(), threading.Event()

    def use(connection: database.Connection) -> None:
        in_use.set()
        wait_for(release)

    with contextlib.closing(application.dependencies.database):
        wait_until(lambda: client.get("/v1/transfers").status == 200, "the application is connected")
        using = Call(lambda: application.dependencies.database.run(use))
        wait_for(in_use)
        reply = client.get("/v1/transfers")
        release.set()
        using.result()
    assert (reply.status, reply.slug, reply.json["outcome"]) == (503, "overloaded", "not_applied")


@pytest.mark.promise(15)
def test_a_request_above_112_in_progress_is_refused_and_probes_are_not(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/health, /ready and /metrics respond while 112 other requests are in progress."""
    authenticate = auth.authenticate
    entered: list[None] = []
    release = threading.Event()

    def authenticate_late(*arguments: Any) -> Any:
        entered.append(None)
        wait_for(release)
        return authenticate(*arguments)

    monkeypatch.setattr(auth, "authenticate", authenticate_late)
    without_token = Client(client.application, token=None)
    in_progress = [Call(partial(without_token.get, "/v1/transfers")) for _ in range(112)]
    wait_until(lambda: len(entered) == 112, "all requests are in progress")
    reply = client.get("/v1/transfers")
    probes = [client.get(path).status for path in ("/health", "/ready", "/metrics")]
    release.set()
    assert {each.result().status for each in in_progress} == {401}
    assert (reply.status, reply.slug, reply.json["outcome"]) == (503, "overloaded", "not_applied")
    assert probes == [200, 200, 200]
    assert client.get("/v1/transfers").status == 200
