"""When the database or the network fails: nothing is lost, nothing is moved twice, and the caller is told the truth."""

import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest

from bench.posting import in_a_pipeline
from service import config, database, readiness, wsgi
from service.contract import LIMITS
from service.ledger import holds, posting, transfers
from service.ledger.errors import Refusal
from tests import broken
from tests.client import Client, Reply, capture, item
from tests.conftest import Unchanged, Urls
from tests.proxy import Proxy, commit_answered, commit_asked


@pytest.fixture
def proxy(urls: Urls) -> Iterator[Proxy]:
    """A wire of its own to the database."""
    with tempfile.TemporaryDirectory(prefix="wire-", dir="/tmp") as folder:  # short: a socket path ends at 103 bytes
        wire = Proxy(Path(folder), urls.service)
        yield wire
        wire.close()


@pytest.fixture
def wired(client: Client, proxy: Proxy, environment: dict[str, str]) -> Iterator[Client]:
    """A caller of an application with one connection, through the wire. `a` may give, `b` may take."""
    client.open("a", "b", min_balance=None)
    built = wsgi.build(config.load(environment | {"DATABASE_URL": proxy.url, "POOL_SIZE": "1"}))
    yield Client(built)
    built.parts.database.close()


def lose_the_answer(proxy: Proxy, times: int) -> None:
    proxy.cut_to_client, proxy.cuts = commit_answered, times


def terminate_the_waiting(connection: psycopg.Connection[Any]) -> bool:
    """End the backends of this role that wait for a lock; whether there were any."""
    return bool(
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database() AND backend_type = 'client backend'"
        ).fetchall()
    )


class TestTheAnswerToCommitIsLost:
    @pytest.mark.promise(13)
    def test_the_same_is_done_again_and_moves_nothing_twice(self, wired: Client, proxy: Proxy) -> None:
        """The service repeats the request on a fresh connection and finds it done."""
        wired.get("/v1/transfers")
        lose_the_answer(proxy, times=1)
        reply = wired.move("t", "a", "b", 5)
        assert (reply.status, reply.json["number"]) == (200, 1)
        assert wired.balance("b") == 5

    def test_without_the_repetition_the_caller_would_not_know(
        self, wired: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Broken on purpose, one attempt only: the outcome is unknown, and says so. The caller's repeat finds it."""
        monkeypatch.setattr(database, "ATTEMPTS", 1)
        wired.get("/v1/transfers")
        lose_the_answer(proxy, times=1)
        reply = wired.move("t", "a", "b", 5)
        assert (reply.status, reply.json["outcome"], reply.headers["Retry-After"]) == (503, "unknown", "1")
        assert wired.move("t", "a", "b", 5).status == 200
        assert wired.balance("b") == 5

    @pytest.mark.promise(13)
    def test_lost_every_time_it_is_unknown(self, wired: Client, proxy: Proxy) -> None:
        """Three lost answers end in 503 `unknown`; the money moved once."""
        lose_the_answer(proxy, times=3)
        reply = wired.move("t", "a", "b", 5)
        assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "unknown")
        proxy.cuts = 0
        assert wired.move("t", "a", "b", 5).status == 200
        assert wired.balance("b") == 5

    def test_an_account_is_opened_once(self, wired: Client, proxy: Proxy) -> None:
        """Opening is as safe to repeat as posting."""
        wired.get("/v1/transfers")
        lose_the_answer(proxy, times=1)
        assert wired.put("/v1/accounts/new", {"currency": "EUR"}).status == 200

    @pytest.mark.promise(40)
    def test_holds_captures_reversals_and_changes_are_made_once(self, wired: Client, proxy: Proxy) -> None:
        """Each other write is as safe to repeat."""
        writes: list[Callable[[], Reply]] = [
            lambda: wired.hold("h", "a", "b", 5),
            lambda: wired.hold("g", "a", "b", 6),
            lambda: wired.capture("c", "h"),
            lambda: wired.reverse("r", "c", amount=2),
            lambda: wired.release("g"),
            lambda: wired.change("b", min_balance=1),
        ]
        for write in writes:
            wired.get("/v1/transfers")
            lose_the_answer(proxy, times=1)
            assert write().status == 200
        assert (wired.amounts("a"), wired.amounts("b")) == ((-3, 0, -3), (3, 0, 3))
        assert len(wired.get("/v1/accounts/b/changes").json["changes"]) == 1

    def test_a_batch_is_done_once(self, wired: Client, proxy: Proxy) -> None:
        """Also a batch that was applied unseen is replayed item by item."""
        wired.get("/v1/transfers")
        lose_the_answer(proxy, times=1)
        reply = wired.batch(item("t1", "a", "b", 5), item("t2", "a", "b", 6), atomic=True)
        assert [result["status"] for result in reply.json["results"]] == [200, 200]
        assert wired.balance("b") == 11


