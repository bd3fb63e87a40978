"""The habits of the house, as far as a machine can hold them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import dotenv
import pytest

from service import metrics
from service.config import ConfigError, load

ROOT = Path(__file__).parents[1]
SERVICE = sorted((ROOT / "service").rglob("*.py"))
TESTS = sorted((ROOT / "tests").glob("*.py"))

FILE_LINES = 250
FUNCTION_LINES = 40
SERVICE_LINES = 3000  # of code: what is neither blank, nor a comment, nor a docstring

# From the roof to the ground. A module imports its own floor or lower ones.
FLOORS = [
    ("service.__main__", "service.server", "service.audit", "service.export"),
    ("service.wsgi",),
    ("service.app",),
    ("service.endpoints",),
    ("service.ledger", "service.wire", "service.callers", "service.readiness"),
    ("service.database", "service.migrate"),
    ("service.ledger.errors", "service.config", "service.logs", "service.metrics", "service.contract"),
]
SPEAKS_SQL = ("service.ledger", "service.migrate")
READS_ENVIRONMENT = {"service.__main__", "service.audit", "service.export", "service.migrate.__main__"}


def module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def floor(name: str) -> int:
    """The lowest floor whose rooms the module is in; the ground for the package itself."""
    for number, rooms in reversed(list(enumerate(FLOORS))):
        if any(name == room or name.startswith(f"{room}.") for room in rooms):
            return number
    assert name == "service", f"{name} has no floor"
    return len(FLOORS)


def imports(path: Path) -> Iterator[str]:
    """The modules of the service that a file imports."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "service":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (ROOT / whole.replace(".", "/")).is_dir() or (
                    ROOT / f"{whole.replace('.', '/')}.py"
                ).exists()
                yield whole if is_module else str(node.module)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef))


def code_lines(path: Path) -> int:
    documented = [
        node for node in ast.walk(tree(path)) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    docstrings = [node.body[0] for node in documented if ast.get_docstring(node)]
    within = {line for node in docstrings for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = enumerate(path.read_text("utf-8").splitlines(), start=1)
    return sum(number not in within and not re.fullmatch(r"\s*(#.*)?", line) for number, line in lines)


@pytest.mark.parametrize("path", SERVICE, ids=module)
def test_a_module_imports_its_own_floor_or_lower(path: Path) -> None:
    """Nothing calls up."""
    here = module(path)
    above = [there for there in imports(path) if floor(there) < floor(here)]
    assert not above, f"{here} imports {above}"


def test_the_ledger_does_not_know_http() -> None:
    """Rooms of one floor that are parted do not know each other."""
    for path in SERVICE:
        if module(path).startswith("service.ledger"):
            assert not {"service.wire", "service.callers", "service.readiness"} & set(imports(path)), path


@pytest.mark.parametrize("path", SERVICE + sorted((ROOT / "bench").glob("*.py")), ids=module)
def test_a_module_says_what_it_is(path: Path) -> None:
    """Every module has a docstring, and so has every public function and class of more than a few lines."""
    assert ast.get_docstring(tree(path)), path
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert ast.get_docstring(node) or lines <= 10, f"{path.name}: {node.name} has no docstring"


@pytest.mark.parametrize("path", [path for path in TESTS if path.name.startswith("test_")], ids=module)
def test_a_test_says_what_it_proves(path: Path) -> None:
    """Every test has one sentence about its property."""
    for function in functions(path):
        if function.name.startswith("test_"):
            assert ast.get_docstring(function), f"{path.name}: {function.name}"


def test_files_and_functions_stay_small() -> None:
    """What does not fit on a few screens is two things."""
    total = 0
    for path in SERVICE:
        total += code_lines(path)
        lines = len(path.read_text("utf-8").splitlines())
        assert lines <= FILE_LINES, f"{path} has {lines} lines"
        for function in functions(path):
            length = (function.end_lineno or 0) - function.lineno + 1
            assert length <= FUNCTION_LINES, f"{path.name}: {function.name} has {length} lines"
    assert total <= SERVICE_LINES


def test_only_the_doors_touch_the_environment() -> None:
    """Configuration is read once, from a mapping that is given."""
    readers = {module(path) for path in SERVICE if re.search(r"\bos\.environ|\bos\.getenv", path.read_text("utf-8"))}
    assert readers == READS_ENVIRONMENT


def test_sql_stands_in_the_ledger_and_the_migrations() -> None:
    """A statement that names a table stands in the function that runs it, and nowhere else."""
    statement = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE TABLE)\s+\w")
    for path in SERVICE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and statement.search(node.value):
                assert module(path).startswith(SPEAKS_SQL), f"{path}: {node.value[:60]}"


def test_sql_is_never_built_from_strings() -> None:
    """Statements are literals; what varies is a parameter."""
    for path in SERVICE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "execute":
                assert not isinstance(node.args[0], ast.JoinedStr | ast.BinOp), f"{path}: line {node.lineno}"


def test_labels_of_metrics_come_from_code() -> None:
    """Label names are few and known; test_operations holds their values."""
    known = {"http_request_method", "http_route", "http_response_status_code", "reason", "status", "which", "version"}
    for metric in vars(metrics).values():
        assert set(getattr(metric, "_labelnames", ())) <= known


def test_every_variable_is_documented() -> None:
    """What the code reads, what .env.example explains and what the README's table lists are the same."""
    with pytest.raises(ConfigError) as caught:
        load(dict.fromkeys(dotenv.dotenv_values(ROOT / ".env.example"), "="))
    asked = {fault.split()[0] for fault in caught.value.faults} | {"MIGRATE_DATABASE_URL", "HOST"}
    example = set(dotenv.dotenv_values(ROOT / ".env.example"))
    table = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    assert asked == example == table


def test_every_package_is_pinned() -> None:
    """A fresh machine gets what this one has."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9A-Za-z.]+", line) for line in lines)


def test_the_limits_of_the_schema_are_those_of_the_contract() -> None:
    """The number in the CHECKs of sql/ is the one of limits.json."""
    text = (ROOT / "sql" / "0001_accounts_and_transfers.sql").read_text("utf-8")
    assert set(re.findall(r"\d{10,}", text)) == {str(2**53 - 1)}
