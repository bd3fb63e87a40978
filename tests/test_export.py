"""`python -m service.export`: other people's tools find the balances that the ledger keeps."""

import contextlib
import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from beancount import loader
from beancount.core import account as beancount_account
from beancount.core import data, realization
from hypothesis import strategies as st

from bench import bank
from service import database
from service import export as command
from service.database import Connection
from service.endpoints import fields
from service.export import SPELLED, account_name
from tests import live, test_bank
from tests.client import Client, item
from tests.conftest import Urls, empty
from tests.proxy import Proxy

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "export.md").read_text("utf-8")
HLEDGER = shutil.which("hledger")
NEEDS_HLEDGER = pytest.mark.skipif(
    HLEDGER is None,
    reason="hledger is not installed, so only beancount reads the export: apt-get or brew install hledger",
)

# They differ by case, by separators, or by what stands in for those in a name.
IDS = [
    *(
        "a",
        "A",
        "1",
        "a:b",
        "a:B",
        "A:b",
        "a.b",
        "a-b",
        "a_b",
        "a-B",
        "a--b",
        "a-Hb",
        "a-Ub",
        "a::b",
        "a:::b",
        "a:",
        "a-",
    ),
    *(
        "a.",
        "a_",
        "A-",
        "A-H",
        "a:-b",
        "a:_b",
        "a:1",
        "1:a",
        "assets:a",
        "Assets:A",
        "a" * 64,
        "A" * 64,
        "a" + "_" * 63,
    ),
]
TEXTS = [
    *('"', "\\", '\\"', ",", ";", "; x", "two  spaces", " x ", ":", "date: never", "date:2026-99-99", "[2026-99-99]"),
    *(
        "type:X",
        "é ß 日本 🎉",
        "#tag ^link",
        "%",
        "'",
        "|",
        "=SUM(A1)",
        "{}",
        "\u2028",
        "\u00a0",
        "\ufeff",
        "assets  1 EUR",
    ),
]

Reader = Callable[[str], dict[str, int]]


def read_by_beancount(text: str) -> dict[str, int]:
    """Every balance by the account's name. The file must load without an error, with stricter plugins than usual.

    Not noduplicates: it joins name and amount bare, so that -1 of Assets:A is 1 of Assets:A- to it.
    """
    plugins = "".join(
        f'plugin "beancount.plugins.{name}"\n'
        for name in ("check_commodity", "coherent_cost", "onecommodity", "unique_prices")
    )
    entries, errors, _ = loader.load_string(plugins + text)
    assert not errors, errors[:3]
    root = realization.realize(entries)
    found = {
        opened.account: realization.get(root, opened.account) for opened in entries if isinstance(opened, data.Open)
    }
    return {
        name: sum(int(place.units.number) for place in real.balance) for name, real in found.items() if real is not None
    }


def read_by_hledger(text: str) -> dict[str, int]:
    """Every balance by the account's name. The file must pass the strict checks."""
    hledger(text, "check", "--strict", "ordereddates")
    rows = csv.reader(io.StringIO(hledger(text, "balance", "--flat", "--empty", "--no-total", "--output-format=csv")))
    return {name: int(amount.split()[0]) for name, amount in list(rows)[1:]}


def hledger(text: str, *arguments: str) -> str:
    command = [str(HLEDGER), "-f", "-", *arguments]
    environment = {"LC_ALL": "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8", "HOME": "/"}
    done = subprocess.run(command, input=text.encode(), env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


READERS = {"beancount": read_by_beancount, "hledger": read_by_hledger}
both_tools = pytest.mark.parametrize("tool", ["beancount", pytest.param("hledger", marks=NEEDS_HLEDGER)])


def run(environment: dict[str, str], *arguments: str, **given: Any) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "service.export", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, **{"capture_output": True, **given})


def export(environment: dict[str, str], format: str) -> str:
    """What it writes, when all goes well."""
    done = run({"DATABASE_URL": environment["DATABASE_URL"]}, "--format", format)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode("utf-8")


def kept(owner: psycopg.Connection[Any]) -> dict[str, int]:
    """The balances that the ledger keeps, by the names that the export gives."""
    rows = owner.execute("SELECT id, balance FROM account").fetchall()
    return {account_name(id): balance for id, balance in rows}