def test_a_commit_that_never_arrived_is_sent_again(wired: Client, proxy: Proxy) -> None:
    """The first try was rolled back by the database, the second one posts."""
    wired.get("/v1/transfers")
    proxy.cut_to_server, proxy.cuts = commit_asked, 1
    assert wired.move("t", "a", "b", 5).status == 201


def test_a_dead_connection_in_the_pool_is_not_noticed_by_callers(wired: Client, proxy: Proxy) -> None:
    """A restart of the database costs no request."""
    wired.get("/v1/transfers")
    proxy.cut_all()
    assert wired.move("t", "a", "b", 5).status == 201


@pytest.mark.promise(14)
def test_a_database_that_is_away_is_said_so_and_comes_back(
    wired: Client, proxy: Proxy, nothing_changes: Unchanged
) -> None:
    """503 with `not_applied` while it is away; the same request works as soon as it is back."""
    wired.get("/v1/transfers")
    proxy.cut_to_server, proxy.cuts = (lambda data: True), 10**6
    proxy.cut_all()
    with nothing_changes():
        reply = wired.move("t", "a", "b", 5)
    assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "not_applied")
    proxy.cuts = 0
    assert wired.move("t", "a", "b", 5).status in (201, 503)
    assert wired.move("t", "a", "b", 5).status in (200, 201)


class TestAnOutageThatOutlastsThePool:
    """The pool gives up connecting, and as many requests as it lets wait have waited in vain."""

    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All of that happens within a second."""
        monkeypatch.setattr(database, "RECONNECT_TIMEOUT_SECONDS", 0.1)
        monkeypatch.setattr(database, "POOL_TIMEOUT_SECONDS", 0.05)
        monkeypatch.setattr(database, "MAX_WAITING", 3)

    def answers_after(self, wired: Client, proxy: Proxy) -> Iterator[int]:
        """The answers once the database is back, one about every 20 ms."""
        proxy.cut_to_server, proxy.cuts = (lambda data: True), 10**6
        proxy.cut_all()
        for n in range(10):
            reply = wired.move(f"away{n}", "a", "b", 5)
            assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "not_applied")
        proxy.cuts = 0
        while True:
            yield wired.move("t", "a", "b", 5).status
            time.sleep(0.02)

    def test_is_healed_without_a_restart(self, wired: Client, proxy: Proxy) -> None:
        """Requests are answered again soon after the database is back."""
        wired.get("/v1/transfers")
        assert 201 in islice(self.answers_after(wired, proxy), 500)

    def test_a_build_whose_pool_gives_up_is_found(
        self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        """Broken on purpose: nobody connects any more, and all are refused for ever."""
        monkeypatch.setattr(psycopg_pool.ConnectionPool, "check", None)
        wired = request.getfixturevalue("wired")
        wired.get("/v1/transfers")
        assert set(islice(self.answers_after(wired, proxy), 10)) == {503}


@pytest.mark.parametrize(("watch", "outcome"), [(lambda data: True, "not_applied"), (commit_asked, "unknown")])
def test_a_silent_network_ends_at_the_deadline(
    wired: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, watch: Callable[[bytes], bool], outcome: str
) -> None:
    """No server setting bounds a dead network; the request's own deadline does, and says what may have happened."""
    monkeypatch.setattr(database, "LIMITS", dataclasses.replace(LIMITS, request_deadline_seconds=1))
    wired.get("/v1/transfers")

    def freeze(data: bytes) -> bool:
        if watch(data):
            proxy.flowing.clear()
            proxy.flowing.wait()
        return False

    proxy.cut_to_server, proxy.cuts = freeze, 1
    reply = wired.move("t", "a", "b", 5)
    assert (reply.status, reply.slug, reply.json["outcome"]) == (503, "deadline-exceeded", outcome)
    proxy.cut_all()


