"""GET /v1/accounts/{id}"""

import pytest

from service.app import Application
from tests.client import Client


def test_shows_what_opening_answered(client: Client) -> None:
    """Reading gives the same members as opening."""
    opened = client.put("/v1/accounts/a", {"currency": "EUR", "min_balance": -500})
    assert client.get("/v1/accounts/a").json == opened.json


def test_shows_the_balance(client: Client) -> None:
    """Balance and available follow the transfers of the account."""
    client.open("world", min_balance=None)
    client.open("a")
    client.move("t1", "world", "a", 700)
    client.move("t2", "a", "world", 200)
    account = client.get("/v1/accounts/a").json
    assert (account["balance"], account["held"], account["available"]) == (500, 0, 500)


def test_an_encoded_colon_is_the_same_id(client: Client) -> None:
    """Clients may percent-encode the colon; it is the same account."""
    client.open("user:42")
    assert client.get("/v1/accounts/user%3A42").json["id"] == "user:42"


@pytest.mark.parametrize("id", ["unknown", "caf%C3%A9", "a%20b", "x" * 65, "%0A", "-a"])
def test_what_is_not_there_is_not_found(client: Client, id: str) -> None:
    """An id that nobody used and one that nobody can use get the same answer."""
    reply = client.get(f"/v1/accounts/{id}")
    assert (reply.status, reply.slug) == (404, "not-found")


def test_what_cannot_be_an_id_needs_no_database(
    client: Client, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """404, also while the database is away."""
    monkeypatch.setattr(application.parts.database, "run", None)
    for path in ("accounts/-", "accounts/-/entries", "accounts/-/balance?number=1", "transfers/-", "holds/-"):
        assert client.get(f"/v1/{path}").status == 404, path