@pytest.fixture
def awkward(client: Client) -> list[dict[str, Any]]:
    """Books of every awkward id and text, with a declined transfer and an account without any; their feed."""
    client.open(*IDS, "untouched", min_balance=None)
    client.open("coins", "more:coins", currency="A1B", min_balance=None)
    pairs = list(zip(IDS, IDS[1:] + IDS[:1], strict=True))
    items = [item(id, id, other, n, metadata={"k": id}) for n, (id, other) in enumerate(pairs, start=1)]
    items += [item(f"t{n}", "a", "A", 1, metadata={text: text, "k": "v"}) for n, text in enumerate(TEXTS)]
    items += [item("most", "a", "A", 2**53 - 10_000), item("declined", "a", "A", 2**53 - 1)]
    assert client.batch(*items, item("coin", "coins", "more:coins", 5, "A1B")).status == 200
    feed: list[dict[str, Any]] = client.get("/v1/transfers?limit=500").json["transfers"]
    assert len(feed) == len(items)  # one more was posted, one was declined
    return feed


def test_csv_is_the_feed(environment: dict[str, str], awkward: list[dict[str, Any]]) -> None:
    """Every row, read back, is the transfer that the API shows, member by member."""
    rows = list(csv.DictReader(io.StringIO(export(environment, "csv"), newline="")))
    shown = [{name: value for name, value in row.items() if name != "status"} for row in awkward]
    plain = [
        {
            name: "" if value is None else json.dumps(value) if name == "metadata" else str(value)
            for name, value in row.items()
        }
        for row in shown
    ]
    assert [row | {"metadata": json.dumps(json.loads(row["metadata"]))} for row in rows] == plain


@both_tools
def test_awkward_books_balance(
    environment: dict[str, str], owner: psycopg.Connection[Any], awkward: list[dict[str, Any]], tool: str
) -> None:
    """Ids that differ by next to nothing stay apart, and no text breaks the file."""
    assert READERS[tool](export(environment, tool)) == kept(owner)


def test_beancount_has_every_detail(environment: dict[str, str], awkward: list[dict[str, Any]]) -> None:
    """Ids of accounts, and id, number, time, caller and metadata of transfers, come out as they went in."""
    entries, _, _ = loader.load_string(export(environment, "beancount"))
    opened = {entry.account: entry.meta["id"] for entry in entries if isinstance(entry, data.Open)}
    assert opened == {account_name(id): id for id in (*IDS, "untouched", "coins", "more:coins")}
    found = [
        (
            entry.narration,
            int(entry.meta["number"]),
            entry.meta["created_at"],
            entry.meta["created_by"],
            entry.meta["metadata"],
        )
        for entry in entries
        if isinstance(entry, data.Transaction)
    ]
    names = ("id", "number", "created_at", "created_by", "metadata")
    assert [(*row[:4], json.loads(row[4])) for row in found] == [tuple(row[name] for name in names) for row in awkward]


@NEEDS_HLEDGER
def test_hledger_has_every_detail(environment: dict[str, str], awkward: list[dict[str, Any]]) -> None:
    """The same; there the number is the code, and the rest stands in tags."""
    text = export(environment, "hledger")
    assert all(f"\naccount {account_name(id)}  ; id:{id}\n" in text for id in IDS)
    entries = json.loads(hledger(text, "print", "--output-format=json"))
    found = [
        (
            entry["tdescription"],
            int(entry["tcode"]),
            dict(line.split(":", 1) for line in entry["tcomment"].split("\n") if line),
        )
        for entry in entries
        if entry["tcode"]
    ]
    details = [
        (id, number, tags["created_at"], tags["created_by"], json.loads(tags["metadata"])) for id, number, tags in found
    ]
    names = ("id", "number", "created_at", "created_by", "metadata")
    assert details == [tuple(row[name] for name in names) for row in awkward]


