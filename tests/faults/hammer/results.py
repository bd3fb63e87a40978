"""The results of the last full run: tests/faults/results/hammer.json, from which docs/reliability.md is written."""

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.hammer.checker import DOUBLED, LOST
from tests.faults.hammer.run import Occurrence, Outcome
from tests.support.live import ROOT

PATH = ROOT / "tests" / "faults" / "results" / "hammer.json"


def save(outcome: Outcome, load_before: float) -> None:
    """Write the results, also those of a run that found violations."""
    by_name: dict[str, list[Occurrence]] = {}
    for occurrence in outcome.occurrences:
        by_name.setdefault(occurrence.name, []).append(occurrence)
    counts = outcome.counts()
    results = {
        "run": describe(outcome, load_before),
        "counts": counts | {"lost": outcome.of_kind(LOST), "doubled": outcome.of_kind(DOUBLED)},
        "violations": Counter(violation.kind for violation in outcome.violations),
        "faults": {name: summarise(found) for name, found in sorted(by_name.items())},
    }
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def summarise(occurrences: list[Occurrence]) -> dict[str, float]:
    """How often a fault happened, and the times until each replica acknowledged a write again."""
    recoveries = [seconds for occurrence in occurrences for seconds in occurrence.recovery_seconds]
    return {
        "times": len(occurrences),
        "recovery_median_seconds": round(statistics.median(recoveries), 2),
        "recovery_max_seconds": round(max(recoveries), 2),
        "slowest_response_seconds": round(max(occurrence.slowest_seconds for occurrence in occurrences), 2),
    }


def describe(outcome: Outcome, load_before: float) -> dict[str, Any]:
    """What the figures depend on: the date, the machine, the versions and the command."""
    options = outcome.options
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "command": f"make faults SECONDS={options.seconds:.0f} SEED={options.seed}",
        "minutes": round(outcome.seconds / 60, 1),
        "machine": f"{os.cpu_count()} cores ({cpu_model()}), {platform.system()} {platform.release()}",
        "load before": f"{load_before:.1f} (mean of one minute)",
        "versions": f"Python {platform.python_version()}, PostgreSQL {outcome.server_version} with fsync on",
    }


def commit() -> str:
    """The commit of the tested code, with "+" if files were changed since."""
    head = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip()
    status = ["git", "status", "--porcelain", "--untracked-files=no"]
    return head + "+" * bool(subprocess.check_output(status, cwd=ROOT, text=True))


def cpu_model() -> str:
    """The name of the CPU, as Linux says it, or of its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load() -> dict[str, Any]:
    """The results of the last run."""
    results: dict[str, Any] = json.loads(PATH.read_text("utf-8"))
    return results
