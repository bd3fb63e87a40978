"""Every operation on one account, transfer or hold returns 404 for an id that does not exist or is invalid."""

import pytest

from service.http.app import Application
from tests.support.client import Client
from tests.support.ledger import Unchanged

OPERATIONS = [
    ("GET", "/v1/accounts/{id}", None),
    ("PATCH", "/v1/accounts/{id}", {"status": "frozen"}),
    ("GET", "/v1/accounts/{id}/entries", None),
    ("GET", "/v1/accounts/{id}/entries?until=2126-12-01T12:00:00Z", None),
    ("GET", "/v1/accounts/{id}/changes", None),
    ("GET", "/v1/accounts/{id}/holds", None),
    ("GET", "/v1/accounts/{id}/balance?number=0", None),
    ("GET", "/v1/accounts/{id}/balance?at=2126-12-01T12:00:00Z", None),
    ("GET", "/v1/transfers/{id}", None),
    ("GET", "/v1/holds/{id}", None),
    ("DELETE", "/v1/holds/{id}", None),
]


@pytest.mark.parametrize("id", ["unknown", "caf%C3%A9", "a%20b", "x" * 65, "%0A", "-a", "-"])
@pytest.mark.parametrize(("method", "path", "body"), OPERATIONS)
def test_an_unknown_or_invalid_id_is_not_found(
    client: Client, nothing_changes: Unchanged, method: str, path: str, body: dict[str, str] | None, id: str
) -> None:
    """An id that was never used and an id that is invalid return the same response."""
    with nothing_changes():
        reply = client.request(method, path.format(id=id), body)
    assert (reply.status, reply.slug) == (404, "not-found")


def test_an_invalid_id_is_refused_without_the_database(
    client: Client, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response is also 404 while the database is unavailable."""
    monkeypatch.setattr(application.dependencies.database, "run", None)
    for path in (
        "accounts/-",
        "accounts/-/entries",
        "accounts/-/balance?number=1",
        "accounts/-/holds",
        "transfers/-",
        "holds/-",
    ):
        assert client.get(f"/v1/{path}").status == 404, path
