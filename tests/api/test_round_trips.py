"""Each read takes one round trip to the database."""

import threading
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from psycopg.pq import PipelineStatus

from service.http.app import ROUTES
from service.session import Connection
from tests.support.client import Client

READS = {
    "/v1/accounts/{id}": "/v1/accounts/a",
    "/v1/accounts": "/v1/accounts",
    "/v1/accounts/{id}/entries": "/v1/accounts/a/entries",
    "/v1/accounts/{id}/balance": "/v1/accounts/a/balance?number=1",
    "/v1/accounts/{id}/changes": "/v1/accounts/a/changes",
    "/v1/accounts/{id}/holds": "/v1/accounts/a/holds",
    "/v1/transfers/{id}": "/v1/transfers/fund",
    "/v1/transfers": "/v1/transfers",
    "/v1/holds/{id}": "/v1/holds/h",
    "/v1/trial-balance": "/v1/trial-balance",
}


class RoundTrips:
    """Counts the statements of this thread; the pool has others. Those of a pipeline take one round trip together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        thread = threading.get_ident()
        execute, pipeline = psycopg.Cursor.execute, Connection.pipeline

        def counting_execute(cursor: psycopg.Cursor[Any], *args: Any, **options: Any) -> Any:
            is_alone = cursor.connection.pgconn.pipeline_status == PipelineStatus.OFF
            self.count += is_alone and threading.get_ident() == thread
            return execute(cursor, *args, **options)

        def counting_pipeline(connection: Connection) -> AbstractContextManager[psycopg.Pipeline]:
            self.count += threading.get_ident() == thread
            return pipeline(connection)

        monkeypatch.setattr(psycopg.Cursor, "execute", counting_execute)
        monkeypatch.setattr(Connection, "pipeline", counting_pipeline)


@pytest.fixture
def round_trips(client: Client, accounts: None, monkeypatch: pytest.MonkeyPatch) -> RoundTrips:
    """The counter, after the ledger got a transfer, a hold and a change of the account `a`."""
    client.hold("h")
    client.change("a", min_balance=-1)
    return RoundTrips(monkeypatch)


def test_every_read_is_listed_here() -> None:
    """A new GET operation needs a line in READS."""
    assert {route.path for route in ROUTES if route.scope and route.method == "GET"} == READS.keys()


@pytest.mark.parametrize("path", READS.values(), ids=READS)
def test_a_read_takes_one_round_trip(client: Client, round_trips: RoundTrips, path: str) -> None:
    """The statement that checks whether the account exists is only sent if the list is empty."""
    assert client.get(path).status == 200
    assert round_trips.count == 1


def test_a_balance_at_a_time_before_the_newest_transfer_takes_one_round_trip(
    client: Client, round_trips: RoundTrips
) -> None:
    """A later time has to be closed first."""
    first = client.get("/v1/transfers/fund").json
    client.move("later", "a", "b", 1)
    round_trips.count = 0
    reply = client.get(f"/v1/accounts/a/balance?at={first['created_at']}")
    assert (reply.json["number"], reply.json["balance"], round_trips.count) == (1, 100, 1)


def test_a_period_that_ends_before_the_newest_transfer_takes_one_round_trip(
    client: Client, round_trips: RoundTrips
) -> None:
    """A later end has to be closed first."""
    time = client.move("later", "a", "b", 1).json["created_at"]
    round_trips.count = 0
    reply = client.get(f"/v1/accounts/a/entries?from=2026-01-01T00:00:00Z&until={time}")
    assert ([entry["transfer"] for entry in reply.json["entries"]], round_trips.count) == (["fund"], 1)


@pytest.mark.parametrize("list", ["entries", "changes", "holds", "balance?number=0"])
def test_an_account_without_rows_takes_a_second_round_trip(client: Client, round_trips: RoundTrips, list: str) -> None:
    """An account that was never opened is not found; another one has an empty list."""
    client.open("new")
    round_trips.count = 0
    assert client.get(f"/v1/accounts/new/{list}").status == 200
    assert client.get(f"/v1/accounts/unknown/{list}").slug == "not-found"
    assert round_trips.count == 4
