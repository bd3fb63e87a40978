"""Tokens, callers and scopes."""

import hashlib

import pytest

from service.app import Application
from service.config import Caller
from tests.client import Client
from tests.conftest import Unchanged


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
def with_callers(application: Application) -> Application:
    """An application whose callers are a reader, and a writer with an old and a new token."""
    reader = Caller("reader", frozenset({"read"}), (sha256("reads"),))
    writer = Caller("writer", frozenset({"write"}), (sha256("old"), sha256("new")))
    return Application(application.parts, (reader, writer))


def test_a_caller_needs_the_scope(with_callers: Application, nothing_changes: Unchanged) -> None:
    """A reader cannot write and a writer cannot read; the problem names the scope."""
    with nothing_changes():
        refused = Client(with_callers, "reads").put("/v1/accounts/a", {"currency": "EUR"})
    assert (refused.status, refused.slug, refused.json["scope"]) == (403, "forbidden", "write")
    assert Client(with_callers, "old").get("/v1/transfers").json["scope"] == "read"


@pytest.mark.promise(22)
@pytest.mark.parametrize("token", ["old", "new"])
def test_several_tokens_live_side_by_side(with_callers: Application, token: str) -> None:
    """A token can be replaced without a moment in which none works."""
    assert Client(with_callers, token).put("/v1/accounts/a", {"currency": "EUR"}).json["created_by"] == "writer"


@pytest.mark.promise(23)
def test_every_row_says_who_made_it(with_callers: Application, client: Client) -> None:
    """created_by is the first writer; a replay by another caller does not change it."""
    Client(with_callers, "old").open("a", "b", min_balance=None)
    first = Client(with_callers, "old").move("t", "a", "b", 1)
    again = client.move("t", "a", "b", 1)
    assert (first.json["created_by"], again.json["created_by"], again.status) == ("writer", "writer", 200)
    held, again = Client(with_callers, "old").hold("h", "a", "b", 1), client.hold("h", "a", "b", 1)
    assert (held.json["created_by"], again.json["created_by"], again.status) == ("writer", "writer", 200)
    assert client.capture("c", "h").json["created_by"] == "development"
    assert client.get("/v1/holds/h").json["created_by"] == "writer"


def test_a_hash_is_no_token(with_callers: Application) -> None:
    """Whoever reads the configuration cannot call."""
    assert Client(with_callers, sha256("reads")).get("/v1/transfers").status == 401
