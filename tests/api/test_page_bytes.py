"""A page ends at page_bytes, and its `next` continues with the following row."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from service.contract import LIMITS
from service.http import response
from tests.support.client import Client, item, movement

LARGE = {f"{n:040}": "𝄞" * LIMITS.metadata_value_characters for n in range(LIMITS.metadata_members)}  # 4 bytes each
ROWS = 2 * LIMITS.page_bytes // len(json.dumps(LARGE, ensure_ascii=False).encode()) + 1  # more than two pages
ROWS_PER_BATCH = 20  # so many large ones are within batch_body_bytes


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    client.open("a", "b", min_balance=None)


def send(client: Client, method: str, path: str, body: dict[str, Any]) -> None:
    """Send the body without escaped characters, so that the large metadata is within body_bytes."""
    assert client.request(method, path, raw=json.dumps(body, ensure_ascii=False).encode()).status in (200, 201)


def post_transfers(client: Client) -> None:
    """ROWS transfers with the most metadata."""
    for start in range(0, ROWS, ROWS_PER_BATCH):
        items = [item(f"t{n}", metadata=LARGE) for n in range(start, min(start + ROWS_PER_BATCH, ROWS))]
        send(client, "POST", "/v1/batches", {"atomic": True, "items": items})


def open_accounts(client: Client) -> None:
    """ROWS accounts with the most metadata."""
    for n in range(ROWS):
        send(client, "PUT", f"/v1/accounts/large{n:03}", {"currency": "EUR", "metadata": LARGE})


def change_account(client: Client) -> None:
    """ROWS changes of one account, each with the most metadata before or after it."""
    for n in range(ROWS):
        send(client, "PATCH", "/v1/accounts/a", {"metadata": {} if n % 2 else LARGE})


def place_holds(client: Client) -> None:
    """ROWS holds with the most metadata."""
    for n in range(ROWS):
        send(client, "PUT", f"/v1/holds/large{n:03}", movement(metadata=LARGE))


@pytest.mark.promise(42)
@pytest.mark.parametrize(
    ("path", "fill", "key"),
    [
        ("/v1/transfers?", post_transfers, "number"),
        ("/v1/accounts?prefix=large&", open_accounts, "id"),
        ("/v1/accounts/a/changes?", change_account, "change"),
        ("/v1/accounts/a/holds?", place_holds, "id"),
    ],
)
def test_the_pages_of_large_rows_are_small_and_contain_each_row_once(
    client: Client, path: str, fill: Callable[[Client], None], key: str
) -> None:
    """No page has more than page_bytes, and one more row would not fit. All pages together are the whole list."""
    fill(client)
    pages = [client.get(f"{path}limit={LIMITS.page_max}")]
    while (after := pages[-1].json["next"]) is not None and len(pages) < ROWS:
        pages.append(client.get(f"{path}limit={LIMITS.page_max}&after={after}"))
    rows = [next(rows for name, rows in page.json.items() if name != "next") for page in pages]
    assert len(pages) == 3
    assert max(len(page.body) for page in pages) <= LIMITS.page_bytes
    for page, following in zip(pages[:-1], rows[1:], strict=True):
        size = len(json.dumps(following[0], ensure_ascii=False).encode())
        assert len(page.body) + size > LIMITS.page_bytes - response.PAGE_FRAME_BYTES
    keys = [row[key] for page in rows for row in page]
    assert len(keys) == ROWS
    assert keys == sorted(set(keys))


def test_a_page_of_small_rows_ends_at_its_limit(client: Client) -> None:
    """The largest page of rows without metadata is shorter than page_bytes."""
    client.batch(*(item(f"{n:064}") for n in range(LIMITS.page_max + 1)))
    page = client.get(f"/v1/transfers?limit={LIMITS.page_max}").json
    assert (len(page["transfers"]), page["next"]) == (LIMITS.page_max, str(LIMITS.page_max))


def test_a_page_has_at_least_one_row(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with more than page_bytes is a page."""
    monkeypatch.setattr(response, "LIMITS", replace(LIMITS, page_bytes=100))
    client.move("t1")
    client.move("t2")
    page = client.get("/v1/transfers").json
    assert ([row["number"] for row in page["transfers"]], page["next"]) == ([1], "1")
