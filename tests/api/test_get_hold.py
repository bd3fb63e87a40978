"""GET /v1/holds/{id}, and what happens when a hold expires."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from service import session
from service.ledger import clock as ledger_clock
from service.logs import format_time
from tests.support.client import Client, Reply
from tests.support.ledger import Clock


@pytest.fixture(autouse=True)
def open_accounts(client: Client) -> None:
    """`a` and `b` have the balance 0 and no lower limit."""
    client.open("a", "b", min_balance=None)


def test_a_read_returns_the_members_of_the_placing(client: Client) -> None:
    """GET and PUT return the same hold."""
    placed = client.hold("h", "a", "b", 30, expires_at="2126-12-01T00:00:00.000001Z", metadata={"k": "v"})
    assert client.get("/v1/holds/h").json == placed.json


def test_a_captured_hold_names_its_transfer(client: Client) -> None:
    """`resolved_at` is the time at which that transfer was posted."""
    client.hold("h", "a", "b", 30)
    posted = client.capture("c", "h").json
    hold = client.get("/v1/holds/h").json
    assert (hold["status"], hold["captured_by"], hold["resolved_at"]) == ("captured", "c", posted["created_at"])


def test_a_declined_hold_shows_the_reason(client: Client) -> None:
    """It also shows the account and the amount that was available there."""
    client.open("poor")
    client.hold("h", "poor", "b", 30)
    hold = client.get("/v1/holds/h").json
    assert (hold["status"], hold["reason"]) == ("declined", "insufficient-funds")
    assert (hold["account"], hold["available"], hold["resolved_at"]) == ("poor", 0, hold["created_at"])


@pytest.mark.promise(27)
def test_a_hold_is_expired_from_expires_at_on(client: Client, clock: Clock, owner: psycopg.Connection[Any]) -> None:
    """One microsecond earlier it is open. The reads show it as expired even if its row is still open."""
    due = clock.stop() + timedelta(hours=1)
    client.hold("h", "a", "b", 30, expires_at=format_time(due))
    clock.stop(due - timedelta(microseconds=1))
    assert (client.get("/v1/holds/h").json["status"], client.amounts("a")) == ("open", (0, 30, -30))
    for late in (0, 1, 10**10):
        clock.stop(due + timedelta(microseconds=late))
        hold = client.get("/v1/holds/h").json
        assert (hold["status"], hold["resolved_at"]) == ("expired", format_time(due))
        assert client.amounts("a") == (0, 0, 0)
    assert owner.execute("SELECT status, resolved_at FROM hold").fetchall() == [("open", None)]


def test_a_clock_that_is_set_back_does_not_reopen_an_expired_hold(client: Client, clock: Clock) -> None:
    """The ledger's time does not go back: a hold that expired before a transfer stays expired for reads and writes."""
    until = clock.stop() + timedelta(seconds=1)
    for id in ("h", "g"):
        client.hold(id, "a", "b", 30, expires_at=format_time(until))
    client.hold("late", "b", "a", 5, expires_at=format_time(until + timedelta(seconds=5)))
    client.open("c", min_balance=None)
    clock.turn(seconds=1)
    client.move("t", "b", "c", 1)
    clock.stop(until - timedelta(hours=1))
    assert client.get("/v1/holds/h").json["status"] == "expired"
    assert client.amounts("a") == (0, 0, 0)
    assert client.capture("c", "h").slug == "hold-not-open"
    assert client.release("g").json["status"] == "expired"
    assert client.capture("d", "late").status == 201


