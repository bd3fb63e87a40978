"""PUT /v1/holds/{id}"""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from service.wire import timestamp
from tests.client import Client, item
from tests.conftest import Clock, Unchanged


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    """`world` may go below zero, `a` has 100, `b` has nothing, `dollars` holds another currency."""
    client.open("world", min_balance=None)
    client.open("a", "b")
    client.open("dollars", currency="USD", min_balance=None)
    client.move("fund", "world", "a", 100)


class TestPlaced:
    def test_sets_money_aside(self, client: Client) -> None:
        """A hold moves nothing; it takes from what is available."""
        reply = client.hold("h", "a", "b", 30, expires_at="2126-12-01T00:00:00Z", metadata={"order": "A-19"})
        created_at = reply.json["created_at"]
        assert reply.status == 201
        assert reply.json == {
            "id": "h",
            "status": "open",
            "from": "a",
            "to": "b",
            "amount": 30,
            "currency": "EUR",
            "expires_at": "2126-12-01T00:00:00.000000Z",
            "captured_by": None,
            "metadata": {"order": "A-19"},
            "created_by": "development",
            "created_at": created_at,
            "resolved_at": None,
        }
        assert (client.amounts("a"), client.amounts("b")) == ((100, 30, 70), (0, 0, 0))

    @pytest.mark.parametrize("more", [{}, {"expires_at": None}])
    def test_may_last_for_ever(self, client: Client, clock: Clock, more: dict[str, Any]) -> None:
        """Without expires_at, or with null, a hold ends only by a capture or a release."""
        assert client.hold("h", "a", "b", 30, **more).json["expires_at"] is None
        clock.turn(days=100 * 365)
        assert client.get("/v1/holds/h").json["status"] == "open"
        assert client.amounts("a") == (100, 30, 70)

    def test_many_add_up(self, client: Client) -> None:
        """`held` is the sum of the open holds, and the floor itself may be reached."""
        assert [client.hold(f"h{n}", "a", "b", 25).status for n in range(4)] == [201] * 4
        assert client.amounts("a") == (100, 100, 0)

    def test_uses_no_number(self, client: Client) -> None:
        """The journal counts posted transfers only."""
        client.hold("h", "a", "b", 30)
        assert client.move("t", "a", "b", 1).json["number"] == 2

    def test_holds_and_transfers_do_not_share_ids(self, client: Client) -> None:
        """A transfer's id says nothing about a hold's."""
        assert client.hold("fund", "a", "b", 1).status == 201

    @pytest.mark.promise(26)
    def test_counts_against_the_floor_of_transfers(self, client: Client) -> None:
        """What is set aside cannot be spent: neither by a transfer of its own nor in a batch."""
        client.hold("h", "a", "b", 30)
        refused = client.move("t1", "a", "b", 71)
        assert (refused.slug, refused.json["available"]) == ("insufficient-funds", 70)
        first, second = client.batch(item("t2", "a", "b", 70), item("t3", "a", "b", 1)).json["results"]
        assert (first["status"], second["problem"]["available"]) == (201, 0)

    @pytest.mark.parametrize("expires_at", ["2126-12-01T02:00:00+02:00", "2126-11-30T18:30:00.000000-05:30"])
    def test_a_time_with_an_offset_is_shown_in_utc(self, client: Client, expires_at: str) -> None:
        """The same moment in another zone is the same content."""
        assert client.hold("h", "a", "b", 1, expires_at=expires_at).json["expires_at"] == "2126-12-01T00:00:00.000000Z"
        assert client.hold("h", "a", "b", 1, expires_at="2126-12-01T00:00:00Z").status == 200

    @pytest.mark.parametrize("expires_at", ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999+23:59"])
    def test_the_end_of_the_calendar(self, client: Client, expires_at: str) -> None:
        """The last moments that can be said can be kept, too."""
        placed = client.hold("h", "a", "b", 1, expires_at=expires_at)
        assert (placed.status, client.get("/v1/holds/h").json) == (201, placed.json)
        assert client.capture("c", "h").status == 201


class TestDeclined:
    @pytest.mark.promise(26)
    def test_too_little_available(self, client: Client) -> None:
        """Holds that are open count, for the next hold as for a transfer."""
        client.hold("h1", "a", "b", 60)
        reply = client.hold("h2", "a", "b", 41)
        assert (reply.status, reply.slug) == (422, "insufficient-funds")
        assert (reply.json["account"], reply.json["available"]) == ("a", 40)
        assert client.amounts("a") == (100, 60, 40)

    @pytest.mark.parametrize(("source", "target"), [("a", "dollars"), ("dollars", "a")])
    def test_another_currency(self, client: Client, source: str, target: str) -> None:
        """Both accounts must hold the currency of the hold."""
        reply = client.hold("h", source, target, 1)
        assert (reply.slug, reply.json["account"]) == ("currency-mismatch", "dollars")

    @pytest.mark.parametrize("status", ["frozen", "closed"])
    @pytest.mark.parametrize("account", ["a", "b"])
    def test_an_account_out_of_use(
        self, client: Client, owner: psycopg.Connection[Any], status: str, account: str
    ) -> None:
        """No new hold is placed from or to a frozen or closed account."""
        owner.execute("UPDATE account SET status = %s WHERE id = %s", [status, account])
        reply = client.hold("h", "a", "b", 1)
        assert (reply.status, reply.slug, reply.json["account"]) == (422, f"account-{status}", account)

    @pytest.mark.promise(28)
    @pytest.mark.parametrize("late", [0, 1, 10**9])
    def test_it_came_too_late(self, client: Client, clock: Clock, late: int) -> None:
        """A hold that arrives at its own expires_at, or after it, is declined for that first of all, and remembered."""
        due = timestamp(clock.stop())
        clock.turn(microseconds=late)
        assert client.hold("h", "a", "b", 1000, expires_at=due).slug == "hold-not-open"
        assert client.get("/v1/holds/h").json["status"] == "declined"
        assert client.amounts("a") == (100, 0, 100)

    def test_the_beginning_of_the_calendar(self, client: Client) -> None:
        """The first moment that can be said is long over."""
        assert client.hold("h", "a", "b", 1, expires_at="0001-01-01T00:00:00Z").slug == "hold-not-open"
        assert client.get("/v1/holds/h").json["expires_at"] == "0001-01-01T00:00:00.000000Z"

    def test_just_in_time_is_no_decline(self, client: Client, clock: Clock) -> None:
        """A microsecond before its expires_at a hold is placed."""
        due = timestamp(clock.stop() + timedelta(microseconds=1))
        assert client.hold("h", "a", "b", 1, expires_at=due).status == 201

    @pytest.mark.promise(39)
    def test_available_beyond_exact_numbers(self, client: Client) -> None:
        """Balance less held stays within plus and minus 2^53-1, though no floor holds it."""
        assert client.hold("h1", "world", "b", 2**53 - 1 - 100).status == 201
        assert client.amounts("world")[2] == -(2**53 - 1)
        reply = client.hold("h2", "world", "b", 1)
        assert (reply.slug, reply.json["account"]) == ("balance-out-of-range", "world")
        assert client.move("t", "world", "b", 1).slug == "balance-out-of-range"

    @pytest.mark.promise(39)
    def test_held_beyond_exact_numbers(self, client: Client) -> None:
        """`held` stays within 2^53-1 also where the balance would allow for more."""
        client.open("rich", min_balance=None)
        client.move("t", "world", "rich", 1000)
        assert client.hold("h1", "rich", "b", 2**53 - 1).status == 201
        assert client.hold("h2", "rich", "b", 1).slug == "balance-out-of-range"
        assert client.get("/v1/holds/h2").json["reason"] == "balance-out-of-range"

    def test_is_remembered_for_ever(self, client: Client, nothing_changes: Unchanged) -> None:
        """A declined id stays declined with the same words, however much money comes in later."""
        first = client.hold("h", "a", "b", 101)
        client.move("more", "world", "a", 1000)
        with nothing_changes():
            again = client.hold("h", "a", "b", 101)
        assert {**again.json, "request_id": ""} == {**first.json, "request_id": ""}


class TestRefused:
    @pytest.mark.parametrize(("source", "target"), [("a", "nobody"), ("nobody", "a")])
    def test_an_unknown_account_is_not_remembered(
        self, client: Client, nothing_changes: Unchanged, source: str, target: str
    ) -> None:
        """The caller may open the account and send the same again."""
        with nothing_changes():
            reply = client.hold("h", source, target, 1)
        assert (reply.status, reply.slug, reply.json["account"]) == (422, "account-not-found", "nobody")
        client.open("nobody", min_balance=None)
        assert client.hold("h", source, target, 1).status == 201

    @pytest.mark.parametrize("amount", [0, -5, 10.5, 2**53, True, "5", None, [], {}])
    def test_what_is_no_amount(self, client: Client, nothing_changes: Unchanged, amount: Any) -> None:
        """An amount is a whole number from 1 to 2^53-1."""
        with nothing_changes():
            reply = client.hold("h", "a", "b", amount)
        assert (reply.slug, reply.json["errors"][0]["pointer"]) == ("invalid-request", "/amount")

    def test_all_faults_are_named_at_once(self, client: Client, nothing_changes: Unchanged) -> None:
        """Whoever mends a request learns everything in one go."""
        body = {"from": "-", "amount": "1", "expires_at": "soon", "metadata": [], "status": "open"}
        with nothing_changes():
            reply = client.put("/v1/holds/h", body)
        pointers = {error["pointer"] for error in reply.json["errors"]}
        assert pointers == {"/from", "/to", "/amount", "/currency", "/expires_at", "/metadata", "/status"}

    def test_an_account_to_itself(self, client: Client, nothing_changes: Unchanged) -> None:
        """Money is set aside for another account."""
        with nothing_changes():
            assert client.hold("h", "a", "a", 1).json["errors"][0]["pointer"] == "/to"

    @pytest.mark.parametrize("id", ["x" * 65, "caf%C3%A9", "-a", "a%20b"])
    def test_what_is_no_id(self, client: Client, nothing_changes: Unchanged, id: str) -> None:
        """A new id has to follow the rule for ids."""
        with nothing_changes():
            assert client.hold(id, "a", "b", 1).slug == "invalid-request"