ids = st.one_of(st.sampled_from(IDS), st.from_regex(fields.ID, fullmatch=True))
texts = st.one_of(
    st.sampled_from(TEXTS), st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
)
moves = st.tuples(
    st.integers(0, 5),
    st.integers(1, 5),
    st.one_of(st.integers(1, 1000), st.integers(1, 2**53 - 1)),
    st.dictionaries(texts, texts, max_size=3),
)
SETTINGS = hypothesis.settings(
    max_examples=10, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


@both_tools
@hypothesis.given(accounts=st.lists(ids, min_size=6, max_size=6, unique=True), steps=st.lists(moves, max_size=20))
@SETTINGS
def test_random_books_balance(
    environment: dict[str, str],
    client: Client,
    owner: psycopg.Connection[Any],
    tool: str,
    accounts: list[str],
    steps: list[Any],
) -> None:
    """Whatever is posted, the tool accepts the file and finds every balance."""
    empty(owner)
    client.open(*accounts[:4], min_balance=None)
    client.open(*accounts[4:], currency="B2B", min_balance=None)
    items = [
        item(
            f"t{n}",
            accounts[source],
            accounts[(source + step) % 6],
            amount,
            ("EUR", "B2B")[source > 3],
            metadata=metadata,
        )
        for n, (source, step, amount, metadata) in enumerate(steps)
    ]
    assert not items or client.batch(*items).status == 200
    assert READERS[tool](export(environment, tool)) == kept(owner)


@hypothesis.given(id=ids)
@hypothesis.settings(max_examples=500, deadline=None, database=None)
def test_a_name_is_one_accounts_own(id: str) -> None:
    """From the name follows the id, so that no two ids share one; and beancount knows it as a name."""
    name = account_name(id)
    assert beancount_account.is_valid(name)
    assert "".join(spelled_back(part) for part in name.split(":")[1:]) == f":{id}"


def spelled_back(part: str) -> str:
    bare = part.removesuffix("-")
    characters = {spelling: character for character, spelling in SPELLED.items()}
    text = re.sub(r"-[A-Z]", lambda match: characters[match[0]], bare)
    return f":{text if part != bare else text[0].lower() + text[1:]}"


@both_tools
def test_the_banks_balances_are_found(environment: dict[str, str], owner: psycopg.Connection[Any], tool: str) -> None:
    """A part of a real bank's year comes to the same balances in the tool."""
    rows = bank.read(test_bank.FILE)[: test_bank.ROWS]
    with live.serving(environment) as service:
        assert test_bank.post(service.url, rows).mismatches == 0
    assert READERS[tool](export(environment, tool)) == kept(owner)


@both_tools
@pytest.mark.parametrize(
    "change", ["UPDATE account SET balance = balance {} 1", "UPDATE transfer SET amount = amount {} 1"]
)
def test_a_wrong_balance_is_refused(
    environment: dict[str, str], client: Client, owner: psycopg.Connection[Any], tool: str, change: str
) -> None:
    """The proof can fail: a balance or an amount that was changed behind the service is an error in the tool."""
    client.open("a", "b", min_balance=None)
    client.move("t", "a", "b", 5)
    owner.execute(change.format("+").encode())
    with pytest.raises(AssertionError, match=r"(?i)balance"):
        READERS[tool](export(environment, tool))
    owner.execute(change.format("-").encode())
    assert READERS[tool](export(environment, tool)) == kept(owner)


@both_tools
def test_captures_and_reversals_are_named(
    environment: dict[str, str], client: Client, owner: psycopg.Connection[Any], tool: str
) -> None:
    """What a transfer gives back stands beside it."""
    client.open("a", "b", min_balance=None)
    client.move("t1", "a", "b", 5)
    client.move("t2", "b", "a", 5)
    owner.execute("UPDATE transfer SET reverses = 't1' WHERE id = 't2'")
    text = export(environment, tool)
    owner.execute("UPDATE transfer SET reverses = NULL")
    assert READERS[tool](text) == kept(owner)
    assert re.search(r'reverses: ?"?t1"?\n', text.partition("t2")[2])
    assert "captures" not in text


@both_tools
def test_empty_books_are_books(environment: dict[str, str], tool: str) -> None:
    """Nothing is written, and read."""
    assert READERS[tool](export(environment, tool)) == {}


@pytest.fixture
def connection(urls: Urls) -> Iterator[Connection]:
    """As the export has it."""
    with database.connect(urls.service) as made:
        database.configure(made)
        with database.one_moment(made):
            yield made


def test_it_is_one_moment(client: Client, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is posted while it reads, portion by portion, is in none of them, and no row is left out or comes twice."""
    monkeypatch.setattr(command, "PORTION_ROWS", 2)
    client.open("a", "b", "c", min_balance=None)
    client.batch(*(item(f"t{n}", "a", "b", 5) for n in range(5)))
    before = list(command.all_accounts(connection))
    client.move("late", "a", "b", 7)
    assert [transfer.id for transfer in command.all_transfers(connection)] == ["t0", "t1", "t2", "t3", "t4"]
    assert [account.id for account in before] == ["a", "b", "c"]
    assert list(command.all_accounts(connection)) == before


def test_it_may_take_its_time_and_writes_nothing(connection: Connection) -> None:
    """No timeout of the service ends it, however slow its reader is, and it could change nothing."""
    timeouts = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
    assert connection.execute(timeouts).fetchone() == ("0", "0")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("UPDATE journal SET last_number = 9")


def test_a_closed_pipe_ends_it_quietly(environment: dict[str, str], client: Client) -> None:
    """`| head` gets its lines, and nobody complains."""
    client.open("a", "b", min_balance=None)
    client.batch(*(item(f"t{n}", "a", "b", 1, metadata={"k": "v" * 200}) for n in range(500)))
    command = [sys.executable, "-m", "service.export"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith(b"number,id,")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


@pytest.mark.parametrize(
    ("url", "arguments", "code"),
    [
        ("", [], 78),
        ("postgresql://u:hunter2@h/db?nope=1", [], 78),
        ("postgresql://nobody:hunter2@127.0.0.1:1/none", [], 69),
        ("postgresql://nobody@127.0.0.1:1/none", ["--format", "qif"], 2),
    ],
)
def test_it_says_why_not(url: str, arguments: list[str], code: int) -> None:
    """Each failure has its exit code and a word on stderr, never the password; stdout stays empty."""
    done = run({"DATABASE_URL": url}, *arguments)
    assert (done.returncode, done.stdout, b"hunter2" in done.stderr) == (code, b"", False)
    assert done.stderr


def test_a_lost_database_is_an_error(environment: dict[str, str], client: Client) -> None:
    """What came before stays, and code and word say that it is not all."""
    client.open("a", "b", min_balance=None)
    for start in (0, 1000):
        client.batch(*(item(f"t{n}", "a", "b", 1) for n in range(start, start + 1000)))
    with (
        tempfile.TemporaryDirectory(prefix="wire-", dir="/tmp") as folder,
        contextlib.closing(Proxy(Path(folder), environment["DATABASE_URL"])) as proxy,
    ):
        proxy.cut_to_client, proxy.cuts = lambda data: re.search(rb"t1[5-9]\d\d", data) is not None, 1
        done = run({"DATABASE_URL": proxy.url})
    assert (done.returncode, json.loads(done.stderr)["event"]) == (69, "export.failed")
    assert 1000 <= len(done.stdout.splitlines()) < 2000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_is_an_error(environment: dict[str, str]) -> None:
    """Nobody takes a cut file for a whole one."""
    with open("/dev/full", "wb") as full:
        done = run(environment, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, b"No space left" in done.stderr) == (1, True)


def test_every_exit_code_is_documented() -> None:
    """The page has those of the module's docstring."""
    codes = re.findall(r"[:·]\s([0-9]+) ", str(sys.modules[account_name.__module__].__doc__))
    assert re.findall(r"^\| ([0-9]+) \|", PAGE, re.MULTILINE) == codes


@pytest.mark.parametrize("tool", READERS)
def test_the_page_shows_what_is_written(environment: dict[str, str], client: Client, tool: str) -> None:
    """The example is a part of the output, but for the days and times."""
    client.open("world", min_balance=None)
    client.open("user:42")
    client.move("pay_1", "world", "user:42", 1250, metadata={"order": "A-19"})
    (block,) = re.findall(rf"```{tool}\n(.*?)```", PAGE, re.DOTALL)
    assert undated(block) in undated(export(environment, tool))


def undated(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d\.\d{6}Z)?", "DATE", text)
