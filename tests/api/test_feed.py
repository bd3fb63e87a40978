"""GET /v1/transfers: the feed of posted transfers by number."""

import pytest

from tests.support.client import Client, item


@pytest.fixture(autouse=True)
def seven_transfers(client: Client) -> None:
    """The posted transfers t1 to t7 have the numbers 1 to 7. A declined transfer is between t3 and t4."""
    client.open("world", min_balance=None)
    client.open("a")
    client.batch(*(item(f"t{n}", "world", "a", n) for n in range(1, 4)))
    client.move("declined", "a", "world", 1000)
    client.batch(*(item(f"t{n}", "world", "a", n) for n in range(4, 8)))


@pytest.mark.promise(10)
def test_the_feed_lists_posted_transfers_by_number(client: Client) -> None:
    """The numbers have no gaps, and declined transfers are not listed."""
    page = client.get("/v1/transfers").json
    assert [(row["number"], row["id"]) for row in page["transfers"]] == [(n, f"t{n}") for n in range(1, 8)]
    assert page["next"] is None


def test_the_pages_contain_each_transfer_once(client: Client) -> None:
    """The `next` of a page is the `after` of the following page; the last page has no `next`."""
    pages = client.pages("/v1/transfers", limit=3)
    assert [[row["number"] for row in page["transfers"]] for page in pages] == [[1, 2, 3], [4, 5, 6], [7]]
    assert client.get("/v1/transfers?after=0&limit=3").json == pages[0]


def test_a_full_last_page_has_no_next(client: Client) -> None:
    """`next` means that there are more transfers, not that the page is full."""
    assert client.get("/v1/transfers?limit=7").json["next"] is None


def test_a_read_after_the_last_number_returns_an_empty_page(client: Client) -> None:
    """A consumer that has read everything repeats the request with the same number later."""
    assert client.get("/v1/transfers?after=7").json == {"transfers": [], "next": None}


def test_a_row_of_the_feed_equals_the_transfer(client: Client) -> None:
    """GET of the transfer by id returns the same members."""
    row = client.get("/v1/transfers?after=4&limit=1").json["transfers"][0]
    assert row == client.get("/v1/transfers/t5").json