class TestOneExpiredHold:
    """An expired hold does not count in any read, and the next posting on its account stores the expiry."""

    @pytest.fixture(autouse=True)
    def holds(self, client: Client, clock: Clock) -> None:
        """`short` expired one microsecond ago, `long` expires in one hour."""
        now = clock.stop()
        client.hold("short", "a", "b", 30, expires_at=format_time(now + timedelta(seconds=1)))
        client.hold("long", "a", "b", 7, expires_at=format_time(now + timedelta(seconds=3601, microseconds=1)))
        clock.turn(seconds=1, microseconds=1)

    @pytest.mark.promise(27)
    def test_an_expired_hold_does_not_count_in_any_read(self, client: Client) -> None:
        """GET, the list, and a repeated opening show `held` without it."""
        (listed, _) = client.get("/v1/accounts").json["accounts"]
        opened = client.put("/v1/accounts/a", {"currency": "EUR", "min_balance": None}).json
        assert client.amounts("a") == (0, 7, -7)
        assert [account["held"] for account in (listed, opened)] == [7, 7]

    @pytest.mark.promise(27)
    @pytest.mark.parametrize(
        ("post", "held"),
        [
            (lambda client: client.move("t", "a", "b", 1), 7),
            (lambda client: client.move("t", "world", "a", 1), 7),
            (lambda client: client.move("t", "a", "b", 1, currency="USD"), 7),
            (lambda client: client.hold("h", "a", "b", 1), 8),
        ],
        ids=["transfer from the account", "transfer to the account", "declined transfer", "hold"],
    )
    def test_the_next_posting_on_the_account_stores_the_expiry(
        self, client: Client, owner: psycopg.Connection[Any], post: Callable[[Client], Reply], held: int
    ) -> None:
        """The row of the hold becomes `expired` with `resolved_at` equal to `expires_at`."""
        client.open("world", min_balance=None)
        post(client)
        rows = owner.execute(
            "SELECT status, resolved_at = expires_at FROM hold WHERE id IN ('short', 'long') ORDER BY id"
        )
        assert rows.fetchall() == [("open", None), ("expired", True)]
        assert owner.execute("SELECT held FROM account WHERE id = 'a'").fetchone() == (held,)

    def test_a_posting_on_another_account_does_not_store_the_expiry(
        self, client: Client, owner: psycopg.Connection[Any]
    ) -> None:
        """This includes the account that the hold is for; the reads show the hold as expired nevertheless."""
        client.open("world", min_balance=None)
        client.move("t", "world", "b", 1)
        assert owner.execute("SELECT status FROM hold WHERE id = 'short'").fetchone() == ("open",)
        assert client.get("/v1/holds/short").json["status"] == "expired"

    @pytest.mark.promise(27)
    def test_the_amount_of_an_expired_hold_can_be_spent_at_once(self, client: Client, clock: Clock) -> None:
        """The posting that finds the hold expired can use the amount; one microsecond earlier it cannot."""
        client.open("world", min_balance=None)
        client.open("poor")
        client.move("t1", "world", "poor", 10)
        due = clock.now() + timedelta(seconds=5)
        client.hold("h", "poor", "b", 10, expires_at=format_time(due))
        clock.stop(due - timedelta(microseconds=1))
        assert client.move("t2", "poor", "a", 1).slug == "insufficient-funds"
        clock.stop(due)
        assert client.move("t3", "poor", "a", 10).status == 201

    def test_an_expired_hold_cannot_be_captured(self, client: Client) -> None:
        """The capture is declined permanently; another hold of the account can be captured."""
        assert client.capture("c", "short").slug == "hold-not-open"
        assert client.capture("c", "short").slug == "hold-not-open"
        assert client.capture("d", "long").status == 201


class TestManyExpiredHolds:
    """Ten holds of one account expire at the same time, and one commit stores the expiry of at most three."""

    @pytest.fixture(autouse=True)
    def holds(self, client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """`h0` to `h9` are expired, `open` has no `expires_at`."""
        monkeypatch.setattr(ledger_clock, "HOLDS_EXPIRED_PER_COMMIT", 3)
        end = format_time(clock.stop() + timedelta(seconds=1))
        for n in range(10):
            client.hold(f"h{n}", "a", "b", 1 + n, expires_at=end)
        client.hold("open", "a", "b", 7)
        clock.turn(seconds=1)

    def stored(self, owner: psycopg.Connection[Any]) -> tuple[int, int]:
        """The number of holds whose row is expired, and `held` in the row of the account."""
        row = owner.execute(
            "SELECT (SELECT count(*) FROM hold WHERE status = 'expired'), held FROM account WHERE id = 'a'"
        ).fetchone()
        return row or (0, 0)

    @pytest.mark.parametrize(
        "write",
        [
            lambda client: client.move("t", "a", "b", 1),
            lambda client: client.hold("more", "a", "b", 1),
            lambda client: client.release("h9"),
            lambda client: client.change("a", min_balance=-100),
        ],
        ids=["transfer", "hold", "release", "change"],
    )
    def test_the_next_write_on_the_account_stores_the_expiry_of_all(
        self, client: Client, owner: psycopg.Connection[Any], write: Callable[[Client], Reply]
    ) -> None:
        """This takes several commits."""
        assert write(client).status in (200, 201)
        assert self.stored(owner) == (10, client.amounts("a")[1])

    def test_a_write_that_passes_its_deadline_keeps_the_stored_expiries(
        self, client: Client, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The two commits before the deadline stay, and the write itself is not applied."""
        read, times = ledger_clock.read, iter(range(2))

        def read_twice(*arguments: Any) -> Any:
            if next(times, None) is None:
                raise session.DeadlinePassed("late")
            return read(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(ledger_clock, "read", read_twice)
            reply = client.move("t", "a", "b", 1)
        assert (reply.slug, reply.json["outcome"]) == ("deadline-exceeded", "not_applied")
        assert (self.stored(owner)[0], client.amounts("a")) == (6, (0, 7, -7))
        assert client.move("t", "a", "b", 1).status == 201
        assert self.stored(owner) == (10, 7)