class TestAClientStopsBeforeItsCommitArrives:
    def meanwhile(self, client: Client, wired: Client, proxy: Proxy) -> list[Reply]:
        """What another caller is told, three times, while a posting is stuck on the wire; last what that one is."""
        replies: list[Reply] = []
        client.open("c", "d", min_balance=None)
        wired.get("/v1/transfers")
        proxy.stop_before = b"COMMIT"
        stuck = threading.Thread(target=lambda: replies.append(wired.move("stuck", "a", "b", 1)))
        stuck.start()
        assert proxy.stopped.wait(10)
        others = [client.move(f"t{n}", "c", "d", 1) for n in range(3)]
        proxy.stop_before = b""
        proxy.flowing.set()
        stuck.join()
        return others + replies

    def test_nobody_waits_for_it(self, client: Client, wired: Client, proxy: Proxy) -> None:
        """The journal row is not taken before the server has the COMMIT too."""
        replies = self.meanwhile(client, wired, proxy)
        assert [(reply.status, reply.json["number"]) for reply in replies] == [(201, n) for n in (1, 2, 3, 4)]

    def test_a_build_that_sends_statements_one_by_one_stops_everybody(
        self, client: Client, wired: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Broken on purpose: in pipeline mode the stuck client holds the journal row, and others are refused."""
        monkeypatch.setattr(database.Connection, "execute_and_commit", in_a_pipeline)
        *others, stuck = self.meanwhile(client, wired, proxy)
        assert (others[-1].status, others[-1].slug, stuck.status) == (503, "deadline-exceeded", 201)


def test_a_terminated_backend_costs_no_request(client: Client, owner: psycopg.Connection[Any], urls: Urls) -> None:
    """What waits for a lock while an administrator ends it is done again."""
    client.open("a", "b", min_balance=None)
    replies = []
    with psycopg.connect(owner.info.dsn, password=owner.info.password) as blocker:
        blocker.execute("SELECT FROM account WHERE id = 'a' FOR UPDATE")
        thread = threading.Thread(target=lambda: replies.append(client.move("t", "a", "b", 5)))
        thread.start()
        with psycopg.connect(urls.service, autocommit=True) as same_role:
            while thread.is_alive() and not terminate_the_waiting(same_role):
                pass
    thread.join()
    assert replies[0].status == 201


def test_a_server_that_is_stuck_is_not_ready(wired: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and answers nothing: the probe is missed, and not waited for."""
    monkeypatch.setattr(readiness, "PROBE_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(readiness, "PROBE_EVERY_SECONDS", 0)
    monkeypatch.setattr(readiness, "MISSES_UNTIL_UNREADY", 1)
    assert wired.get("/ready").status == 200
    proxy.stop_before = b"SET ROLE"
    assert wired.get("/ready").json["checks"]["database"] is False
    proxy.stop_before = b""
    proxy.flowing.set()
    assert wired.get("/ready").status == 200


@pytest.mark.promise(14)
def test_a_lock_that_is_held_too_long_is_given_up(
    client: Client, owner: psycopg.Connection[Any], nothing_changes: Unchanged
) -> None:
    """lock_timeout answers 503, and nothing was applied."""
    client.open("a", "b", min_balance=None)
    with nothing_changes(), psycopg.connect(owner.info.dsn, password=owner.info.password) as blocker:
        blocker.execute("SELECT FROM account WHERE id = 'a' FOR UPDATE")
        reply = client.move("t", "a", "b", 5)
    assert (reply.slug, reply.json["outcome"]) == ("deadline-exceeded", "not_applied")


def test_a_database_that_takes_no_writes_is_unavailable(
    client: Client, owner: psycopg.Connection[Any], environment: dict[str, str]
) -> None:
    """At a demoted primary (SQLSTATE 25006) writes answer 503 and /ready says why."""
    name = owner.info.dbname
    client.open("a", "b", min_balance=None)
    owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    built = wsgi.build(config.load(environment))
    try:
        reply = Client(built).move("t", "a", "b", 5)
        ready = Client(built).get("/ready")
    finally:
        built.parts.database.close()
        with psycopg.connect(owner.info.dsn, password=owner.info.password, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "not_applied")
    assert (ready.status, ready.json["checks"]["writable"]) == (503, False)


class TestTheRulesAreBroken:
    """Builds broken on purpose: the database still refuses what must not be."""

    @pytest.mark.promise(7)
    def test_the_floor_holds_without_the_rules(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
    ) -> None:
        """With all rules gone, the CHECK keeps the account at its floor, and the caller gets the true reason."""
        client.open("a", "b")
        monkeypatch.setattr(posting, "_broken_by_transfer", lambda *_: None)
        with nothing_changes():
            reply = client.move("t", "a", "b", 1)
        assert (reply.status, reply.slug) == (422, "insufficient-funds")

    def test_the_range_holds_without_the_rules(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
    ) -> None:
        """Neither does a balance leave the exact numbers."""
        client.open("a", "b", min_balance=None)
        client.move("t1", "a", "b", 2**53 - 1)
        monkeypatch.setattr(posting, "_broken_by_transfer", lambda *_: None)
        with nothing_changes():
            assert client.move("t2", "a", "b", 1).slug == "balance-out-of-range"

    def test_an_id_is_used_once_without_the_look(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
    ) -> None:
        """A build that does not see what an id stands for cannot post it again: the key refuses it."""
        client.open("a", "b", min_balance=None)
        client.move("t", "a", "b", 5)
        read = transfers.read
        monkeypatch.setattr(transfers, "read", lambda connection, ids: read(connection, []))
        with nothing_changes():
            reply = client.move("t", "a", "b", 5)
        assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "not_applied")

    def test_a_hold_is_placed_once_without_the_look(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
    ) -> None:
        """Neither can a hold be placed again under its id."""
        client.open("a", "b", min_balance=None)
        client.hold("h", "a", "b", 5)
        read = holds.read
        monkeypatch.setattr(holds, "read", lambda connection, ids: read(connection, []))
        with nothing_changes():
            reply = client.hold("h", "a", "b", 5)
        assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "not_applied")

    @pytest.mark.promise(26)
    def test_the_floor_holds_for_holds_without_the_rules(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
    ) -> None:
        """What is set aside counts in the CHECK too."""
        client.open("a", "b")
        monkeypatch.setattr(posting, "_broken_by_any", lambda *_, **__: None)
        with nothing_changes():
            reply = client.hold("h", "a", "b", 1)
        assert (reply.status, reply.slug) == (422, "insufficient-funds")

    @pytest.mark.promise(26)
    def test_what_is_held_cannot_be_spent_without_the_rules(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
    ) -> None:
        """A transfer of money that a hold has set aside is stopped by the same CHECK."""
        client.open("world", min_balance=None)
        client.open("a", "b")
        client.move("fund", "world", "a", 10)
        client.hold("h", "a", "b", 6)
        monkeypatch.setattr(posting, "_broken_by_transfer", lambda *_: None)
        with nothing_changes():
            reply = client.move("t", "a", "b", 5)
        assert (reply.status, reply.slug) == (422, "insufficient-funds")

    @pytest.mark.promise(29)
    def test_a_hold_is_captured_once_without_the_look(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
    ) -> None:
        """A build that takes a captured hold for an open one is stopped by the unique index."""
        client.open("a", "b", min_balance=None)
        client.hold("h", "a", "b", 5)
        client.hold("other", "a", "b", 5)
        client.capture("c1", "h")
        broken.build(monkeypatch, posting._broken_by_transfer, 'hold.status != "open"', "False")
        with nothing_changes():
            reply = client.capture("c2", "h")
        assert (reply.status, reply.slug) == (422, "hold-not-open")

    def test_a_hold_is_captured_once_in_a_batch_without_the_rules(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, nothing_changes: Unchanged
    ) -> None:
        """The index stops a batch as a whole, so nothing of it is kept."""
        client.open("a", "b", min_balance=None)
        client.hold("h", "a", "b", 5)
        client.hold("other", "a", "b", 50)
        monkeypatch.setattr(posting, "_broken_by_transfer", lambda *_: None)
        with nothing_changes():
            reply = client.batch(capture("c1", "h"), capture("c2", "h"))
        assert (reply.status, reply.slug) == (422, "hold-not-open")

    def test_a_floor_above_what_is_available_is_stopped_for_anybody(
        self, client: Client, owner: psycopg.Connection[Any], nothing_changes: Unchanged
    ) -> None:
        """Nor can a floor be raised above what a hold leaves, by whoever writes to the table."""
        client.open("a", "b", min_balance=None)
        client.hold("h", "a", "b", 5)
        with nothing_changes(), pytest.raises(psycopg.errors.CheckViolation, match="account_floor"):
            owner.execute("UPDATE account SET min_balance = -4 WHERE id = 'a'")


