"""Commands and responses that a page of the documentation shows: run the commands, and compare the responses.

The convention of such a page:
- The ```sh blocks are shell scripts. Each response that is not redirected is one line on stdout.
- The ```json blocks hold one object for each of these responses, in the same order, as JSON with an indent of 2.
- A line `…` means that at least one further member of that object is left out. Without it, the object is complete.
- `request_id`, `created_at` and `resolved_at` vary from run to run, so only their form is compared.
"""

import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHELL_SECONDS = 60  # the longest script takes under 2 s on an idle machine

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
VARIABLE = {"request_id": r"[A-Za-z0-9._:-]+", "created_at": TIME, "resolved_at": TIME}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run(script: str, port: str, folder: Path) -> list[Any]:
    """Run a shell script, which finds the service's port in PORT. Returns the response on each line of its stdout."""
    shell = {"PATH": os.environ["PATH"], "PORT": port}
    done = subprocess.run(
        ["sh", "-eu", "-c", script], cwd=folder, env=shell, capture_output=True, text=True, timeout=SHELL_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(text: str, responses: list[Any]) -> list[str]:
    """The differences between the text of the ```json blocks and the responses, in order."""
    shown = read_objects(text)
    if len(shown) != len(responses):
        return [f"{len(shown)} responses are shown, and {len(responses)} were returned"]
    return list(differences(shown, responses))


def read_objects(text: str) -> list[dict[str, Any]]:
    """The objects of the ```json blocks. A line `…` becomes a member whose name starts with `…`."""
    objects = re.findall(r"^\{\n.*?^\}\n", text, re.MULTILINE | re.DOTALL)
    assert "".join(objects) == text, "a json block holds something other than objects with an indent of 2"
    return [read_object(shown) for shown in objects]


def read_object(text: str) -> dict[str, Any]:
    number = itertools.count()
    named = re.sub(r"^( *)…$", lambda match: f'{match[1]}"…{next(number)}": null,', text, flags=re.MULTILINE)
    shown: dict[str, Any] = json.loads(re.sub(r",(\s*\})", r"\1", named))
    formatted = re.sub(r'"…\d+": null,?', "…", json.dumps(shown, indent=2, ensure_ascii=False))
    assert formatted == text.strip(), f"not formatted as JSON with an indent of 2:\n{text}"
    return shown


def differences(shown: Any, real: Any, path: str = "") -> Iterator[str]:
    """One sentence for each difference between what a page shows and what the service returned."""
    if isinstance(shown, dict) and isinstance(real, dict):
        named = [name for name in shown if not name.startswith("…")]
        left_out = [name for name in real if name not in named]
        if bool(left_out) != (len(named) < len(shown)):
            yield f"{path}/… is {'missing' if left_out else 'superfluous'}: left out are {left_out}"
        for name in named:
            if name not in real:
                yield f"{path}/{name} is not in the response"
            elif name in VARIABLE and isinstance(real[name], str):
                if not (isinstance(shown[name], str) and re.fullmatch(VARIABLE[name], shown[name])):
                    yield f"{path}/{name} has another form than {real[name]!r}"
            else:
                yield from differences(shown[name], real[name], f"{path}/{name}")
    elif isinstance(shown, list) and isinstance(real, list) and len(shown) == len(real):
        for index, (one, other) in enumerate(zip(shown, real, strict=True)):
            yield from differences(one, other, f"{path}/{index}")
    elif type(shown) is not type(real) or shown != real:
        yield f"{path} is {shown!r} on the page and {real!r} in the response"
