"""POST /v1/batches: what an item sees of the items before it."""

import pytest

from tests.support.client import Client, capture_item, hold_item, item, open_item, release_item, reverse_item

pytestmark = pytest.mark.usefixtures("accounts")


@pytest.mark.usefixtures("holds")
def test_plain_transfers_captures_and_reversals_can_be_in_one_batch(client: Client) -> None:
    """The results are in the order of the items, and only posted transfers have numbers."""
    reply = client.batch(
        capture_item("c1", "h", amount=10),
        item("t1", "a", "b", 5),
        capture_item("c2", "h"),
        reverse_item("r1", "t1"),
        capture_item("c3", "unknown"),
        reverse_item("r2", "unknown"),
        reverse_item("r3", "t1", amount=1),
        capture_item("c4", "g", amount=21),
        reverse_item("r4", "fund", amount=7),
    )
    results = reply.json["results"]
    ids_and_problems = [
        result["transfer"]["id"] if "transfer" in result else result["problem"]["type"].removeprefix("/problems/")
        for result in results
    ]
    refused = ["hold-not-found", "transfer-not-found", "reversal-exceeds-transfer", "capture-exceeds-hold"]
    assert ids_and_problems == ["c1", "t1", "hold-not-open", "r1", *refused, "r4"]
    assert [result["transfer"]["number"] for result in results if "transfer" in result] == [2, 3, 4, 5]
    assert (client.amounts("a"), client.balance("b")) == ((83, 20, 63), 10)


@pytest.mark.promise(9)
def test_an_item_can_spend_what_an_earlier_item_moved(client: Client) -> None:
    """The balances include the transfers of the items before it."""
    reply = client.batch(item("t1", "a", "b", 100), item("t2", "b", "a", 100), item("t3", "a", "b", 100), atomic=True)
    assert [result["transfer"]["to_balance"] for result in reply.json["results"]] == [100, 100, 100]


@pytest.mark.usefixtures("holds")
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "not atomic"])
def test_an_item_can_reverse_what_an_earlier_item_posted(client: Client, atomic: bool) -> None:
    """This includes reversals of reversals and the reversal of a capture."""
    reply = client.batch(
        item("t", "a", "b", 50),
        reverse_item("r", "t", amount=40),
        reverse_item("rr", "r", amount=30),
        reverse_item("rrr", "rr"),
        capture_item("c", "h"),
        reverse_item("rc", "c", amount=5),
        atomic=atomic,
    )
    transfers = [result["transfer"] for result in reply.json["results"]]
    assert [transfer["amount"] for transfer in transfers] == [50, 40, 30, 30, 30, 5]
    assert [transfer["reverses"] for transfer in transfers] == [None, "t", "r", "rr", None, "c"]
    assert [client.get(f"/v1/transfers/{transfer['id']}").json for transfer in transfers] == transfers
    assert (client.amounts("a"), client.balance("b")) == ((65, 20, 45), 35)


@pytest.mark.usefixtures("holds")
def test_an_item_can_spend_what_an_earlier_capture_released(client: Client) -> None:
    """50 of 100 are available; the part of a hold that is not captured becomes available at once."""
    items = (item("t1", "a", "b", 51), capture_item("c", "h", amount=1), item("t2", "a", "b", 79))
    first, _, third = client.batch(*items).json["results"]
    assert (first["problem"]["available"], third["status"]) == (50, 201)
    assert client.amounts("a") == (20, 20, 0)


def test_an_item_cannot_reverse_a_later_item(client: Client) -> None:
    """The transfer does not exist yet."""
    first, second = client.batch(reverse_item("r", "t"), item("t")).json["results"]
    assert (first["problem"]["type"], second["status"]) == ("/problems/transfer-not-found", 201)


def test_the_second_of_two_equal_items_is_a_replay(client: Client) -> None:
    """It moves no money and returns the transfer of the first item."""
    first, second = client.batch(item("t", "a", "b", 10), item("t", "a", "b", 10)).json["results"]
    assert (first["status"], second["status"]) == (201, 200)
    assert first["transfer"] == second["transfer"]


@pytest.mark.usefixtures("holds")
def test_the_second_of_two_equal_captures_is_a_replay(client: Client) -> None:
    """A capture of the same hold under another id is declined."""
    one, two, three = client.batch(capture_item("c", "h"), capture_item("c", "h"), capture_item("d", "h")).json[
        "results"
    ]
    assert (one["status"], two["status"], two["transfer"]) == (201, 200, one["transfer"])
    assert three["problem"]["type"] == "/problems/hold-not-open"


def test_the_second_of_two_different_items_with_one_id_is_a_conflict(client: Client) -> None:
    """The problem lists the members that differ."""
    _, second = client.batch(item("t", "a", "b", 10), item("t", "a", "b", 11)).json["results"]
    assert (second["status"], second["problem"]["differs"]) == (409, ["amount"])


