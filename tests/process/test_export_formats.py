"""The formats of the export: beancount and hledger compute the stored balances, and every detail can be read back."""

import contextlib
import csv
import io
import json
import re
from typing import Any

import hypothesis
import psycopg
import pytest
from beancount import loader
from beancount.core import account as beancount_account
from beancount.core import data
from hypothesis import strategies as st

from dev import bank
from dev.run import TOKEN
from service.export import ESCAPES, account_name
from service.http import fields
from tests.support import live
from tests.support.client import Client, item
from tests.support.export import NEEDS_HLEDGER, READERS, both_tools, export, hledger, stored_balances
from tests.support.ledger import empty

BANK_FILE = live.ROOT / "dev" / "data" / "bank-1993.csv.gz"
BANK_ROWS = 3000
SHOWN = (
    "id",
    "number",
    "created_at",
    "created_by",
    "reference",
    "metadata",
)  # members that beancount and hledger can read back

IDS = [
    *("a", "A", "1", "a:b", "a:B", "A:b", "a:1", "1:a", "assets:a", "Assets:A"),  # differ by case, or look like a root
    *("a.b", "a-b", "a_b", "a-B", "a--b", "a::b", "a:::b", "a:-b", "a:_b"),  # differ by separators
    *("a:", "a-", "a.", "a_", "A-"),  # end with a separator
    *("a-Hb", "a-Ub", "A-H"),  # look like an escaped separator
    *("a" * 64, "A" * 64, "a" + "_" * 63),  # have the greatest length
]
TEXTS = [
    *('"', "\\", '\\"', "'", ",", ";", "; x", ":", "|", "%", "{}"),  # syntax of a format
    *("two  spaces", " x ", "\u2028", "\u00a0", "\ufeff", "é ß 日本 🎉"),  # spaces and Unicode
    *("date: never", "date:2026-99-99", "[2026-99-99]", "type:X", "#tag ^link"),  # tags of hledger and beancount
    *("=SUM(A1)", "assets  1 EUR"),  # a formula, an entry
]


@pytest.fixture
def feed(client: Client) -> list[dict[str, Any]]:
    """A ledger with all IDS and TEXTS, a declined transfer and an account without transfers: its feed."""
    client.open(*IDS, "untouched", min_balance=None)
    client.open("coins", "more:coins", currency="A1B", min_balance=None)
    pairs = list(zip(IDS, IDS[1:] + IDS[:1], strict=True))
    items = [item(id, id, other, n, reference=id, metadata={"k": id}) for n, (id, other) in enumerate(pairs, start=1)]
    items += [item(f"t{n}", "a", "A", 1, metadata={text: text, "k": "v"}) for n, text in enumerate(TEXTS)]
    items += [item("most", "a", "A", 2**53 - 10_000), item("coin", "coins", "more:coins", 5, "A1B")]
    assert client.batch(*items, item("declined", "a", "A", 2**53 - 1)).status == 200
    feed: list[dict[str, Any]] = client.get("/v1/transfers?limit=500").json["transfers"]
    assert [transfer["id"] for transfer in feed] == [posted["transfer"]["id"] for posted in items]
    return feed


def test_csv_has_the_members_of_the_feed(environment: dict[str, str], feed: list[dict[str, Any]]) -> None:
    """Each row is a transfer as the API shows it, without its status; null is empty, metadata is JSON."""
    rows = list(csv.DictReader(io.StringIO(export(environment, "csv"), newline="")))
    for row in rows:
        row["metadata"] = json.dumps(json.loads(row["metadata"]))
    expected = [
        {
            name: json.dumps(value) if name == "metadata" else "" if value is None else str(value)
            for name, value in transfer.items()
            if name != "status"
        }
        for transfer in feed
    ]
    assert rows == expected


@both_tools
def test_unusual_ids_and_texts_are_read_back(
    environment: dict[str, str], owner: psycopg.Connection[Any], feed: list[dict[str, Any]], tool: str
) -> None:
    """Similar ids stay different accounts, and no text breaks the file."""
    assert READERS[tool](export(environment, tool)) == stored_balances(owner)


def test_beancount_has_every_detail(environment: dict[str, str], feed: list[dict[str, Any]]) -> None:
    """Account ids, and the id, number, time, caller, reference and metadata of transfers, are read back unchanged."""
    entries, _, _ = loader.load_string(export(environment, "beancount"))
    opened = {entry.account: entry.meta["id"] for entry in entries if isinstance(entry, data.Open)}
    assert opened == {account_name(id): id for id in (*IDS, "untouched", "coins", "more:coins")}
    details = [
        (
            entry.narration,
            int(entry.meta["number"]),
            entry.meta["created_at"],
            entry.meta["created_by"],
            entry.meta.get("reference"),
            json.loads(entry.meta["metadata"]),
        )
        for entry in entries
        if isinstance(entry, data.Transaction)
    ]
    assert details == [tuple(transfer[name] for name in SHOWN) for transfer in feed]


