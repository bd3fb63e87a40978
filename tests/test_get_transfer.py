"""GET /v1/transfers/{id}"""

from tests.client import Client


def test_shows_a_posted_transfer(client: Client) -> None:
    """Reading gives what posting answered."""
    client.open("world", min_balance=None)
    client.open("a")
    posted = client.move("t", "world", "a", 5)
    assert client.get("/v1/transfers/t").json == posted.json


def test_shows_a_declined_transfer_with_its_reason(client: Client) -> None:
    """A lost answer can be looked up, also when it was a no."""
    client.open("a", "b")
    client.move("t", "a", "b", 5)
    transfer = client.get("/v1/transfers/t").json
    assert (transfer["status"], transfer["number"], transfer["from_balance"]) == ("declined", None, None)
    assert (transfer["reason"], transfer["account"], transfer["available"]) == ("insufficient-funds", "a", 0)


def test_what_is_not_there_is_not_found(client: Client) -> None:
    """An id that nobody used, or can use, is 404."""
    assert client.get("/v1/transfers/unknown").slug == "not-found"
    assert client.get("/v1/transfers/-").slug == "not-found"