@pytest.mark.promise(1)
def test_another_tag_than_commit_is_no_success(application: Any) -> None:
    """A transaction that ended in ROLLBACK without an error is an error."""

    def work(connection: database.Connection) -> None:
        connection.execute_and_commit("BEGIN; SELECT 1; ROLLBACK", {})

    with pytest.raises(Refusal) as caught:
        application.parts.database.run(work)
    assert (caught.value.slug, caught.value.members) == ("database-unavailable", {"outcome": "not_applied"})


class TestTooMuchInFlight:
    def test_a_full_pool_sheds(
        self, client: Client, environment: dict[str, str], owner: psycopg.Connection[Any]
    ) -> None:
        """Whoever gets no connection within a second is told to come back."""
        client.open("a", "b", min_balance=None)
        built = wsgi.build(config.load(environment | {"POOL_SIZE": "1"}))
        small = Client(built)
        small.get("/v1/transfers")
        with psycopg.connect(owner.info.dsn, password=owner.info.password) as blocker:
            blocker.execute("SELECT FROM account WHERE id = 'a' FOR UPDATE")
            started, release = threading.Event(), threading.Event()

            def hold(connection: database.Connection) -> None:
                started.set()
                release.wait()

            holder = threading.Thread(target=lambda: built.parts.database.run(hold))
            holder.start()
            started.wait()
            reply = small.get("/v1/transfers")
            release.set()
            holder.join()
        built.parts.database.close()
        assert (reply.status, reply.slug, reply.json["outcome"]) == (503, "overloaded", "not_applied")

    @pytest.mark.promise(15)
    def test_the_door_sheds_and_still_answers_probes(self, client: Client) -> None:
        """With every place taken, callers get 503 at once; health, readiness and metrics go on."""
        places = client.application._places
        taken = [places.acquire(blocking=False) for _ in range(112)]
        try:
            assert all(taken)
            assert client.get("/v1/transfers").slug == "overloaded"
            assert [client.get(path).status for path in ("/health", "/ready", "/metrics")] == [200, 200, 200]
        finally:
            for _ in taken:
                places.release()
        assert client.get("/v1/transfers").status == 200
