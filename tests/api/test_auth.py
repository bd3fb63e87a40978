"""Tokens, callers and scopes."""

import hashlib

import pytest

from service.config import Caller
from service.http.app import Application
from tests.support.client import Client
from tests.support.ledger import Unchanged


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
def reader_and_writer(application: Application) -> Application:
    """An application with two callers: a reader, and a writer with an old and a new token."""
    reader = Caller("reader", frozenset({"read"}), (sha256("reads"),))
    writer = Caller("writer", frozenset({"write"}), (sha256("old"), sha256("new")))
    return Application(application.dependencies, (reader, writer))


def test_an_operation_requires_its_scope(reader_and_writer: Application, nothing_changes: Unchanged) -> None:
    """A reader cannot write and a writer cannot read; the problem names the scope."""
    with nothing_changes():
        refused = Client(reader_and_writer, "reads").put("/v1/accounts/a", {"currency": "EUR"})
    assert (refused.status, refused.slug, refused.json["scope"]) == (403, "forbidden", "write")
    assert Client(reader_and_writer, "old").get("/v1/transfers").json["scope"] == "read"


@pytest.mark.promise(22)
@pytest.mark.parametrize("token", ["old", "new"])
def test_a_caller_can_have_two_tokens_at_the_same_time(reader_and_writer: Application, token: str) -> None:
    """A token can be replaced without an interruption."""
    assert Client(reader_and_writer, token).put("/v1/accounts/a", {"currency": "EUR"}).json["created_by"] == "writer"


@pytest.mark.promise(23)
def test_created_by_is_the_caller_that_sent_the_first_request(reader_and_writer: Application, client: Client) -> None:
    """A replay by another caller does not change `created_by`; a capture has its own."""
    writer = Client(reader_and_writer, "old")
    client.open("a", "b", min_balance=None)
    first, again = writer.move("t", "a", "b", 1), client.move("t", "a", "b", 1)
    assert (first.json["created_by"], again.json["created_by"], again.status) == ("writer", "writer", 200)
    first, again = writer.hold("h", "a", "b", 1), client.hold("h", "a", "b", 1)
    assert (first.json["created_by"], again.json["created_by"], again.status) == ("writer", "writer", 200)
    assert client.capture("c", "h").json["created_by"] == "development"
    assert client.get("/v1/holds/h").json["created_by"] == "writer"


def test_the_hash_of_a_token_is_not_a_token(reader_and_writer: Application) -> None:
    """The hashes in the configuration do not give access."""
    assert Client(reader_and_writer, sha256("reads")).get("/v1/transfers").status == 401
