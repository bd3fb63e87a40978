"""An upgrade of a ledger that the release before migration 0010 has written, while that release serves on it."""

import contextlib
import itertools
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from service.ledger import audit
from tests.support import live
from tests.support.ledger import DEVELOPMENT
from tests.support.live import ROOT, Live
from tests.support.migrations import Database, git
from tests.support.threads import Call
from tests.support.traffic import traffic_to
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

FIRST_MIGRATION = "sql/0010_references_and_ceilings.sql"  # of the new release; the commit before it is the old one
ROUNDS = 15  # of `requests_of`, in the data of the year
BATCHES, BATCH_SIZE = 3, 1000  # thousands of rows, as large as the old release accepts
REQUESTS = 200  # before and after the migrations; the traffic sends some hundred in a second
EXPIRY_SECONDS = 3  # far longer than placing the hold takes, also under load
PAUSE_SECONDS = 0.1  # between two rounds of requests of all kinds, so that the other clients get CPU time
REVERSALS = 30  # by each release at the same time

Request = tuple[str, str, Any, int]  # method, path below /v1/, body, and the status that the old release returns

# Stretches the times between the first transfer and the last one to a year. Their order stays the same.
SPREAD = """
    CREATE TEMPORARY TABLE spread AS
    SELECT max(created_at) AS newest,
        interval '365 days' / extract(epoch FROM max(created_at) - min(created_at)) AS each_second
    FROM transfer;
    UPDATE transfer SET created_at = newest - extract(epoch FROM newest - created_at) * each_second FROM spread;
    UPDATE hold SET created_at = newest - extract(epoch FROM newest - created_at) * each_second FROM spread;
    UPDATE account SET created_at = newest - extract(epoch FROM newest - created_at) * each_second FROM spread;
    UPDATE account_change SET changed_at = newest - extract(epoch FROM newest - changed_at) * each_second FROM spread
"""


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code and the migrations of the old release, from the history of git."""
    [added] = git(ROOT, "log", "--diff-filter=A", "--format=%H", "--", FIRST_MIGRATION).split() or [""]
    command = ["git", "archive", f"{added}~1", "service", "sql"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert archive.returncode == 0, f"this test needs the commit before {FIRST_MIGRATION}: run git fetch --unshallow"
    folder = tmp_path_factory.mktemp("old")
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    assert not (folder / FIRST_MIGRATION).exists()
    return folder


def migrate(database: Database, folder: Path, command: str = "up") -> None:
    """Run a command of the migration runner of the release in the folder, which must succeed."""
    code, lines = live.run(
        ["service.migrate", command, "--json"], {"MIGRATE_DATABASE_URL": database.urls.owner}, folder
    )
    assert code == 0, lines


@contextlib.contextmanager
def serving(database: Database, folder: Path, module: tuple[str, ...] = ("service",)) -> Iterator[Live]:
    """The release in the folder. `module` may be one that breaks it."""
    environment = {
        "DATABASE_URL": database.urls.service,
        "CALLERS": DEVELOPMENT,
        "ENVIRONMENT": "development",
        "HOST": "127.0.0.1",
        "DRAIN_SECONDS": "0",
    }
    with live.serving(environment, module, folder) as service:
        yield service


def errors(*services: Live) -> list[Any]:
    """The errors that the services have logged until they stopped."""
    return [line for service in services for line in service.lines if line["level"] in ("error", "critical")]


def movement(source: str, target: str, amount: int) -> dict[str, Any]:
    return {"from": source, "to": target, "amount": amount, "currency": "EUR"}


def open_accounts() -> Iterator[Request]:
    """Accounts with and without a floor, one that is frozen after a transfer, and one that is closed."""
    for id in ("world", "buyer", "shop", "frozen", "closed"):
        yield "PUT", f"accounts/{id}", {"currency": "EUR", "min_balance": None if id == "world" else 0}, 201
    yield "PUT", "transfers/to-buyer", movement("world", "buyer", 1_000_000), 201
    yield "PUT", "transfers/to-frozen", movement("world", "frozen", 5), 201
    yield "PATCH", "accounts/frozen", {"status": "frozen"}, 200
    yield "PATCH", "accounts/closed", {"status": "closed"}, 200


def requests_of(name: str) -> Iterator[Request]:
    """Holds of all states except expired, two reversals of one transfer, declines, and changes of an account."""
    yield "PUT", f"transfers/t-{name}", movement("buyer", "shop", 100), 201
    yield "PUT", f"transfers/declined-{name}", movement("shop", "buyer", 10**12), 422
    yield "PUT", f"transfers/frozen-{name}", movement("world", "frozen", 1), 422
    yield "PUT", f"holds/captured-{name}", movement("buyer", "shop", 50), 201
    yield "PUT", f"transfers/too-much-{name}", {"captures": f"captured-{name}", "amount": 51}, 422
    yield "PUT", f"transfers/capture-{name}", {"captures": f"captured-{name}", "amount": 30}, 201
    yield "PUT", f"holds/released-{name}", movement("buyer", "shop", 9), 201
    yield "DELETE", f"holds/released-{name}", None, 200
    yield "PUT", f"holds/open-{name}", movement("buyer", "shop", 1), 201
    yield "PUT", f"holds/declined-{name}", movement("buyer", "closed", 1), 422
    yield "PUT", f"transfers/first-{name}", {"reverses": f"t-{name}", "amount": 10}, 201
    yield "PUT", f"transfers/second-{name}", {"reverses": f"t-{name}", "amount": 20, "metadata": {"order": name}}, 201
    yield "PUT", f"transfers/exceeds-{name}", {"reverses": f"t-{name}", "amount": 71}, 422
    yield "PATCH", "accounts/shop", {"metadata": {"round": name}, "min_balance": -len(name)}, 200


def send(service: Live, request: Request) -> Request:
    """Send the request, which must have its status. Returns it."""
    method, path, body, expected = request
    status, received = service.request(method, f"/v1/{path}", body)
    assert status == expected, (request, received)
    return request


def write_a_year(service: Live, database: Database) -> list[Request]:
    """The data of a year, written by the old release. Returns the requests."""
    expires_at = datetime.now(UTC) + timedelta(seconds=EXPIRY_SECONDS)
    sent = [send(service, request) for request in open_accounts()]
    expiring = {**movement("buyer", "shop", 7), "expires_at": expires_at.isoformat()}
    sent.append(send(service, ("PUT", "holds/expired", expiring, 201)))
    for batch in range(BATCHES):
        items = [{"id": f"batch-{batch}-{item}", **movement("world", "shop", 1)} for item in range(BATCH_SIZE)]
        send(service, ("POST", "transfers", {"atomic": True, "transfers": items}, 200))
    wait_until(lambda: service.request("GET", "/v1/holds/expired")[1]["status"] == "expired", "the hold has expired")
    for number in range(ROUNDS):
        sent += [send(service, request) for request in requests_of(f"year-{number}")]
    with database.connect() as owner:
        owner.execute(SPREAD)
    return sent


def write_until(service: Live, stopped: threading.Event) -> list[Request]:
    """Requests of all kinds, until the event is set. Returns them."""
    sent: list[Request] = []
    for number in itertools.count():
        sent += [send(service, request) for request in requests_of(f"upgrade-{number}")]
        if stopped.wait(PAUSE_SECONDS):
            break
    return sent


def upgrade_under_traffic(database: Database, service: Live) -> list[Request]:
    """Apply the new migrations while the old release serves. No request may fail. Returns the requests of all kinds."""
    stopped = threading.Event()
    with traffic_to(urlsplit(service.url).netloc) as clients:
        writing = Call(partial(write_until, service, stopped))
        try:
            clients.await_requests(REQUESTS)
            migrate(database, ROOT)
            clients.await_requests(REQUESTS)
        finally:
            stopped.set()
        sent = writing.result()
    assert [clients.failures(with_retries=retries) for retries in (False, True)] == [[], []]
    assert [client.retried for client in clients.clients if client.retried] == []
    return sent


def read_all(service: Live, sent: list[Request], at: str) -> list[tuple[int, Any]]:
    """The responses to the repeated requests and to reads of each kind, without the ids of requests.

    `at` is the time of past balances.
    """
    repeated = [(method, path, body) for method, path, body, _ in sent if method in ("PUT", "DELETE")]
    last = service.request("GET", "/v1/accounts/shop/entries?order=desc&limit=1")[1]["entries"][0]["number"]
    reads = [f"transfers?limit=500&after={after}" for after in range(0, last, 500)]
    reads += [path for method, path, _ in repeated if method == "PUT"]
    for id in ("world", "buyer", "shop", "frozen", "closed"):
        reads += [f"accounts/{id}/{rest}" for rest in ("entries", "changes", f"balance?at={at}")]
    requests = [*repeated, *(("GET", path, None) for path in reads)]
    received = [service.request(method, f"/v1/{path}", body) for method, path, body in requests]
    for _, body in received:
        body.pop("request_id", None)
    return received


def without_new_members(new: Any, old: Any) -> Any:
    """The new value without the members that the old one does not have. These must be null."""
    if isinstance(new, dict):
        assert not [name for name in new if name not in old and new[name] is not None], (new, old)
        return {name: without_new_members(value, old[name]) for name, value in new.items() if name in old}
    if isinstance(new, list):
        assert len(new) == len(old)
        return [without_new_members(*pair) for pair in zip(new, old, strict=True)]
    return new


def assert_clean(database: Database) -> None:
    """The audit finds no error, and the schema is that of the migrations."""
    with database.connect() as connection:
        assert audit.run(connection).errors == []
    migrate(database, ROOT, "verify")


def reverse_before(database: Database, service: Live) -> None:
    """A transfer `t` of 200, of which the old release reverses 20 before the new migrations are applied."""
    for request in open_accounts():
        send(service, request)
    send(service, ("PUT", "transfers/t", movement("world", "shop", 200), 201))
    send(service, ("PUT", "transfers/before", {"reverses": "t", "amount": 20}, 201))
    migrate(database, ROOT)


def reverse_many(service: Live, name: str) -> None:
    """REVERSALS of 1 of the transfer `t`."""
    for number in range(REVERSALS):
        send(service, ("PUT", f"transfers/{name}-{number}", {"reverses": "t", "amount": 1}, 201))


def totals(database: Database) -> list[tuple[int, int | None]]:
    """The sum of the reversals of the transfer `t` up to each one, and its reversed_total."""
    with database.connect() as connection:
        return connection.execute(
            "SELECT sum(amount) OVER (ORDER BY number)::bigint, reversed_total"
            " FROM transfer WHERE reverses = 't' AND number > 0 ORDER BY number"
        ).fetchall()


def test_a_year_of_data_is_upgraded_while_the_old_release_serves(database: Database, old: Path) -> None:
    """No request of the old release fails, and the new release returns to each repeat and read what the old one did."""
    half_a_year_ago = f"{datetime.now(UTC) - timedelta(days=182):%Y-%m-%dT%H:%M:%SZ}"
    migrate(database, old)
    with serving(database, old) as old_service:
        sent = write_a_year(old_service, database)
        sent += upgrade_under_traffic(database, old_service)
        before = read_all(old_service, sent, half_a_year_ago)
    with serving(database, ROOT) as new_service:
        after = read_all(new_service, sent, half_a_year_ago)
    assert errors(old_service, new_service) == []
    assert {status for status, _ in before} == {200, 422}
    for old_reply, new_reply in zip(before, after, strict=True):
        assert without_new_members(list(new_reply), list(old_reply)) == list(old_reply)
    assert_clean(database)


def test_both_releases_continue_one_sum_of_reversals(database: Database, old: Path) -> None:
    """They reverse one transfer alternately and at the same time, and together not more than its amount."""
    migrate(database, old)
    with serving(database, old) as old_service:
        reverse_before(database, old_service)
        with serving(database, ROOT) as new_service:
            for number, service in enumerate([new_service, old_service] * 3):
                send(service, ("PUT", f"transfers/alternate-{number}", {"reverses": "t", "amount": number + 1}, 201))
            assert totals(database) == [(20, None), (21, 21), (23, None), (26, 26), (30, None), (35, 35), (41, None)]
            calls = [Call(partial(reverse_many, *pair)) for pair in ((old_service, "old"), (new_service, "new"))]
            for call in calls:
                call.result()
            send(new_service, ("PUT", "transfers/rest", {"reverses": "t"}, 201))
            for name, service in (("old", old_service), ("new", new_service)):
                send(service, ("PUT", f"transfers/{name}-after", {"reverses": "t", "amount": 1}, 422))
    assert errors(old_service, new_service) == []
    assert totals(database)[-1] == (200, 200)
    assert_clean(database)


def test_a_migration_that_the_old_release_does_not_support_is_found(database: Database, old: Path) -> None:
    """If a new column had no default, requests of the old release would fail: the same traffic finds it."""
    migrate(database, old)
    with serving(database, old) as service, traffic_to(urlsplit(service.url).netloc) as clients:
        clients.await_requests(REQUESTS)
        migrate(database, ROOT)
        assert clients.failures(with_retries=False) == []
        database.execute("ALTER TABLE transfer ALTER COLUMN has_own_reference DROP DEFAULT")
        wait_until(lambda: bool(clients.failures(with_retries=False)), "a request of the old release fails")


def test_a_release_that_forgets_the_reversals_of_the_old_one_is_found(database: Database, old: Path) -> None:
    """The audit reports the first reversal of a build that does not add them."""
    migrate(database, old)
    with serving(database, old) as service:
        reverse_before(database, service)
    with serving(database, ROOT, ("tests.support.broken_service", "forget_the_old_release")) as service:
        send(service, ("PUT", "transfers/forgetful", {"reverses": "t", "amount": 30}, 201))
    assert totals(database) == [(20, None), (50, 30)]
    with database.connect() as connection:
        assert [(error.check, error.account) for error in audit.run(connection).errors] == [("reversals", "shop")]
