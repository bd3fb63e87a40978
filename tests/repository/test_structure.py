"""The structure of the repository, as far as a machine can check it: layers, names, sizes, SQL, configuration."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dotenv
import pytest

from service import metrics
from service.config import ConfigError, load

ROOT = Path(__file__).parents[2]
SERVICE = sorted((ROOT / "service").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TOOLS = sorted(path for folder in ("bench", "dev", "examples") for path in (ROOT / folder).glob("*.py"))

FILE_LINES = 400  # a longer file covers two subjects
FUNCTION_LINES = 40  # a longer function does not fit on a screen

# From top to bottom. A module imports its own layer or a lower one. docs/architecture.md describes them.
LAYERS = [
    (
        *("service.__main__", "service.server", "service.worker", "service.log_writer"),
        *("service.audit", "service.export", "service.migrate.__main__"),
    ),
    ("service.http",),
    ("service.ledger",),
    ("service.database", "service.session", "service.readiness", "service.migrate"),
    ("service.errors", "service.config", "service.logs", "service.metrics", "service.drain", "service.contract"),
]
SPEAKS_SQL = ("service.ledger", "service.migrate")
READS_ENVIRONMENT = {"service.__main__", "service.audit", "service.export", "service.migrate.__main__"}
# The HTTP side and the SQL side of one resource have the same name, and so have a command and what it runs.
SHARED_NAMES = {"accounts", "transfers", "holds", "trial_balance", "audit", "__init__", "__main__"}


def module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def layer(name: str) -> int:
    """The number of the module's layer, from the top; the package itself is below all layers."""
    matches = [
        (len(prefix), number)
        for number, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if name == prefix or name.startswith(f"{prefix}.")
    ]
    assert matches or name == "service", f"{name} has no layer"
    return max(matches)[1] if matches else len(LAYERS)


def imports(path: Path, package: str = "service") -> Iterator[str]:
    """The modules of the package that a file imports."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                target = ROOT / name.replace(".", "/")
                yield name if target.is_dir() or target.with_suffix(".py").exists() else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == package)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef))


def lines_of(node: ast.FunctionDef | ast.ClassDef) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("path", SERVICE, ids=module)
def test_a_module_imports_its_own_layer_or_a_lower_one(path: Path) -> None:
    """No module imports a higher layer."""
    here = module(path)
    above = [there for there in imports(path) if layer(there) < layer(here)]
    assert not above, f"{here} imports {above}"


def test_only_http_and_the_commands_know_http() -> None:
    """The modules of the ledger and below do not import the HTTP side or the WSGI types."""
    for path in SERVICE:
        if layer(module(path)) > layer("service.http"):
            assert not [name for name in imports(path) if name.startswith("service.http")], path
            assert "wsgiref" not in path.read_text("utf-8"), path


def test_the_service_does_not_need_the_tests_or_the_tools() -> None:
    """A container has only service/ and sql/."""
    for package in ("tests", "dev", "bench", "examples"):
        assert not [path for path in SERVICE if list(imports(path, package))]
    assert not [path for path in (ROOT / "dev").glob("*.py") if list(imports(path, "tests"))]


def test_tests_do_not_import_benchmarks() -> None:
    """What tests and benchmarks share is in tests/support/ or dev/."""
    assert not [path for path in TESTS if list(imports(path, "bench"))]


def test_two_modules_do_not_share_a_name() -> None:
    """Except the two sides of one resource."""
    counts = Counter(path.stem for path in SERVICE)
    assert {name for name, count in counts.items() if count > 1} <= SHARED_NAMES


@pytest.mark.parametrize("path", SERVICE + TOOLS, ids=module)
def test_a_module_has_docstrings(path: Path) -> None:
    """Every module, and every public function and class of more than ten lines."""
    assert ast.get_docstring(tree(path)), path
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or lines_of(node) <= 10, f"{path.name}: {node.name} has no docstring"


@pytest.mark.parametrize("path", [path for path in TESTS if path.name.startswith("test_")], ids=module)
def test_a_test_states_its_property(path: Path) -> None:
    """Every test has a docstring."""
    for function in functions(path):
        if function.name.startswith("test_"):
            assert ast.get_docstring(function), f"{path.name}: {function.name}"


@pytest.mark.parametrize("path", SERVICE + TOOLS + TESTS, ids=module)
def test_files_and_functions_are_short(path: Path) -> None:
    """At most FILE_LINES lines in a file and FUNCTION_LINES in a function."""
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= FILE_LINES, f"{path} has {lines} lines"
    long = {function.name: lines_of(function) for function in functions(path) if lines_of(function) > FUNCTION_LINES}
    assert not long, f"{path}: {long}"


def test_only_entry_points_read_the_environment() -> None:
    """Configuration is read once, from a mapping that is passed on."""
    readers = {module(path) for path in SERVICE if re.search(r"\bos\.environ|\bos\.getenv", path.read_text("utf-8"))}
    assert readers == READS_ENVIRONMENT


def test_only_the_ledger_and_the_migrations_contain_sql() -> None:
    """A statement that names a table is in the module that runs it."""
    statement = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE TABLE)\s+\w")
    for path in SERVICE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and statement.search(node.value):
                assert module(path).startswith(SPEAKS_SQL), f"{path}: {node.value[:60]}"


def test_sql_is_not_built_from_strings() -> None:
    """Statements are literals or psycopg.sql compositions of literals; mypy checks the rest (LiteralString)."""
    for path in SERVICE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "execute":
                inside = list(ast.walk(node.args[0]))
                assert not any(isinstance(part, ast.JoinedStr | ast.Mod) for part in inside), f"{path}: {node.lineno}"


def test_labels_of_metrics_come_from_code() -> None:
    """The label names are known; tests/api/test_operations.py checks the values of the route label."""
    known = {"http_request_method", "http_route", "http_response_status_code", "reason", "status", "which", "version"}
    for metric in vars(metrics).values():
        assert set(getattr(metric, "_labelnames", ())) <= known


def test_every_variable_is_documented() -> None:
    """The code reads exactly the variables of .env.example, and of the table in README.md."""
    with pytest.raises(ConfigError) as caught:
        load(dict.fromkeys(dotenv.dotenv_values(ROOT / ".env.example"), "="))
    of_code = {error.split()[0] for error in caught.value.errors} | {"MIGRATE_DATABASE_URL", "HOST"}
    example = set(dotenv.dotenv_values(ROOT / ".env.example"))
    table = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    assert of_code == example == table


def test_every_package_is_pinned() -> None:
    """Every installation gets the same versions."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9A-Za-z.]+", line) for line in lines)


def test_the_limits_of_the_schema_are_those_of_the_contract() -> None:
    """Every large number in the first migration is 2^53-1."""
    text = (ROOT / "sql" / "0001_accounts_and_transfers.sql").read_text("utf-8")
    assert set(re.findall(r"\d{10,}", text)) == {str(2**53 - 1)}
