"""PUT /v1/transfers/{id} and PUT /v1/holds/{id}: the rules that transfers, captures, reversals and holds share."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.client import Client, Reply
from tests.support.ledger import Unchanged

pytestmark = pytest.mark.usefixtures("accounts")


@pytest.fixture(params=["transfer", "hold"])
def put(client: Client, request: pytest.FixtureRequest) -> Callable[..., Reply]:
    """Sends a plain transfer or a hold; both have the same parameters."""
    return client.move if request.param == "transfer" else client.hold


@pytest.mark.usefixtures("dollars")
@pytest.mark.parametrize(("source", "target"), [("a", "dollars"), ("dollars", "a")])
def test_an_account_with_another_currency_declines_a_transfer_or_hold(
    put: Callable[..., Reply], source: str, target: str
) -> None:
    """Both accounts must have the currency of the transfer or hold; the problem names the account."""
    reply = put("x", source, target)
    assert (reply.slug, reply.json["account"]) == ("currency-mismatch", "dollars")


@pytest.mark.parametrize("status", ["frozen", "closed"])
@pytest.mark.parametrize("account", ["a", "b"])
def test_a_frozen_or_closed_account_declines_a_transfer_or_hold(
    client: Client, put: Callable[..., Reply], status: str, account: str
) -> None:
    """The status of the sender and the status of the receiver both count; the problem names the account."""
    client.move("all", "a", "world", 100)  # only an empty account can be closed
    assert client.change(account, status=status).status == 200
    reply = put("x", "a", "b")
    assert (reply.status, reply.slug, reply.json["account"]) == (422, f"account-{status}", account)


@pytest.mark.promise(4)
def test_a_decline_is_permanent(client: Client, put: Callable[..., Reply], nothing_changes: Unchanged) -> None:
    """A repeat returns the same problem with the same text, even if the balance is high enough by then."""
    first = put("x", "a", "b", 101)
    client.move("more", "world", "a", 1000)
    with nothing_changes():
        again = put("x", "a", "b", 101)
    assert again.without_request_id == first.without_request_id


@pytest.mark.promise(5)
@pytest.mark.parametrize(("source", "target"), [("a", "unknown"), ("unknown", "a")])
def test_an_unknown_account_is_refused_and_not_stored(
    client: Client, put: Callable[..., Reply], nothing_changes: Unchanged, source: str, target: str
) -> None:
    """The caller may open the account and then send the same request again."""
    with nothing_changes():
        reply = put("x", source, target)
    assert (reply.status, reply.slug, reply.json["account"]) == (422, "account-not-found", "unknown")
    client.open("unknown", min_balance=None)
    assert put("x", source, target).status == 201


@pytest.mark.parametrize(
    ("put", "create", "slug"),
    [
        (lambda client: client.capture("x", "later"), lambda client: client.hold("later"), "hold-not-found"),
        (lambda client: client.reverse("x", "later"), lambda client: client.move("later"), "transfer-not-found"),
    ],
    ids=["capture", "reversal"],
)
def test_an_unknown_hold_or_transfer_is_refused_and_not_stored(
    client: Client,
    nothing_changes: Unchanged,
    put: Callable[[Client], Reply],
    create: Callable[[Client], Reply],
    slug: str,
) -> None:
    """The caller may create what is missing and then send the same request again."""
    with nothing_changes():
        reply = put(client)
    assert (reply.status, reply.slug) == (422, slug)
    create(client)
    assert put(client).status == 201


@pytest.mark.promise(33)
@pytest.mark.parametrize("account", ["a", "b"])
def test_captures_and_reversals_are_accepted_while_an_account_is_frozen(client: Client, account: str) -> None:
    """Freezing an account stops only new transfers and new holds."""
    client.hold("h", "a", "b", 30)
    client.move("t", "a", "b", 30)
    client.change(account, status="frozen")
    assert client.move("u", "a", "b").slug == "account-frozen"
    assert client.capture("c", "h").status == 201
    assert client.reverse("r", "t").status == 201


def test_the_same_account_twice_is_invalid(put: Callable[..., Reply], nothing_changes: Unchanged) -> None:
    """The error points to the receiver."""
    with nothing_changes():
        assert put("x", "a", "a").pointers == ["/to"]


@pytest.mark.parametrize("id", ["x" * 65, "caf%C3%A9", "-a", "a%20b", "a,b", "a%0A"])
def test_an_invalid_id_is_refused(put: Callable[..., Reply], nothing_changes: Unchanged, id: str) -> None:
    """The id in the path must follow the rule for ids."""
    with nothing_changes():
        reply = put(id)
    assert (reply.status, reply.slug) == (400, "invalid-request")


@pytest.mark.parametrize(
    "put_amount",
    [
        lambda client, amount: client.move("x", "a", "b", amount),
        lambda client, amount: client.hold("x", "a", "b", amount),
        lambda client, amount: client.capture("x", "h", amount=amount),
        lambda client, amount: client.reverse("x", "fund", amount=amount),
    ],
    ids=["transfer", "hold", "capture", "reversal"],
)
@pytest.mark.parametrize("amount", [0, -5, 10.5, 2**53, True, "5", None, [], {}])
def test_an_invalid_amount_is_refused(
    client: Client, nothing_changes: Unchanged, put_amount: Callable[[Client, Any], Reply], amount: Any
) -> None:
    """An amount is an integer from 1 to 2^53-1. Null is invalid even where the amount is optional."""
    client.hold("h", "a", "b", 30)
    with nothing_changes():
        reply = put_amount(client, amount)
    assert (reply.slug, reply.pointers) == ("invalid-request", ["/amount"])
