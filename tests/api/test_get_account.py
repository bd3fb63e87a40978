"""GET /v1/accounts/{id}"""

from tests.support.client import Client


def test_a_read_returns_the_members_of_the_opening(client: Client) -> None:
    """GET and PUT return the same account."""
    opened = client.put("/v1/accounts/a", {"currency": "EUR", "min_balance": -500})
    assert client.get("/v1/accounts/a").json == opened.json


def test_a_read_returns_the_current_balance(client: Client) -> None:
    """`balance` and `available` include all transfers of the account."""
    client.open("world", min_balance=None)
    client.open("a")
    client.move("t1", "world", "a", 700)
    client.move("t2", "a", "world", 200)
    assert client.amounts("a") == (500, 0, 500)


def test_an_encoded_colon_is_the_same_id(client: Client) -> None:
    """A client may percent-encode the colon of an id."""
    client.open("user:42")
    assert client.get("/v1/accounts/user%3A42").json["id"] == "user:42"
