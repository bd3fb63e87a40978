"""GET /v1/transfers: the journal, read on by number."""

import pytest

from tests.client import Client, item


@pytest.fixture(autouse=True)
def seven_transfers(client: Client) -> None:
    """Numbers 1 to 7, and one declined transfer between them."""
    client.open("world", min_balance=None)
    client.open("a")
    client.batch(*(item(f"t{n}", "world", "a", n) for n in range(1, 4)))
    client.move("declined", "a", "world", 1000)
    client.batch(*(item(f"t{n}", "world", "a", n) for n in range(4, 8)))


@pytest.mark.promise(10)
def test_reads_posted_transfers_in_order(client: Client) -> None:
    """Numbers run without gaps, and declined transfers are not among them."""
    page = client.get("/v1/transfers").json
    assert [(row["number"], row["id"]) for row in page["transfers"]] == [(n, f"t{n}") for n in range(1, 8)]
    assert page["next"] is None


def test_pages_lead_from_one_to_the_next(client: Client) -> None:
    """Following `next` reads everything once, and the last page has none."""
    numbers, after = [], "0"
    while after:
        page = client.get(f"/v1/transfers?limit=3&after={after}").json
        numbers += [row["number"] for row in page["transfers"]]
        after = page["next"]
    assert numbers == [1, 2, 3, 4, 5, 6, 7]


def test_a_full_last_page_has_no_next(client: Client) -> None:
    """`next` says that there is more, not that the page is full."""
    assert client.get("/v1/transfers?limit=7").json["next"] is None


def test_after_the_last_number_there_is_nothing_yet(client: Client) -> None:
    """A follower who is up to date gets an empty page and asks again later with the same number."""
    assert client.get("/v1/transfers?after=7").json == {"transfers": [], "next": None}


def test_a_row_is_the_transfer_itself(client: Client) -> None:
    """The feed shows what GET by id shows."""
    row = client.get("/v1/transfers?after=4&limit=1").json["transfers"][0]
    assert row == client.get("/v1/transfers/t5").json
