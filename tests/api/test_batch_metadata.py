"""A batch whose results would be many times larger than the request is refused."""

import pytest

from service.contract import LIMITS
from tests.support.client import Client
from tests.support.ledger import Unchanged

CHARACTERS = LIMITS.metadata_members * (LIMITS.metadata_name_characters + LIMITS.metadata_value_characters)
HOLDS = LIMITS.batch_metadata_characters // CHARACTERS  # so many with the most metadata are within the limit
LARGE = {f"{n:040}": "x" * LIMITS.metadata_value_characters for n in range(LIMITS.metadata_members)}


@pytest.fixture(autouse=True)
def place_holds(client: Client) -> None:
    """One hold more than the limit allows in one batch, each with the most metadata."""
    client.open("a", "b", min_balance=None)
    for n in range(HOLDS + 1):
        assert client.hold(f"h{n}", metadata=LARGE).status == 201


def release(client: Client, count: int, characters: int) -> tuple[int, str]:
    """Release `count` holds, and post a transfer with so many characters of metadata. Returns status and slug."""
    items = [{"release": {"id": f"h{n}"}} for n in range(count)]
    transfer = {"id": "t", "from": "a", "to": "b", "amount": 1, "currency": "EUR"}
    transfer["metadata"] = {str(n): "x" * (len(part) - 1) for n, part in enumerate(in_parts("x" * characters))}
    reply = client.post("/v1/batches", {"atomic": False, "items": [*items, {"transfer": transfer}]})
    return reply.status, reply.slug


def in_parts(text: str) -> list[str]:
    """The text in parts of 100 characters."""
    return [text[start : start + 100] for start in range(0, len(text), 100)]


def test_the_metadata_of_all_results_is_limited(client: Client, nothing_changes: Unchanged) -> None:
    """At the limit the batch is applied. One character above it, nothing is."""
    left = LIMITS.batch_metadata_characters - HOLDS * CHARACTERS
    with nothing_changes():
        assert release(client, HOLDS, left + 1) == (422, "batch-too-large")
        assert release(client, HOLDS + 1, 0) == (422, "batch-too-large")
    assert release(client, HOLDS, left) == (200, "")
