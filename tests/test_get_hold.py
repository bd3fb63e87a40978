"""GET /v1/holds/{id}"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from service import database
from service.ledger import holds
from service.wire import timestamp
from tests.client import Client, Reply
from tests.conftest import Clock


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    """`a` may set aside, `b` may take."""
    client.open("a", "b", min_balance=None)


def test_shows_what_placing_answered(client: Client) -> None:
    """Reading gives the same members as placing."""
    placed = client.hold("h", "a", "b", 30, expires_at="2126-12-01T00:00:00.000001Z", metadata={"k": "v"})
    assert client.get("/v1/holds/h").json == placed.json


def test_shows_what_captured_it(client: Client) -> None:
    """A captured hold names its transfer, and was resolved when that was posted."""
    client.hold("h", "a", "b", 30)
    posted = client.capture("c", "h").json
    hold = client.get("/v1/holds/h").json
    assert (hold["status"], hold["captured_by"], hold["resolved_at"]) == ("captured", "c", posted["created_at"])


def test_shows_why_it_was_declined(client: Client) -> None:
    """A declined hold keeps its reason, the account and what that had."""
    client.open("poor")
    client.hold("h", "poor", "b", 30)
    hold = client.get("/v1/holds/h").json
    assert (hold["status"], hold["reason"]) == ("declined", "insufficient-funds")
    assert (hold["account"], hold["available"], hold["resolved_at"]) == ("poor", 0, hold["created_at"])


@pytest.mark.promise(27)
def test_is_expired_from_its_moment_on(client: Client, clock: Clock, owner: psycopg.Connection[Any]) -> None:
    """A microsecond before it is open; from the moment on it is expired since then, whatever its row still says."""
    due = clock.stop() + timedelta(hours=1)
    client.hold("h", "a", "b", 30, expires_at=timestamp(due))
    clock.stop(due - timedelta(microseconds=1))
    assert (client.get("/v1/holds/h").json["status"], client.amounts("a")) == ("open", (0, 30, -30))
    for late in (0, 1, 10**10):
        clock.stop(due + timedelta(microseconds=late))
        hold = client.get("/v1/holds/h").json
        assert (hold["status"], hold["resolved_at"]) == ("expired", timestamp(due))
        assert client.amounts("a") == (0, 0, 0)
    assert owner.execute("SELECT status, resolved_at FROM hold").fetchall() == [("open", None)]


@pytest.mark.parametrize("id", ["unknown", "caf%C3%A9", "a%20b", "x" * 65, "%0A", "-a"])
def test_what_is_not_there_is_not_found(client: Client, id: str) -> None:
    """An id that nobody used and one that nobody can use get the same answer."""
    reply = client.get(f"/v1/holds/{id}")
    assert (reply.status, reply.slug) == (404, "not-found")


class TestWhatIsDue:
    """Holds whose time is over are left out at once, and written off by the next posting on their account."""

    @pytest.fixture(autouse=True)
    def due(self, client: Client, clock: Clock) -> None:
        """`short` fell due a microsecond ago, `long` is due in an hour."""
        now = clock.stop()
        client.hold("short", "a", "b", 30, expires_at=timestamp(now + timedelta(seconds=1)))
        client.hold("long", "a", "b", 7, expires_at=timestamp(now + timedelta(seconds=3601, microseconds=1)))
        clock.turn(seconds=1, microseconds=1)

    @pytest.mark.promise(27)
    def test_is_not_held_in_any_read(self, client: Client) -> None:
        """GET and list, and the repeated opening, show what is held now."""
        (listed, _) = client.get("/v1/accounts").json["accounts"]
        opened = client.put("/v1/accounts/a", {"currency": "EUR", "min_balance": None}).json
        assert client.amounts("a") == (0, 7, -7)
        assert [account["held"] for account in (listed, opened)] == [7, 7]

    @pytest.mark.promise(27)
    @pytest.mark.parametrize("way", ["out", "in", "declined", "hold"])
    def test_the_next_posting_on_the_account_releases_it(
        self, client: Client, owner: psycopg.Connection[Any], way: str
    ) -> None:
        """Whatever is posted, the hold is written as expired in the same commit, since its own moment."""
        client.open("world", min_balance=None)
        {
            "out": lambda: client.move("t", "a", "b", 1),
            "in": lambda: client.move("t", "world", "a", 1),
            "declined": lambda: client.move("t", "a", "b", 1, currency="USD"),
            "hold": lambda: client.hold("h", "a", "b", 1),
        }[way]()
        rows = owner.execute(
            "SELECT status, resolved_at = expires_at FROM hold WHERE id IN ('short', 'long') ORDER BY id"
        )
        assert rows.fetchall() == [("open", None), ("expired", True)]
        assert owner.execute("SELECT held FROM account WHERE id = 'a'").fetchone() == (8 if way == "hold" else 7,)

    def test_another_account_does_not_touch_it(self, client: Client, owner: psycopg.Connection[Any]) -> None:
        """A posting on the account that the hold is for leaves its row alone; what is read is right all the same."""
        client.open("world", min_balance=None)
        client.move("t", "world", "b", 1)
        assert owner.execute("SELECT status FROM hold WHERE id = 'short'").fetchone() == ("open",)
        assert client.get("/v1/holds/short").json["status"] == "expired"

    @pytest.mark.promise(27)
    def test_what_it_held_can_be_spent_at_once(self, client: Client, clock: Clock) -> None:
        """The money is free for the posting that finds the hold due, and not a microsecond earlier."""
        client.open("world", min_balance=None)
        client.open("poor")
        client.move("t1", "world", "poor", 10)
        due = clock.now() + timedelta(seconds=5)
        client.hold("h", "poor", "b", 10, expires_at=timestamp(due))
        clock.stop(due - timedelta(microseconds=1))
        assert client.move("t2", "poor", "a", 1).slug == "insufficient-funds"
        clock.stop(due)
        assert client.move("t3", "poor", "a", 10).status == 201

    def test_cannot_be_captured(self, client: Client) -> None:
        """A capture of a hold that is due is declined, and stays so."""
        assert client.capture("c", "short").slug == "hold-not-open"
        assert client.capture("c", "short").slug == "hold-not-open"
        assert client.capture("d", "long").status == 201


class TestManyAreDueAtOnce:
    """Ten holds of a quiet account end at one moment, and no more than three are written off in one commit."""

    @pytest.fixture(autouse=True)
    def due(self, client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(holds, "EXPIRED_AT_ONCE", 3)
        end = timestamp(clock.stop() + timedelta(seconds=1))
        for n in range(10):
            client.hold(f"h{n}", "a", "b", 1 + n, expires_at=end)
        client.hold("open", "a", "b", 7)
        clock.turn(seconds=1)

    def expired(self, owner: psycopg.Connection[Any]) -> tuple[int, int]:
        """How many rows say so, and what the account's own row still has as held."""
        row = owner.execute(
            "SELECT (SELECT count(*) FROM hold WHERE status = 'expired'), held FROM account WHERE id = 'a'"
        ).fetchone()
        return row or (0, 0)

    @pytest.mark.parametrize(
        "touch",
        [
            lambda client: client.move("t", "a", "b", 1),
            lambda client: client.hold("more", "a", "b", 1),
            lambda client: client.release("h9"),
            lambda client: client.change("a", min_balance=-100),
        ],
        ids=["transfer", "hold", "release", "change"],
    )
    def test_all_are_written_off_before_the_next_write(
        self, client: Client, owner: psycopg.Connection[Any], touch: Callable[[Client], Reply]
    ) -> None:
        """Whatever touches the account, in as many commits as that takes."""
        assert touch(client).status in (200, 201)
        assert self.expired(owner) == (10, client.amounts("a")[1])

    def test_a_write_that_is_given_up_was_not_in_vain(
        self, client: Client, owner: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was written off until the deadline stays so, and the write itself was not applied."""
        due, times = holds.due, iter(range(2))

        def late(*given: Any) -> Any:
            if next(times, None) is None:
                raise database.DeadlinePassed("late")
            return due(*given)

        with monkeypatch.context() as broken:
            broken.setattr(holds, "due", late)
            reply = client.move("t", "a", "b", 1)
        assert (reply.slug, reply.json["outcome"]) == ("deadline-exceeded", "not_applied")
        assert (self.expired(owner)[0], client.amounts("a")) == (6, (0, 7, -7))
        assert client.move("t", "a", "b", 1).status == 201
        assert self.expired(owner) == (10, 7)


def test_no_hold_is_open_again_when_the_clock_is_set_back(client: Client, clock: Clock) -> None:
    """The ledger's time never runs backwards: what was over for one transfer is over for all reads and writes."""
    until = clock.stop() + timedelta(seconds=1)
    for id in ("h", "g"):
        client.hold(id, "a", "b", 30, expires_at=timestamp(until))
    client.hold("late", "b", "a", 5, expires_at=timestamp(until + timedelta(seconds=5)))
    client.open("c", min_balance=None)
    clock.turn(seconds=1)
    client.move("t", "b", "c", 1)
    clock.stop(until - timedelta(hours=1))
    assert client.get("/v1/holds/h").json["status"] == "expired"
    assert client.amounts("a") == (0, 0, 0)
    assert client.capture("c", "h").slug == "hold-not-open"
    assert client.release("g").json["status"] == "expired"
    assert client.capture("d", "late").status == 201
