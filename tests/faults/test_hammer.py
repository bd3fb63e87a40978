"""A short run of the hammer with every fault, and a run on a broken service, in which it must find violations.

`make faults` takes longer. The hammer is a process of its own, because it runs with greenlets.
"""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.hammer import report, results
from tests.faults.hammer.nemesis import FAULTS, available
from tests.support import live

RUN_SECONDS = 480.0  # a run of all faults takes 90 s, and 150 s on a busy machine
REPORT_SECONDS = 30.0
OUTAGE_SECONDS = 3
BROKEN_SECONDS = 10  # the fault happens several times, because each time only a commit in progress is hit
# What the faults must hit, so that a run without violations says something.
LEAST_ACKNOWLEDGED = 1000


def hammer(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of the hammer. At the limit, all processes that it started are killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.hammer", "--seconds", "0", *arguments],
        cwd=live.ROOT,
        env=os.environ | {"TMPDIR": str(folder)},  # the history of a run with violations stays there
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def count_of(name: str, output: str) -> int:
    """The count in the line with this name."""
    [count] = re.findall(rf"^ *([0-9,]+)  {name}", output, re.MULTILINE)
    return int(count.replace(",", ""))


@pytest.mark.slow
def test_no_acknowledged_write_is_lost_or_doubled_under_faults(tmp_path: Path) -> None:
    """Each fault that this user can inject happens once, and history and ledger agree."""
    code, output = hammer(tmp_path, "--outage", str(OUTAGE_SECONDS))
    assert code == 0, output
    injected, _ = available(list(FAULTS))
    assert Counter(re.findall(r"^([a-z-]+) +[0-9.]+ s, recovery", output, re.MULTILINE)) == Counter(injected), output
    assert count_of("acknowledged", output) >= LEAST_ACKNOWLEDGED
    assert count_of("unknown at first", output) > 0


@pytest.mark.parametrize(
    ("build", "fault", "kind"),
    [
        pytest.param("acknowledge_before_the_flush", "postgres-restarted", "lost", marks=pytest.mark.slow),
        pytest.param("swallow_the_error_of_commit", "commit-responses-lost", "changed", marks=pytest.mark.faults),
        pytest.param("retry_with_a_new_id", "commit-responses-lost", "doubled", marks=pytest.mark.faults),
    ],
)
def test_the_hammer_finds_what_a_broken_service_does(tmp_path: Path, build: str, fault: str, kind: str) -> None:
    """Broken on purpose: acknowledged writes are lost, have other values, or are in the ledger under a second id."""
    code, output = hammer(tmp_path, "--broken", build, "--only", fault, "--seconds", str(BROKEN_SECONDS))
    assert code == 1, output
    assert f"('{kind}', " in output


def test_the_document_is_what_the_results_give() -> None:
    """The figures of docs/reliability.md are those of tests/faults/results/hammer.json."""
    text = report.DOCUMENT.read_text("utf-8")
    assert report.render(text, results.load()) == text


def test_every_test_that_the_document_names_exists() -> None:
    """Each `FILE::TEST` of docs/reliability.md is a test of that file."""
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_\w+)`", report.DOCUMENT.read_text("utf-8"))
    assert named
    missing = [name for path, name in named if f"def {name}(" not in (live.ROOT / path).read_text("utf-8")]
    assert not missing


def test_an_unknown_fault_is_refused() -> None:
    """The message lists the faults."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.hammer", "--only", "unknown"],
        cwd=live.ROOT,
        capture_output=True,
        text=True,
        timeout=REPORT_SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert "network-cut" in done.stderr
