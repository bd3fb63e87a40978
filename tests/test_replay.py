"""An id gives one outcome, for ever."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from service.wire import timestamp
from tests.client import Client, Reply, capture, item, reverse
from tests.conftest import Clock, Unchanged


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    """`a` has 100 and one posted transfer, `t`, of 10 to `b`."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.move("fund", "world", "a", 100)
    client.move("t", "a", "b", 10, metadata={"k": "v"})


@pytest.mark.promise(2)
def test_the_same_body_gives_the_first_result(client: Client, nothing_changes: Unchanged) -> None:
    """A repeated transfer answers 200 with the balances of the first time, and moves nothing."""
    first = client.get("/v1/transfers/t").json
    client.move("later", "a", "b", 5)
    with nothing_changes():
        again = client.move("t", "a", "b", 10, metadata={"k": "v"})
    assert (again.status, again.json) == (200, first)


@pytest.mark.promise(3)
@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"from": "world"}, ["from"]),
        ({"to": "world"}, ["to"]),
        ({"amount": 11}, ["amount"]),
        ({"currency": "USD"}, ["currency"]),
        ({"metadata": {}}, ["metadata"]),
        ({"amount": 11, "metadata": {"k": "w"}}, ["amount", "metadata"]),
        ({"to": "nobody"}, ["to"]),
    ],
)
def test_another_body_is_a_conflict(
    client: Client, nothing_changes: Unchanged, change: dict[str, Any], differs: list[str]
) -> None:
    """The answer names what differs, and nothing moves."""
    body = {"from": "a", "to": "b", "amount": 10, "currency": "EUR", "metadata": {"k": "v"}} | change
    with nothing_changes():
        reply = client.put("/v1/transfers/t", body)
    assert (reply.status, reply.slug, reply.json["differs"]) == (409, "id-conflict", differs)


def test_a_declined_id_conflicts_too(client: Client) -> None:
    """A declined transfer cannot be made to fit by asking for less."""
    assert client.move("big", "a", "b", 1000).status == 422
    assert client.move("big", "a", "b", 1).json["differs"] == ["amount"]


def test_single_and_batch_share_their_ids(client: Client, nothing_changes: Unchanged) -> None:
    """What was posted alone is replayed in a batch."""
    with nothing_changes():
        (result,) = client.batch(item("t", "a", "b", 10, metadata={"k": "v"})).json["results"]
    assert (result["status"], result["transfer"]["id"]) == (200, "t")


def test_accounts_and_transfers_do_not_share_ids(client: Client) -> None:
    """An account's id says nothing about a transfer's."""
    assert client.move("a", "a", "b", 1).status == 201


class TestHolds:
    BODY: ClassVar = {"from": "a", "to": "b", "amount": 10, "currency": "EUR", "expires_at": "2126-12-01T00:00:00Z"}

    @pytest.mark.promise(32)
    @pytest.mark.parametrize("end", ["open", "released", "captured"])
    def test_the_same_body_answers_the_hold_of_now(self, client: Client, nothing_changes: Unchanged, end: str) -> None:
        """A late repeat sets nothing aside again: it tells what became of the hold."""
        assert client.put("/v1/holds/h", self.BODY).status == 201
        if end == "released":
            client.release("h")
        if end == "captured":
            client.capture("c", "h")
        with nothing_changes():
            reply = client.put("/v1/holds/h", self.BODY)
        assert (reply.status, reply.json["status"]) == (200, end)
        assert reply.json == client.get("/v1/holds/h").json

    def test_a_repeat_that_comes_after_its_time(self, client: Client, clock: Clock) -> None:
        """What was placed in time is not declined by a repeat: the hold is expired."""
        due = timestamp(clock.stop() + timedelta(hours=1))
        client.hold("h", "a", "b", 10, expires_at=due)
        clock.turn(hours=1)
        for _ in range(2):
            reply = client.hold("h", "a", "b", 10, expires_at=due)
            assert (reply.status, reply.json["status"], reply.json["resolved_at"]) == (200, "expired", due)
        assert client.get("/v1/holds/h").json == reply.json

    @pytest.mark.parametrize(
        ("change", "differs"),
        [
            ({"from": "world"}, ["from"]),
            ({"to": "world"}, ["to"]),
            ({"amount": 11}, ["amount"]),
            ({"currency": "USD"}, ["currency"]),
            ({"expires_at": None}, ["expires_at"]),
            ({"expires_at": "2126-12-01T00:00:00.000001Z"}, ["expires_at"]),
            ({"metadata": {"k": "v"}}, ["metadata"]),
            ({"to": "nobody", "amount": 1}, ["to", "amount"]),
        ],
    )
    @pytest.mark.parametrize("end", ["open", "released"])
    def test_another_body_is_a_conflict(
        self, client: Client, nothing_changes: Unchanged, change: dict[str, Any], differs: list[str], end: str
    ) -> None:
        """The answer names what differs, and nothing is set aside."""
        client.put("/v1/holds/h", self.BODY)
        if end == "released":
            client.release("h")
        with nothing_changes():
            reply = client.put("/v1/holds/h", self.BODY | change)
        assert (reply.status, reply.slug, reply.json["differs"]) == (409, "id-conflict", differs)

    def test_a_declined_id_conflicts_too(self, client: Client) -> None:
        """A declined hold cannot be made to fit by asking for less."""
        assert client.hold("big", "a", "b", 1000).status == 422
        assert client.hold("big", "a", "b", 1).json["differs"] == ["amount"]


