"""GET /v1/accounts: the list of accounts."""

import pytest

from tests.client import Client

IDS = ["A", "Z:1", "a", "shop:7", "shop:70", "user:1", "user:10", "user:2", "users"]


@pytest.fixture(autouse=True)
def accounts(client: Client) -> None:
    """Nine accounts, opened in no order."""
    client.open(*reversed(IDS))


def ids(client: Client, query: str = "") -> list[str]:
    return [account["id"] for account in client.get(f"/v1/accounts{query}").json["accounts"]]


def test_shows_each_account_as_it_is_read_alone(client: Client) -> None:
    """The list has the members of an account, with what is held and available."""
    client.open("world", min_balance=None)
    client.hold("h", "world", "a", 5)
    listed = client.get("/v1/accounts").json["accounts"]
    assert listed == [client.get(f"/v1/accounts/{account['id']}").json for account in listed]
    assert [(account["held"], account["available"]) for account in listed if account["id"] == "world"] == [(5, -5)]


def test_is_ordered_by_the_bytes_of_the_id(client: Client) -> None:
    """Capital letters come before small ones, whatever the locale of the database."""
    assert ids(client) == IDS


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("user", ["user:1", "user:10", "user:2", "users"]),
        ("user:", ["user:1", "user:10", "user:2"]),
        ("user%3A1", ["user:1", "user:10"]),
        ("shop:70", ["shop:70"]),
        ("a", ["a"]),
        ("nobody", []),
        ("x" * 64, []),
    ],
)
def test_a_prefix_cuts_out_a_family(client: Client, prefix: str, found: list[str]) -> None:
    """Only ids that begin with it; nothing in an id is a wildcard."""
    assert ids(client, f"?prefix={prefix}") == found


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 500])
def test_pages_lead_from_one_to_the_next(client: Client, size: int) -> None:
    """`next` goes into `after`; the last page has none."""
    seen: list[str] = []
    page = client.get(f"/v1/accounts?limit={size}").json
    while page["next"] and len(seen) < len(IDS):
        assert len(page["accounts"]) == size
        seen += [account["id"] for account in page["accounts"]]
        page = client.get(f"/v1/accounts?limit={size}&after={page['next']}").json
    assert seen + [account["id"] for account in page["accounts"]] == IDS
    assert page["next"] is None


def test_pages_of_a_family(client: Client) -> None:
    """`after` and `prefix` go together."""
    page = client.get("/v1/accounts?prefix=user:&limit=2").json
    assert page["next"] == "user:10"
    assert ids(client, f"?prefix=user:&limit=2&after={page['next']}") == ["user:2"]
    assert ids(client, "?prefix=user:&after=A") == ["user:1", "user:10", "user:2"]


def test_after_need_not_be_there(client: Client) -> None:
    """A cursor is a place among the ids, so it works also when nothing has it."""
    assert ids(client, "?after=user:0") == ["user:1", "user:10", "user:2", "users"]


@pytest.mark.parametrize(
    "query",
    [
        *(
            "prefix=",
            "after=",
            "prefix=-",
            "prefix=a%25",
            "prefix=%7F",
            "prefix=" + "x" * 65,
            "after=caf%C3%A9",
            "after=a%20b",
            "after=:",
        ),
        *("limit=0", "limit=501", "order=desc", "prefix=a&prefix=b", "before=a"),
    ],
)
def test_refuses_a_query_it_does_not_understand(client: Client, query: str) -> None:
    """What cannot begin an id is an error, never an empty page."""
    assert client.get(f"/v1/accounts?{query}").slug == "invalid-query"


def test_is_empty_when_nothing_is_open(client: Client) -> None:
    """No account is no error."""
    assert client.get("/v1/accounts?after=zzz").json == {"accounts": [], "next": None}
