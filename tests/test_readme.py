"""The README's commands are run as they stand there, and answer what stands below them."""

import os
import re
import subprocess
from pathlib import Path

from tests import live

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")

# What only a run can know: times, and ids of requests.
UNKNOWN = [(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "TIME"), (r'"request_id": "[^"]*"', '"request_id": "ID"')]


def plain(text: str) -> str:
    for pattern, word in UNKNOWN:
        text = re.sub(pattern, word, text)
    return text.strip()


def test_the_commands_answer_what_it_shows(environment: dict[str, str]) -> None:
    """One shell runs every block on new books; what it prints is every block of answers."""
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
    answers = "".join(re.findall(r"^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
    with live.serving(environment) as service:
        port = service.url.rpartition(":")[2]
        shell = {"PATH": os.environ["PATH"], "PORT": port}
        done = subprocess.run(["sh", "-c", commands], env=shell, capture_output=True, text=True)
    assert plain(done.stdout) == plain(answers)


def test_its_make_targets_exist() -> None:
    """Every `make …` that it names is a target."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) <= targets | {"and"}


def test_it_shows_where_every_room_is() -> None:
    """Each module and folder of its map exists."""
    section = README.partition("## Where things are")[2].partition("##")[0]
    places = re.findall(r"^    ((?:[a-z0-9_./]+ +)+?) ", section, re.MULTILINE)
    named = [place for line in places for place in line.split()]
    assert len(named) > 10
    assert all((ROOT / place).exists() for place in named), named


def test_it_stays_short() -> None:
    """Everything else has its place in docs/."""
    assert len(README.splitlines()) <= 160
