"""README.md shows real commands and real responses, and docs/architecture.md names files and functions that exist."""

import ast
import itertools
import re
from pathlib import Path

import pytest

from service.http.app import ROUTES
from tests.support import documented, live
from tests.support.documented import blocks, compare

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text("utf-8")


def test_the_commands_return_what_the_readme_shows(environment: dict[str, str]) -> None:
    """One shell runs every command on an empty ledger, and each response is the one shown."""
    with live.serving(environment) as service:
        responses = documented.run("".join(blocks(README, "sh")), service.url.rpartition(":")[2], ROOT)
    assert len(responses) >= 8
    assert compare("".join(blocks(README, "json")), responses) == []


REAL = [{"id": "a", "amount": 1, "tags": ["x", "y"], "created_at": "2026-11-22T18:00:00.000000Z"}, {"balance": None}]
FIRST, SECOND = '{\n  "id": "a",\n  …\n}\n', '{\n  "balance": null\n}\n'


@pytest.mark.parametrize(
    "first",
    [
        FIRST,
        FIRST.replace("  …\n", '  …\n  "tags": [\n    "x",\n    "y"\n  ],\n  …\n'),
        FIRST.replace("  …\n", '  …\n  "created_at": "1999-01-01T00:00:00.000000Z"\n'),
    ],
    ids=["left out", "left out twice", "another time"],
)
def test_the_comparison_accepts_a_correct_readme(first: str) -> None:
    """Members may be left out if the line `…` marks it, and times may differ."""
    assert compare(first + SECOND, REAL) == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(FIRST.replace('"a"', '"b"') + SECOND, id="another value"),
        pytest.param(FIRST.replace("  …\n", '  "amount": true,\n  …\n') + SECOND, id="another type"),
        pytest.param(FIRST.replace('"id"', '"ids"') + SECOND, id="a member that does not exist"),
        pytest.param(FIRST.replace(",\n  …", "") + SECOND, id="a member left out without a mark"),
        pytest.param(FIRST + SECOND.replace("null", "null,\n  …"), id="a mark where nothing is left out"),
        pytest.param(FIRST.replace("  …\n", '  …\n  "tags": [\n    "x"\n  ]\n') + SECOND, id="a shorter array"),
        pytest.param(FIRST.replace("  …\n", '  …\n  "created_at": "today"\n') + SECOND, id="not a time"),
        pytest.param(FIRST + SECOND + SECOND, id="one response too many"),
        pytest.param(FIRST, id="one response too few"),
        pytest.param(SECOND + FIRST, id="another order"),
    ],
)
def test_the_comparison_finds_an_incorrect_readme(text: str) -> None:
    """A different or unknown member, and another number or order of responses, are differences."""
    assert compare(text, REAL) != []


@pytest.mark.parametrize("text", ['{\n    "id": "a"\n}\n', '{"id": "a"}\n', FIRST + "and then\n"])
def test_the_comparison_refuses_an_invalid_json_block(text: str) -> None:
    """A block that does not follow the convention is an error."""
    with pytest.raises(AssertionError):
        compare(text, REAL)


def test_the_api_table_equals_the_route_table() -> None:
    """The README's table has exactly the routes of the service, with their scopes."""
    section = README.split("\n## API\n")[1].split("\n## ")[0]
    table = {
        (request, scope)
        for requests, scope in re.findall(r"^\| (`.+?`) \| (\w+) \|", section, re.MULTILINE)
        for request in re.findall(r"`([^`]+)`", requests)
    }
    assert table == {(f"{route.method} {route.path}", route.scope or "none") for route in ROUTES}


def test_every_make_target_exists() -> None:
    """Every `make …` in the README and in CONTRIBUTING.md is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text("utf-8")):
        named = set(re.findall(r"`make ([a-z]+)", page)) | set(re.findall(r"^    make ([a-z]+)", page, re.MULTILINE))
        assert named
        assert named <= targets


def test_the_readme_has_at_most_200_lines() -> None:
    """Details are in docs/."""
    assert len(README.splitlines()) <= 200


def layers() -> list[list[str]]:
    """The modules of each layer, from the top, as the table of docs/architecture.md lists them."""
    table = ARCHITECTURE.split("\n## Layers\n")[1].split("\n## ")[0]
    return [re.findall(r"`([^`]+)`", cell) for cell in re.findall(r"^\| [^|]+ \| (`[^|]+) \|", table, re.MULTILINE)]


def test_every_module_is_in_one_layer() -> None:
    """The layers list each module and package of service/ once, and also the command of the migrations."""
    found = {
        path.stem for path in (ROOT / "service").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(itertools.chain(*layers())) == sorted(found - {"__init__"} | {"migrate.__main__"})


def test_every_file_of_the_map_exists() -> None:
    """This includes the folders of the map in docs/architecture.md."""
    folder, named = ROOT, []
    for start, rest in re.findall(r"^    (\S*) +(.+)", ARCHITECTURE, re.MULTILINE):
        folder = ROOT / start if start else folder
        named += [folder, *(folder / name for name in re.findall(r"[a-z_]+\.(?:py|json)", rest))]
    assert len(named) > 20
    assert [str(path) for path in named if not path.exists()] == []


def test_the_steps_of_a_request_are_functions_and_go_downwards() -> None:
    """Each step names an existing function, and no step is in a higher layer than the step before."""
    section = ARCHITECTURE.split("\n## One request")[1].split("\n## ")[0]
    steps = re.findall(r"^\d\. `([a-z_/]+\.py)` `([\w.]+)`", section, re.MULTILINE)
    assert len(steps) == len(re.findall(r"^\d\. ", section, re.MULTILINE)) > 5
    for file, function in steps:
        body: list[ast.stmt] = ast.parse((ROOT / "service" / file).read_text("utf-8")).body
        for name in function.split("."):
            (body,) = [n.body for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
    modules = [file.split("/")[0].removesuffix(".py") for file, _ in steps]
    depths = [next(depth for depth, layer in enumerate(layers()) if module in layer) for module in modules]
    assert depths == sorted(depths)