class TestCapturesAndReversals:
    """`h` sets 10 of `a` aside, `c` captures it; `r` gives `t` back. Each once with an amount and once without."""

    @pytest.fixture(params=["capture", "reverse"])
    def ask(self, client: Client, request: pytest.FixtureRequest) -> Callable[..., Reply]:
        client.hold("h", "a", "b", 10)
        if request.param == "capture":
            return lambda **more: client.capture("x", "h", **more)
        return lambda **more: client.reverse("x", "t", **more)

    @pytest.mark.promise(32)
    @pytest.mark.parametrize("more", [{}, {"amount": 10}, {"amount": 4, "metadata": {"k": "v"}}])
    def test_the_same_body_gives_the_first_result(
        self, ask: Callable[..., Reply], nothing_changes: Unchanged, more: dict[str, Any]
    ) -> None:
        """Also when nothing is left of what it names by now."""
        first = ask(**more)
        with nothing_changes():
            again = ask(**more)
        assert (first.status, again.status, again.json) == (201, 200, first.json)

    @pytest.mark.promise(32)
    @pytest.mark.parametrize(("first", "second"), [({}, {"amount": 10}), ({"amount": 10}, {}), ({}, {"amount": 9})])
    def test_no_amount_is_not_the_amount_that_it_was(
        self, ask: Callable[..., Reply], nothing_changes: Unchanged, first: dict[str, Any], second: dict[str, Any]
    ) -> None:
        """To ask for all and to ask for ten are two requests, even where all is ten."""
        assert ask(**first).status == 201
        with nothing_changes():
            reply = ask(**second)
        assert (reply.status, reply.json["differs"]) == (409, ["amount"])

    def test_other_metadata_is_a_conflict(self, ask: Callable[..., Reply]) -> None:
        """As for any transfer."""
        ask()
        assert ask(metadata={"k": "v"}).json["differs"] == ["metadata"]

    @pytest.mark.parametrize(
        ("body", "differs"),
        [
            ({"captures": "g"}, ["captures"]),
            ({"reverses": "c"}, ["captures", "reverses"]),
            ({"captures": "nowhere", "amount": 10}, ["amount", "captures"]),
            ({"from": "a", "to": "b", "amount": 10, "currency": "EUR"}, ["captures", "amount"]),
        ],
    )
    def test_another_source_is_a_conflict(
        self, client: Client, nothing_changes: Unchanged, body: dict[str, Any], differs: list[str]
    ) -> None:
        """The hold or transfer that is drawn on is a part of the content."""
        client.hold("h", "a", "b", 10)
        client.hold("g", "a", "b", 10)
        client.capture("c", "h")
        with nothing_changes():
            reply = client.put("/v1/transfers/c", body)
        assert (reply.status, sorted(reply.json["differs"])) == (409, sorted(differs))

    def test_a_plain_transfer_is_neither(self, client: Client) -> None:
        """An id that moved money by itself cannot be used for a capture or a reversal."""
        client.hold("h", "a", "b", 10)
        assert client.capture("t", "h", amount=10, metadata={"k": "v"}).json["differs"] == ["captures"]
        assert client.reverse("t", "fund", amount=10, metadata={"k": "v"}).json["differs"] == ["reverses"]

    @pytest.mark.promise(32)
    def test_what_was_declined_stays_declined(self, client: Client, nothing_changes: Unchanged) -> None:
        """Word for word, with and without an amount, though the original grew nothing but its money came."""
        client.hold("h", "a", "b", 10)
        client.release("h")
        client.move("spent", "b", "world", 10)
        asked = [capture("c1", "h"), capture("c2", "h", amount=3), reverse("r1", "t"), reverse("r2", "t", amount=11)]
        first = client.batch(*asked).json["results"]
        client.move("more", "world", "b", 1000)
        with nothing_changes():
            again = client.batch(*asked).json["results"]
        assert {result["status"] for result in first} == {422}
        for result in first + again:
            result["problem"]["request_id"] = ""
        assert again == first

    def test_a_declined_one_conflicts_too(self, client: Client) -> None:
        """To leave the amount out is another request than the one that was declined."""
        client.reverse("r", "t", amount=11)
        assert client.reverse("r", "t").json["differs"] == ["amount"]
        assert client.reverse("r", "t", amount=10).json["differs"] == ["amount"]

    def test_single_and_batch_share_their_ids(self, client: Client, nothing_changes: Unchanged) -> None:
        """What was captured or given back alone is replayed in a batch."""
        client.hold("h", "a", "b", 10)
        client.capture("c", "h", amount=4)
        client.reverse("r", "t")
        with nothing_changes():
            results = client.batch(capture("c", "h", amount=4), reverse("r", "t"), atomic=True).json["results"]
        assert [result["status"] for result in results] == [200, 200]
