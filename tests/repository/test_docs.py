"""The names, numbers, codes and links in docs/ and CHANGELOG.md agree with the code."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service import __main__ as start
from service import audit, database, log_writer, readiness, server, session, worker
from service.contract import LIMITS, PROBLEMS
from service.http import app
from service.ledger import accounts, clock, group
from service.ledger.audit import CHECKS
from service.migrate import __main__ as migrate
from service.migrate import runner

ROOT = Path(__file__).parents[2]
CONTRACT = (ROOT / "docs/contract.md").read_text("utf-8")
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")
RECORDS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SOURCE = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "service").rglob("*.py")))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
DECISION_PARTS = ("Context", "Decision", "What is given up", "The four questions")
QUESTIONS = (
    "How does the simpler option fail?",
    "Is it reversible?",
    "Who can operate it?",
    "Is it a present problem?",
)


def section(page: str, heading: str) -> str:
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(text: str, header: str) -> dict[str, list[str]]:
    """The table with this first header cell, without backquotes: the first cell of each row, and its other cells."""
    table = re.split(rf"^\| {header} \|.*\n\|.*\n", text, maxsplit=1, flags=re.MULTILINE)[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.replace("`", "").split("|")[1:-1]] for line in table.strip().splitlines()]
    return {first: others for first, *others in cells}


def test_every_metric_is_documented() -> None:
    """The table of metrics has exactly the names of the service's metrics, as /metrics shows them."""
    ours = [metric for metric in REGISTRY.collect() if metric.name.startswith(("ledger_", "http_server_"))]
    assert rows(OPERATIONS, "metric").keys() == {m.name + "_total" * (m.type == "counter") for m in ours}


def test_every_event_is_documented() -> None:
    """The table of events has exactly the events that the code logs."""
    found = re.findall(r'"event": "([a-z._]+)"(?: if .+ else "([a-z._]+)")?', SOURCE)
    assert rows(OPERATIONS, "event").keys() == {event for pair in found for event in pair if event}


def test_every_log_field_is_documented() -> None:
    """The table of fields has exactly the fields that the code adds to log lines."""
    nodes = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Dict)]
    keys = [[key.value for key in node.keys if isinstance(key, ast.Constant)] for node in nodes]
    of_events = {str(name) for names in keys if "event" in names for name in names}
    of_all_lines = re.findall(r'log_data\["(\w+)"\] =', SOURCE)
    of_all_lines += re.findall(r'"((?:request|trace|span)_id|(?:db|queue)_ms)": \w', SOURCE)
    assert rows(OPERATIONS, "field").keys() == of_events | set(of_all_lines)


def test_every_problem_is_documented() -> None:
    """The table of problems equals the catalogue: slug, status, retry and members."""
    catalogue = {slug: [str(entry.status), entry.retry, ", ".join(entry.members)] for slug, entry in PROBLEMS.items()}
    assert rows(CONTRACT, "problem") == catalogue


def test_every_limit_is_documented() -> None:
    """The table of limits equals limits.json: names and numbers."""
    assert {name: int(number) for name, (number, _) in rows(CONTRACT, "name").items()} == vars(LIMITS)


def test_every_documented_timeout_equals_that_of_the_code() -> None:
    """The table of limits and timeouts has names of the code with their numbers."""
    config: Any = SimpleNamespace(host="", port=0)
    known = {**session.CONNECT, **vars(LIMITS), **server.gunicorn_settings(config)}
    known |= dict(re.findall(r"SET (\w+) = '([0-9]+)m?s'", session.SESSION))
    modules = (accounts, app, clock, database, group, log_writer, readiness, runner, server, session, start, worker)
    for module in modules:
        known |= {name: value for name, value in vars(module).items() if name.isupper()}
    table = rows(section(OPERATIONS, "Limits and timeouts"), "name")
    documented = {name: float(cells[0].split()[0]) for name, cells in table.items()}
    assert documented == {name: float(known[name]) for name in documented}


@pytest.mark.parametrize(("heading", "command"), [("Starting", start), ("Migrations", migrate), ("The audit", audit)])
def test_every_exit_code_is_documented(heading: str, command: Any) -> None:
    """The table has exactly the codes of the command's constants and docstring, and 2 for invalid arguments."""
    constants = {name: value for name, value in vars(command).items() if name.startswith("EXIT_")}
    codes = [2, *constants.pop("EXIT_CODES", {}).values(), *constants.values()]
    of_docstring = re.findall(r"[:·]\s([0-9]+) ", command.__doc__)
    assert rows(section(OPERATIONS, heading), "exit code").keys() == {*map(str, codes), *of_docstring}


def test_every_audit_check_is_documented() -> None:
    """The table of checks lists all checks in the order in which they run."""
    assert list(rows(section(OPERATIONS, "The audit"), "check")) == list(CHECKS)


def test_every_promise_has_a_test() -> None:
    """Promises are numbered without gaps, and the markers on the tests have exactly these numbers."""
    numbers = re.findall(r"^([0-9]+)\. ", section(CONTRACT, "Promises"), re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    markers = [re.findall(r"@pytest\.mark\.promise\(([0-9, ]+)\)", path.read_text("utf-8")) for path in TESTS]
    assert {number for found in markers for marker in found for number in marker.split(", ")} == set(numbers)


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
def test_every_decision_is_complete(record: Path) -> None:
    """The record has the next number, a link in the index, all parts, an answer to a question, and at most 30 lines."""
    text = record.read_text("utf-8")
    assert record.name.startswith(f"{RECORDS.index(record) + 1:04}-")
    assert f"({record.name})" in (record.parent / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 30
    assert re.findall(r"^#+ (.+)", text, re.MULTILINE)[1:] == list(DECISION_PARTS)
    answered = re.findall(r"^- ([^?]+\?) \S", text, re.MULTILINE)
    assert answered
    assert answered == [question for question in QUESTIONS if question in answered]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    """Each link that is not a URL is the path of an existing file or folder."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
