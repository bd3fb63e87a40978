"""docs/ and CHANGELOG.md say what the code does: names, numbers, codes and links are held against it."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service import __main__ as start
from service import app, audit, database, readiness, server
from service.contract import LIMITS, PROBLEMS
from service.ledger import holds
from service.ledger.audit import CHECKS
from service.migrate import __main__ as migrate
from service.migrate import runner

ROOT = Path(__file__).parents[1]
CONTRACT = (ROOT / "docs/contract.md").read_text("utf-8")
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")
RECORDS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
PAGES = [*ROOT.glob("README.md"), ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCE = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "service").rglob("*.py")))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
PARTS = ("Context", "Decision", "What is given up", "The four questions")
ASKED = ("How does the simpler option fail?", "Is it reversible?", "Who can operate it?", "Is it a present problem?")


def section(page: str, heading: str) -> str:
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(text: str, header: str) -> dict[str, list[str]]:
    """The table whose first header cell is this: the other cells of each row by its first one, without code marks."""
    table = re.split(rf"^\| {header} \|.*\n\|.*\n", text, maxsplit=1, flags=re.MULTILINE)[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.replace("`", "").split("|")[1:-1]] for line in table.strip().splitlines()]
    return {first: others for first, *others in cells}


def test_every_metric_is_documented() -> None:
    """The table of metrics has each of our names as Prometheus shows it, and no other."""
    ours = [metric for metric in REGISTRY.collect() if metric.name.startswith(("ledger_", "http_server_"))]
    assert rows(OPERATIONS, "metric").keys() == {m.name + "_total" * (m.type == "counter") for m in ours}


def test_every_event_is_documented() -> None:
    """The table of events has each event that the code logs, and no other."""
    found = re.findall(r'"event": "([a-z.]+)"(?: if .+ else "([a-z.]+)")?', SOURCE)
    assert rows(OPERATIONS, "event").keys() == {event for pair in found for event in pair if event}


def test_every_field_of_the_log_is_documented() -> None:
    """The table of fields has each field that the code gives to a line of the log, and no other."""
    calls = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Call)]
    extras = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "extra"]
    given = {ast.literal_eval(key) for extra in extras if isinstance(extra, ast.Dict) for key in extra.keys if key}
    always = re.findall(r'log_data\["(\w+)"\] =', SOURCE)
    always += re.findall(r'"((?:request|trace|span)_id|(?:db|queue)_ms)": \w', SOURCE)
    assert rows(OPERATIONS, "field").keys() == given | set(always)


def test_every_problem_is_documented() -> None:
    """The table of problems is the catalogue: slug, status, advice and members."""
    catalogue = {slug: [str(entry.status), entry.retry, ", ".join(entry.members)] for slug, entry in PROBLEMS.items()}
    assert rows(CONTRACT, "problem") == catalogue


def test_every_limit_is_documented() -> None:
    """The table of limits has each name of limits.json with its number."""
    assert {name: int(number) for name, (number, _) in rows(CONTRACT, "name").items()} == vars(LIMITS)


def test_every_timeout_is_that_of_the_code() -> None:
    """The table of limits and timeouts names what the code uses, with its number."""
    nowhere: Any = SimpleNamespace(host="", port=0)
    known = {**database.CONNECT, **vars(LIMITS), **server.settings(nowhere)}
    known |= dict(re.findall(r"SET (\w+) = '([0-9]+)m?s'", database.SESSION))
    for module in (app, database, holds, readiness, runner, server):
        known |= {name: value for name, value in vars(module).items() if name.isupper()}
    table = rows(section(OPERATIONS, "Limits and timeouts"), "name")
    told = {name: float(cells[0].split()[0]) for name, cells in table.items()}
    assert told == {name: float(known[name]) for name in told}


@pytest.mark.parametrize(("heading", "command"), [("Starting", start), ("Migrations", migrate), ("The audit", audit)])
def test_every_exit_code_is_documented(heading: str, command: Any) -> None:
    """Each code in a command's source and docstring stands in the table of its section, with 2 for a wrong command."""
    named = {name: value for name, value in vars(command).items() if name.startswith("EXIT_")}
    codes = [2, *named.pop("EXIT_CODES", {}).values(), *named.values()]
    law = re.findall(r"[:·]\s([0-9]+) ", command.__doc__)
    assert rows(section(OPERATIONS, heading), "exit code").keys() == {*map(str, codes), *law}


def test_every_check_of_the_audit_is_documented() -> None:
    """The table of checks has each of them, in the order in which they run."""
    assert list(rows(section(OPERATIONS, "The audit"), "check")) == list(CHECKS)


def test_every_promise_has_a_test() -> None:
    """Promises are numbered without gaps, and the markers on the tests name each of them and no other number."""
    numbers = re.findall(r"^([0-9]+)\. ", section(CONTRACT, "Promises"), re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    markers = [re.findall(r"@pytest\.mark\.promise\(([0-9, ]+)\)", path.read_text("utf-8")) for path in TESTS]
    assert {number for found in markers for marker in found for number in marker.split(", ")} == set(numbers)


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
def test_every_decision_is_complete(record: Path) -> None:
    """A record is numbered without gaps, linked from the index, short, and has its parts and all four questions."""
    text = record.read_text("utf-8")
    assert record.name.startswith(f"{RECORDS.index(record) + 1:04}-")
    assert f"({record.name})" in (record.parent / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 30
    assert re.findall(r"^#+ (.+)", text, re.MULTILINE)[1:] == list(PARTS)
    assert tuple(re.findall(r"^- ([^?]+\?) \S", text, re.MULTILINE)) == ASKED


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Each relative link of a page is a file that is there."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