def test_an_account_can_be_used_by_later_items(client: Client) -> None:
    """A later item moves money to it, the next one reserves it, and the rules of the account apply."""
    reply = client.batch(
        open_item("new", max_balance=50),
        item("t1", "a", "new", 50),
        hold_item("n", "new", "b", 20),
        item("t2", "new", "b", 31),
        item("t3", "a", "new", 1),
        capture_item("c", "n"),
        reverse_item("r", "t1", amount=30),
    )
    results = reply.json["results"]
    assert [result["status"] for result in results] == [201, 201, 201, 422, 422, 201, 201]
    assert (results[3]["problem"]["account"], results[3]["problem"]["available"]) == ("new", 30)
    assert (results[4]["problem"]["account"], results[4]["problem"]["available"]) == ("new", 0)
    assert (client.amounts("new"), client.amounts("a"), client.balance("b")) == ((0, 0, 0), (80, 0, 80), 20)


def test_an_account_cannot_be_used_by_an_earlier_item(client: Client) -> None:
    """The account does not exist yet, and the item can be sent again."""
    early, opened, late = client.batch(item("t", "a", "new"), open_item("new"), item("t", "a", "new")).json["results"]
    assert early["problem"]["type"] == "/problems/account-not-found"
    assert (opened["status"], late["status"]) == (201, 201)


def test_a_result_shows_the_record_as_it_was_after_its_item(client: Client) -> None:
    """Later items change the account and the hold; a repeat of the item shows the change."""
    items = [
        open_item("new"),
        item("t", "a", "new", 9),
        hold_item("n", "new", "b", 5),
        capture_item("c", "n", amount=4),
    ]
    results = client.batch(*items, open_item("new"), hold_item("n", "new", "b", 5)).json["results"]
    first, again = results[0]["account"], results[4]["account"]
    placed, captured = results[2]["hold"], results[5]["hold"]
    assert (first["balance"], first["held"], first["available"], first["status"]) == (0, 0, 0, "open")
    assert (placed["status"], placed["captured_by"], placed["resolved_at"]) == ("open", None, None)
    assert again == first | {"balance": 5, "available": 5}
    assert captured == placed | {"status": "captured", "captured_by": "c", "resolved_at": placed["created_at"]}
    assert [result["status"] for result in results] == [201, 201, 201, 201, 200, 200]


def test_all_results_have_the_time_of_the_commit(client: Client) -> None:
    """The stored rows have the same time, and only posted transfers take a number."""
    opened, _, _, placed, declined, released = client.batch(
        open_item("new"),
        item("t1", "a", "new"),
        item("t2", "new", "b"),
        hold_item("n", "a", "b"),
        item("declined", "new", "b"),
        release_item("n"),
    ).json["results"]
    time = opened["account"]["created_at"]
    paths = ("accounts/new", "transfers/t1", "transfers/t2", "transfers/declined", "holds/n")
    stored = [client.get(f"/v1/{path}").json for path in paths]
    assert {record["created_at"] for record in stored} == {placed["hold"]["created_at"]} == {time}
    assert released["hold"]["resolved_at"] == stored[4]["resolved_at"] == time
    assert declined["problem"]["type"] == "/problems/insufficient-funds"
    assert [record["number"] for record in stored[1:4]] == [2, 3, None]


@pytest.mark.usefixtures("holds")
def test_an_item_can_spend_what_an_earlier_release_freed(client: Client) -> None:
    """50 of 100 are available before the release, 80 after it."""
    reply = client.batch(item("t1", "a", "b", 51), release_item("h"), item("t2", "a", "b", 80))
    early, released, late = reply.json["results"]
    assert (early["problem"]["available"], late["status"]) == (50, 201)
    assert (released["status"], released["hold"]["status"]) == (200, "released")
    assert client.amounts("a") == (20, 20, 0)


@pytest.mark.usefixtures("holds")
def test_an_item_can_release_a_hold_that_an_earlier_item_placed(client: Client) -> None:
    """A second release is a replay, and a hold that was captured or declined cannot be released."""
    results = client.batch(
        hold_item("n", "a", "b", 50),
        release_item("n"),
        release_item("n"),
        hold_item("big", "a", "b", 51),
        release_item("big"),
        capture_item("c", "h"),
        release_item("h"),
    ).json["results"]
    assert [result["status"] for result in results] == [201, 200, 200, 422, 422, 201, 422]
    assert results[1] == results[2]
    assert {results[n]["problem"]["type"] for n in (4, 6)} == {"/problems/hold-not-open"}
    assert client.amounts("a") == (70, 20, 50)


def test_an_item_takes_the_reference_of_what_an_earlier_item_stored(client: Client) -> None:
    """A capture has the reference of its hold, and a reversal that of its transfer."""
    items = [hold_item("n", "a", "b", 5, reference="order-1"), capture_item("c", "n"), reverse_item("r", "c")]
    results = client.batch(*items, reverse_item("own", "r", reference="order-2")).json["results"]
    assert results[0]["hold"]["reference"] == "order-1"
    references = [result["transfer"]["reference"] for result in results[1:]]
    assert references == ["order-1", "order-1", "order-2"]
