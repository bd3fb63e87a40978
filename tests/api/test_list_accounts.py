"""GET /v1/accounts: the list of accounts."""

import pytest

from tests.support.client import Client

IDS = ["A", "Z:1", "a", "shop:7", "shop:70", "user:1", "user:10", "user:2", "users"]


@pytest.fixture(autouse=True)
def nine_accounts(client: Client) -> None:
    """The accounts are not opened in the order of their ids."""
    client.open(*reversed(IDS))


def ids(client: Client, query: str = "") -> list[str]:
    return [account["id"] for account in client.get(f"/v1/accounts{query}").json["accounts"]]


def test_the_list_shows_each_account_like_a_read_by_id(client: Client) -> None:
    """All members are equal, including `held` and `available`."""
    client.open("world", min_balance=None)
    client.hold("h", "world", "a", 5)
    listed = client.get("/v1/accounts").json["accounts"]
    assert listed == [client.get(f"/v1/accounts/{account['id']}").json for account in listed]
    assert [(account["held"], account["available"]) for account in listed if account["id"] == "world"] == [(5, -5)]


def test_the_list_is_sorted_by_the_bytes_of_the_id(client: Client) -> None:
    """Capital letters come before small letters; the locale of the database has no effect."""
    assert ids(client) == IDS


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("user", ["user:1", "user:10", "user:2", "users"]),
        ("user:", ["user:1", "user:10", "user:2"]),
        ("user%3A1", ["user:1", "user:10"]),
        ("shop:70", ["shop:70"]),
        ("a", ["a"]),
        ("unknown", []),
        ("x" * 64, []),
    ],
)
def test_a_prefix_selects_the_ids_that_begin_with_it(client: Client, prefix: str, found: list[str]) -> None:
    """No character of a prefix is a wildcard."""
    assert ids(client, f"?prefix={prefix}") == found


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 500])
def test_the_pages_contain_each_account_once(client: Client, size: int) -> None:
    """Every page except the last one is full; the last page has no `next`."""
    pages = client.pages("/v1/accounts", limit=size)
    assert [len(page["accounts"]) for page in pages[:-1]] == [size] * (len(pages) - 1)
    assert [account["id"] for page in pages for account in page["accounts"]] == IDS


def test_after_and_prefix_can_be_combined(client: Client) -> None:
    """The page has the ids with the prefix that come after the cursor."""
    page = client.get("/v1/accounts?prefix=user:&limit=2").json
    assert page["next"] == "user:10"
    assert ids(client, f"?prefix=user:&limit=2&after={page['next']}") == ["user:2"]
    assert ids(client, "?prefix=user:&after=A") == ["user:1", "user:10", "user:2"]


def test_after_does_not_have_to_be_an_existing_id(client: Client) -> None:
    """The list starts with the first id that is greater."""
    assert ids(client, "?after=user:0") == ["user:1", "user:10", "user:2", "users"]


@pytest.mark.parametrize(
    "query",
    [
        *("prefix=", "prefix=-", "prefix=a%25", "prefix=%7F", f"prefix={'x' * 65}", "prefix=a&prefix=b"),
        *("after=", "after=caf%C3%A9", "after=a%20b", "after=:"),
        *("limit=0", "limit=501", "order=desc", "before=a"),
    ],
)
def test_an_invalid_query_is_refused(client: Client, query: str) -> None:
    """A prefix or cursor that cannot begin an id is an error, not an empty page."""
    assert client.get(f"/v1/accounts?{query}").slug == "invalid-query"


def test_a_page_after_the_last_account_is_empty(client: Client) -> None:
    """An empty list is not an error."""
    assert client.get("/v1/accounts?after=zzz").json == {"accounts": [], "next": None}
