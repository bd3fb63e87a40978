"""COMMIT, or the response to it, is lost: the service finds out whether it took effect, and nothing is done twice."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from service import database, session
from service.errors import Refusal
from service.http.app import Application
from service.ledger import accounts
from tests.support.client import Client, Reply, item
from tests.support.proxy import Proxy, confirms_commit, has_commit
from tests.support.waiting import wait_until


def lose_one_confirmation(proxy: Proxy) -> None:
    """Cut the next connection on which the server confirms a COMMIT."""
    proxy.cut_to_client, proxy.cuts = confirms_commit, 1


@pytest.mark.promise(13)
def test_a_transfer_is_retried_and_not_posted_twice(proxied_client: Client, proxy: Proxy) -> None:
    """The service repeats the request on another connection and finds the transfer."""
    lose_one_confirmation(proxy)
    reply = proxied_client.move("t", "a", "b", 5)
    assert (reply.status, reply.json["number"]) == (200, 1)
    assert proxied_client.balance("b") == 5


def test_a_build_that_does_not_retry_returns_unknown(
    proxied_client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: with one attempt the outcome is unknown. The client's own repeat finds the transfer."""
    monkeypatch.setattr(database, "ATTEMPTS", 1)
    lose_one_confirmation(proxy)
    reply = proxied_client.move("t", "a", "b", 5)
    assert (reply.status, reply.json["outcome"], reply.headers["Retry-After"]) == (503, "unknown", "1")
    assert proxied_client.move("t", "a", "b", 5).status == 200
    assert proxied_client.balance("b") == 5


