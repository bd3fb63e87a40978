"""GET /v1/transfers/{id}"""

from tests.support.client import Client


def test_a_read_returns_the_posted_transfer(client: Client) -> None:
    """GET and PUT return the same transfer."""
    client.open("world", min_balance=None)
    client.open("a")
    posted = client.move("t", "world", "a", 5)
    assert client.get("/v1/transfers/t").json == posted.json


def test_a_read_returns_the_reason_of_a_declined_transfer(client: Client) -> None:
    """A caller that lost the response can read that the transfer was declined, and why."""
    client.open("a", "b")
    client.move("t", "a", "b", 5)
    transfer = client.get("/v1/transfers/t").json
    assert (transfer["status"], transfer["number"], transfer["from_balance"]) == ("declined", None, None)
    assert (transfer["reason"], transfer["account"], transfer["available"]) == ("insufficient-funds", "a", 0)
