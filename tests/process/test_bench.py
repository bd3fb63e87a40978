"""`make bench`: its document is what its results give, and a short run works."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPORT_SECONDS = 30
SMOKE_SECONDS = 180  # a short run of one section takes about 20 s


def run(*arguments: str, seconds: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )


def test_the_document_is_what_the_newest_results_give() -> None:
    """Each table and plot of docs/performance.md is generated from the newest file of bench/results/."""
    done = run("bench.report", "--check", seconds=REPORT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unknown_section_is_refused() -> None:
    """The message lists the sections."""
    done = run("bench", "--only", "unknown", seconds=REPORT_SECONDS)
    assert done.returncode == 2
    assert "throughput, latency, overload, locked, growth, memory" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_short_run_measures_a_section() -> None:
    """One round of the section latency ends with figures and without an error."""
    done = run("bench", "--rounds", "1", "--seconds", "1", "--only", "latency", seconds=SMOKE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = [line.removeprefix("results: ") for line in done.stdout.splitlines() if line.startswith("results: ")]
    section = json.loads(Path(path).read_text("utf-8"))["sections"]["latency"]
    assert "error" not in section
    assert all(found["rate"] > 0 for rounds in section["cases"].values() for found in rounds)