@pytest.mark.promise(13)
def test_the_outcome_is_unknown_if_no_retry_gets_a_response(
    proxied_client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transfer was posted once, and a later repeat finds it."""
    monkeypatch.setattr(database, "ATTEMPTS", 2)
    lost: list[bytes] = []

    def is_after_a_commit(data: bytes) -> bool:
        if confirms_commit(data):
            lost.append(data)
        return bool(lost)

    proxy.cut_to_client, proxy.cuts = is_after_a_commit, 10**6
    reply = proxied_client.move("t", "a", "b", 5)
    assert (reply.slug, reply.json["outcome"]) == ("database-unavailable", "unknown")
    proxy.accept_connections()
    wait_until(lambda: proxied_client.move("t", "a", "b", 5).status == 200, "the database is back")
    assert proxied_client.balance("b") == 5


def test_an_account_is_opened_once(proxied_client: Client, proxy: Proxy) -> None:
    """The retry finds the account that the first attempt opened."""
    lose_one_confirmation(proxy)
    assert proxied_client.put("/v1/accounts/new", {"currency": "EUR"}).status == 200


@pytest.mark.promise(14)
def test_an_opened_account_is_not_reported_as_not_applied(
    proxied_client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After COMMIT is confirmed, a PUT of a new account needs no other statement that could fail."""
    monkeypatch.setattr(database, "ATTEMPTS", 1)
    confirmed: list[bytes] = []

    def note_commit(data: bytes) -> bool:
        if confirms_commit(data):
            confirmed.append(data)
        return False

    proxy.cut_to_client = note_commit
    proxy.cut_to_server, proxy.cuts = lambda data: bool(confirmed), 10**6
    assert proxied_client.put("/v1/accounts/new", {"currency": "EUR"}).status == 201
    assert confirmed


@pytest.mark.promise(40)
def test_holds_captures_reversals_releases_and_changes_take_effect_once(proxied_client: Client, proxy: Proxy) -> None:
    """The retry of each returns 200."""
    writes: list[Callable[[], Reply]] = [
        lambda: proxied_client.hold("h", "a", "b", 5),
        lambda: proxied_client.hold("g", "a", "b", 6),
        lambda: proxied_client.capture("c", "h"),
        lambda: proxied_client.reverse("r", "c", amount=2),
        lambda: proxied_client.release("g"),
        lambda: proxied_client.change("b", min_balance=1),
    ]
    for write in writes:
        assert proxied_client.get("/v1/transfers").status == 200
        lose_one_confirmation(proxy)
        assert write().status == 200
        assert proxy.cuts == 0
    assert (proxied_client.amounts("a"), proxied_client.amounts("b")) == ((-3, 0, -3), (3, 0, 3))
    assert len(proxied_client.get("/v1/accounts/b/changes").json["changes"]) == 1


def test_a_batch_is_posted_once(proxied_client: Client, proxy: Proxy) -> None:
    """The retry returns the first result of every item."""
    lose_one_confirmation(proxy)
    reply = proxied_client.batch(item("t1", "a", "b", 5), item("t2", "a", "b", 6), atomic=True)
    assert [result["status"] for result in reply.json["results"]] == [200, 200]
    assert proxied_client.balance("b") == 11


def freeze_while_another_client_reopens(client: Client, proxied_client: Client, proxy: Proxy) -> Reply:
    """A client freezes `a`, and the response to its COMMIT is lost. Before the retry, another client reopens `a`."""

    def reopen_and_cut(data: bytes) -> bool:
        if not confirms_commit(data):
            return False
        assert client.change("a", status="open").status == 200
        return True

    proxy.cut_to_client, proxy.cuts = reopen_and_cut, 1
    return proxied_client.change("a", status="frozen")


@pytest.mark.promise(40)
def test_a_retried_change_does_not_undo_a_later_change(client: Client, proxied_client: Client, proxy: Proxy) -> None:
    """The retry finds the change of the first attempt by its idempotency key."""
    reply = freeze_while_another_client_reopens(client, proxied_client, proxy)
    assert (reply.status, reply.json["status"]) == (200, "frozen")
    assert client.get("/v1/accounts/a").json["status"] == "open"
    changes = client.get("/v1/accounts/a/changes").json["changes"]
    assert [change["after"] for change in changes] == [{"status": "frozen"}, {"status": "open"}]


def test_a_build_with_a_new_key_for_each_attempt_undoes_a_later_change(
    client: Client, proxied_client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose: the retry freezes the account again."""
    change = accounts.change

    def change_with_a_new_key(*arguments: Any, **options: Any) -> Any:
        return change(*arguments, **options | {"idempotency_key": uuid4()})

    monkeypatch.setattr(accounts, "change", change_with_a_new_key)
    freeze_while_another_client_reopens(client, proxied_client, proxy)
    assert client.get("/v1/accounts/a").json["status"] == "frozen"
    assert len(client.get("/v1/accounts/a/changes").json["changes"]) == 3


def test_a_commit_that_did_not_arrive_is_sent_again(proxied_client: Client, proxy: Proxy) -> None:
    """The database rolls the first attempt back, and the second attempt posts."""
    proxy.cut_to_server, proxy.cuts = has_commit, 1
    assert proxied_client.move("t", "a", "b", 5).status == 201
    assert proxy.cuts == 0


@pytest.mark.promise(1)
def test_a_transaction_that_ends_with_another_tag_than_commit_is_an_error(application: Application) -> None:
    """A transaction that ends in ROLLBACK without an error is not applied."""

    def work(connection: session.Connection) -> None:
        connection.execute_and_commit("BEGIN; SELECT 1; ROLLBACK", {})

    with pytest.raises(Refusal) as caught:
        application.dependencies.database.run(work)
    assert (caught.value.slug, caught.value.members) == ("database-unavailable", {"outcome": "not_applied"})


@pytest.mark.promise(14)
@pytest.mark.parametrize(
    "write",
    [
        lambda client: client.batch(item("t1", "a", "b", 5)),
        lambda client: client.batch(item("t1", "a", "b", 5), atomic=True),
        lambda client: client.change("a", min_balance=-100),
        lambda client: client.move("t1", "a", "b", 5),
    ],
    ids=["a batch", "an atomic batch", "a change", "a transfer"],
)
def test_a_refusal_of_the_retry_is_not_called_not_applied(
    proxied_client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, write: Callable[[Client], Reply]
) -> None:
    """The first attempt was applied. The second one is refused, because the clock is ahead by then."""

    def lose_and_move_the_clock(data: bytes) -> bool:
        if not confirms_commit(data):
            return False
        monkeypatch.setattr(session, "CLOCK_MAX_AHEAD_SECONDS", -60)
        return True

    proxy.cut_to_client, proxy.cuts = lose_and_move_the_clock, 1
    reply = write(proxied_client)
    assert (reply.status, reply.slug, reply.json["outcome"]) == (503, "clock-ahead", "unknown")
