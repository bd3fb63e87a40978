"""`reference` of transfers and holds: what they belong to in the caller's system."""

from typing import Any

import pytest

from service.contract import LIMITS
from tests.support.client import Client
from tests.support.ledger import Unchanged

pytestmark = pytest.mark.usefixtures("accounts")


def references(client: Client, query: str) -> list[str]:
    """The ids of the transfers of a list."""
    return [row["id"] for row in client.get(f"/v1/transfers?{query}").json["transfers"]]


def test_a_reference_is_returned_with_its_record(client: Client) -> None:
    """A transfer and a hold show their reference, and null without one."""
    assert client.move("t1", reference="order:1").json["reference"] == "order:1"
    assert client.get("/v1/transfers/t1").json["reference"] == "order:1"
    assert client.hold("h1", reference="order:1").json["reference"] == "order:1"
    assert client.get("/v1/holds/h1").json["reference"] == "order:1"
    assert client.move("t2").json["reference"] is None
    assert client.hold("h2", reference=None).json["reference"] is None


@pytest.mark.promise(43)
@pytest.mark.parametrize(("own", "expected"), [({}, "order:1"), ({"reference": "refund:7"}, "refund:7")])
def test_a_capture_and_a_reversal_have_the_reference_of_what_they_follow(
    client: Client, own: dict[str, Any], expected: str
) -> None:
    """Unless the request has its own. A declined one has it too."""
    client.hold("h", amount=10, reference="order:1")
    assert client.capture("declined", "h", amount=11, **own).slug == "capture-exceeds-hold"
    assert client.get("/v1/transfers/declined").json["reference"] == expected
    assert client.capture("c", "h", **own).json["reference"] == expected
    client.move("t", reference="order:1")
    assert client.reverse("r", "t", **own).json["reference"] == expected


def test_a_reversal_of_a_capture_has_the_reference_of_the_hold(client: Client) -> None:
    """The capture takes it from the hold, and the reversal from the capture."""
    client.hold("h", reference="order:1")
    client.capture("c", "h")
    assert client.reverse("r", "c").json["reference"] == "order:1"


@pytest.mark.promise(3)
@pytest.mark.parametrize("kind", ["transfers", "holds"])
@pytest.mark.parametrize(("first", "second"), [("x", "y"), ("x", None), (None, "x")])
def test_a_repeat_with_another_reference_is_a_conflict(
    client: Client, nothing_changes: Unchanged, kind: str, first: str | None, second: str | None
) -> None:
    """Null and absent are the same reference: none."""
    send = client.move if kind == "transfers" else client.hold
    assert send("one", reference=first).status == 201
    with nothing_changes():
        assert send("one", reference=first).status == 200
        reply = send("one", reference=second)
    assert (reply.status, reply.json["differs"]) == (409, ["reference"])


@pytest.mark.promise(32)
def test_a_capture_without_a_reference_is_not_the_same_as_one_with_it(client: Client) -> None:
    """Also if the reference is that of the hold, as with the amount."""
    client.hold("h", reference="order:1")
    client.capture("c", "h")
    assert client.capture("c", "h").status == 200
    assert client.capture("c", "h", reference="order:1").json["differs"] == ["reference"]
    client.reverse("r", "c", reference="order:1")
    assert client.reverse("r", "c", reference="order:1").status == 200
    assert client.reverse("r", "c").json["differs"] == ["reference"]


@pytest.mark.promise(43)
def test_the_transfers_of_a_reference_are_listed_by_number(client: Client) -> None:
    """Each posted transfer once, over all pages. Declines, holds and other references are left out."""
    client.hold("h", amount=2, reference="order:1")
    expected = []
    for n in range(5):
        client.move(f"t{n}", reference="order:1")
        client.move(f"other{n}", reference=["order:2", "order:11", None][n % 3])
        expected.append(f"t{n}")
    client.move("declined", amount=10_000, reference="order:1")
    client.capture("c", "h")
    expected.append("c")
    assert references(client, "reference=order:1") == expected
    pages = client.pages("/v1/transfers?reference=order:1", 2)
    assert [row["id"] for page in pages for row in page["transfers"]] == expected
    assert references(client, "reference=order") == []


@pytest.mark.parametrize("reference", ["", "-a", "a b", "ä", "x" * (LIMITS.id_characters + 1), 1, ["x"]])
def test_a_reference_has_the_characters_of_an_id(client: Client, nothing_changes: Unchanged, reference: Any) -> None:
    """Another value is refused in a body."""
    with nothing_changes():
        for reply in (
            client.move("t", reference=reference),
            client.hold("h", reference=reference),
            client.capture("c", "h", reference=reference),
        ):
            assert (reply.slug, reply.pointers) == ("invalid-request", ["/reference"])


@pytest.mark.parametrize("reference", ["", "-a", "a%20b", "x" * (LIMITS.id_characters + 1)])
def test_an_invalid_reference_in_a_query_is_refused(client: Client, reference: str) -> None:
    """Also an empty one, which does not select the transfers without a reference."""
    reply = client.get(f"/v1/transfers?reference={reference}")
    assert (reply.slug, reply.json["errors"][0]["parameter"]) == ("invalid-query", "reference")
