"""docs/recipes.md: the commands of each recipe run against a real service and return what the page shows.

The page follows the convention of tests/support/documented.py. From a comment line with a time on, the clock of the
database is stopped at this time. The functions before the first recipe are known to every recipe.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.migrate import runner
from service.migrate.files import read_files
from tests.support import documented, live
from tests.support.documented import blocks, compare
from tests.support.host_proxy import proxying
from tests.support.ledger import Clock, Urls

ROOT = Path(__file__).parents[2]
PREFACE, *TEXTS = re.split(r"^## ", (ROOT / "docs/recipes.md").read_text("utf-8"), flags=re.MULTILINE)
RECIPES = {text.splitlines()[0]: text for text in TEXTS}
FUNCTIONS = "".join(blocks(PREFACE, "sh"))
SPENDING_LIMIT = "4. A spending limit per day"
SEVERAL_LEDGERS = "8. Several ledgers behind one proxy"
BOTH_AT_ONCE = """
spend pay_1 7000 > first &
spend pay_2 7000 > second &
wait
cat first second
"""


@pytest.fixture(scope="module")
def service(environment: dict[str, str]) -> Iterator[live.Live]:
    """One process for all recipes."""
    with live.serving(environment) as running:
        yield running


@pytest.fixture
def port(service: live.Live) -> str:
    return port_of(service)


def port_of(service: live.Live) -> str:
    return service.url.rpartition(":")[2]


def scripts(recipe: str) -> list[tuple[str, str]]:
    """The scripts of a recipe, each with the time of the clock, which is empty if the recipe has none."""
    first, *rest = re.split(r"^# ([0-9T:-]+Z)\n", "".join(blocks(recipe, "sh")), flags=re.MULTILINE)
    return [("", first), *zip(rest[::2], rest[1::2], strict=True)]


def run(script: str, port: str, folder: Path) -> list[Any]:
    return documented.run(FUNCTIONS + script, port, folder)


@pytest.mark.parametrize("title", [title for title in RECIPES if title != SEVERAL_LEDGERS])
def test_a_recipe_returns_what_it_shows(
    title: str, port: str, clock: Clock, owner: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """Each response that the commands of the recipe print is the one shown, in order."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    owner.execute("UPDATE journal SET last_at = '2000-01-01Z'")  # the times of the recipes are after it
    responses = []
    for time, script in scripts(RECIPES[title]):
        if time:
            clock.stop(datetime.fromisoformat(time))
        responses += run(script, port, tmp_path)
    assert responses
    assert compare("".join(blocks(RECIPES[title], "json")), responses) == []


def test_two_ledgers_behind_one_proxy_are_separate(
    service: live.Live,
    environment: dict[str, str],
    new_database: Callable[[], AbstractContextManager[Urls]],
    tmp_path: Path,
) -> None:
    """Two services on two databases return what the recipe shows, with the host names of its configuration."""
    recipe = RECIPES[SEVERAL_LEDGERS]
    names = re.findall(r"server_name (\S+);", "".join(blocks(recipe, "nginx")))
    with new_database() as database:
        with psycopg.connect(database.owner, autocommit=True) as connection:
            runner.up(connection, read_files())
        with live.serving(environment | {"DATABASE_URL": database.service}) as second:
            ports = dict(zip(names, [port_of(service), port_of(second)], strict=True))
            with proxying(ports) as port:
                responses = run("".join(blocks(recipe, "sh")), port, tmp_path)
    assert compare("".join(blocks(recipe, "json")), responses) == []


@pytest.mark.parametrize(("max_balance", "reasons"), [("10000", {None, "max-balance-exceeded"}), ("null", {None})])
def test_two_payments_at_once_stay_within_the_limit(
    max_balance: str, reasons: set[str | None], port: str, tmp_path: Path
) -> None:
    """Of two payments of 7000 at the same time, one is refused by the limit of 10000; without it, both are posted."""
    setup, _ = blocks(RECIPES[SPENDING_LIMIT], "sh")
    setup = setup.replace('"max_balance": 10000', f'"max_balance": {max_balance}')
    responses = run(setup + BOTH_AT_ONCE, port, tmp_path)
    assert len(responses) == 2
    assert {response.get("reason") for response in responses} == reasons


@pytest.mark.parametrize("title", RECIPES)
def test_each_recipe_is_numbered_and_has_commands_and_responses(title: str) -> None:
    """So the tests above run each recipe, and no block has a language that they do not know."""
    assert title.startswith(f"{list(RECIPES).index(title) + 1}. ")
    languages = set(re.findall(r"^```(\w*)\n.*?^```$", RECIPES[title], re.MULTILINE | re.DOTALL))
    assert languages - {"nginx"} == {"sh", "json"}