@NEEDS_HLEDGER
def test_hledger_has_every_detail(environment: dict[str, str], feed: list[dict[str, Any]]) -> None:
    """The same as for beancount. The number is the transaction's code; other details are tags."""
    text = export(environment, "hledger")
    assert all(f"\naccount {account_name(id)}  ; id:{id}\n" in text for id in IDS)
    details = []
    for entry in json.loads(hledger(text, "print", "--output-format=json")):
        if entry["tcode"]:
            tags = dict(line.split(":", 1) for line in entry["tcomment"].split("\n") if line)
            metadata = json.loads(tags["metadata"])
            number = int(entry["tcode"])
            known = (entry["tdescription"], number, tags["created_at"], tags["created_by"], tags.get("reference"))
            details.append((*known, metadata))
    assert details == [tuple(transfer[name] for name in SHOWN) for transfer in feed]


ids = st.one_of(st.sampled_from(IDS), st.from_regex(fields.ID, fullmatch=True))
texts = st.one_of(
    st.sampled_from(TEXTS), st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
)
movements = st.tuples(
    st.integers(0, 5),  # the index of the account that pays
    st.integers(1, 5),  # how many accounts further the other one is
    st.one_of(st.integers(1, 1000), st.integers(1, 2**53 - 1)),
    st.dictionaries(texts, texts, max_size=3),
)
SETTINGS = hypothesis.settings(
    max_examples=10, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


@both_tools
@hypothesis.given(
    accounts=st.lists(ids, min_size=6, max_size=6, unique=True), movements=st.lists(movements, max_size=20)
)
@SETTINGS
def test_balances_of_a_random_ledger_are_read_back(
    environment: dict[str, str],
    client: Client,
    owner: psycopg.Connection[Any],
    tool: str,
    accounts: list[str],
    movements: list[Any],
) -> None:
    """The tool accepts the file and computes every balance."""
    empty(owner)
    client.open(*accounts[:4], min_balance=None)
    client.open(*accounts[4:], currency="B2B", min_balance=None)
    items = []
    for n, (source, distance, amount, metadata) in enumerate(movements):
        target, currency = (source + distance) % 6, "EUR" if source < 4 else "B2B"
        items.append(item(f"t{n}", accounts[source], accounts[target], amount, currency, metadata=metadata))
    assert not items or client.batch(*items).status == 200
    assert READERS[tool](export(environment, tool)) == stored_balances(owner)


@hypothesis.given(id=ids)
@hypothesis.settings(max_examples=500, deadline=None, database=None)
def test_an_account_name_determines_its_id(id: str) -> None:
    """So two ids never have the same name. beancount accepts each name."""
    name = account_name(id)
    assert beancount_account.is_valid(name)
    assert ":".join(unescape(part) for part in name.split(":")[1:]) == id


def unescape(part: str) -> str:
    """The part of an id from the part of a name."""
    without_hyphen = part.removesuffix("-")
    characters = {escape: character for character, escape in ESCAPES.items()}
    text = re.sub(r"-[A-Z]", lambda match: characters[match[0]], without_hyphen)
    return text if part != without_hyphen else text[0].lower() + text[1:]


@both_tools
def test_balances_of_a_real_bank_are_read_back(
    environment: dict[str, str], owner: psycopg.Connection[Any], tool: str
) -> None:
    """The tool computes the same balances for the first rows of a bank's year."""
    rows = bank.read(BANK_FILE)[:BANK_ROWS]
    with live.serving(environment) as service, contextlib.closing(bank.Ledger(service.url, TOKEN)) as ledger:
        assert bank.run(ledger, rows, show_progress=False).mismatches == 0
    assert READERS[tool](export(environment, tool)) == stored_balances(owner)


@both_tools
@pytest.mark.parametrize(
    "change",
    [
        pytest.param("UPDATE account SET balance = balance {} 1", id="balance"),
        pytest.param("UPDATE transfer SET amount = amount {} 1", id="amount"),
    ],
)
def test_a_changed_value_is_reported_by_the_tool(
    environment: dict[str, str], client: Client, owner: psycopg.Connection[Any], tool: str, change: str
) -> None:
    """If a balance or an amount was changed by hand, the tool reports a balance that differs."""
    client.open("a", "b", min_balance=None)
    client.move("t", "a", "b", 5)
    owner.execute(change.format("+").encode())
    with pytest.raises(AssertionError, match=r"(?i)balance"):
        READERS[tool](export(environment, tool))
    owner.execute(change.format("-").encode())
    assert READERS[tool](export(environment, tool)) == stored_balances(owner)


@both_tools
def test_captures_and_reversals_name_their_hold_or_transfer(
    environment: dict[str, str], client: Client, owner: psycopg.Connection[Any], tool: str
) -> None:
    """Only a capture has the detail `captures`, only a reversal has `reverses`."""
    client.open("a", "b", min_balance=None)
    client.move("t1", "a", "b", 5)
    client.reverse("t2", "t1")
    client.hold("h", "a", "b", 3)
    client.capture("t3", "h")
    text = export(environment, tool)
    assert READERS[tool](text) == stored_balances(owner)
    _, _, from_t2 = text.partition("t2")
    reversal, _, capture = from_t2.partition("t3")
    assert re.search(r'reverses: ?"?t1"?\n', reversal)
    assert re.search(r'captures: ?"?h"?\n', capture)
    assert (text.count("reverses"), text.count("captures")) == (1, 1)


@both_tools
def test_an_empty_ledger_is_a_valid_file(environment: dict[str, str], tool: str) -> None:
    """The tool reads it and finds no account."""
    assert READERS[tool](export(environment, tool)) == {}
