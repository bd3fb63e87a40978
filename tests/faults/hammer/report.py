"""`python -m tests.faults.hammer.report [--check]`: write the figures of docs/reliability.md from the last results.

The figures are between the markers `<!-- begin NAME -->` and `<!-- end -->`; the text around them is written by hand.
With `--check` nothing is written, and the exit code is 1 if the document is not what the results give.
"""

import re
import sys
from typing import Any

from tests.faults.hammer import results
from tests.faults.hammer.nemesis import FAULTS
from tests.support.live import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
MARKED = re.compile(r"(<!-- begin ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)
RULE_OF_THREE = 3  # if 0 of n failed, the true rate is below 3/n with a confidence of 95 %
COUNTS = {
    "acknowledged": "writes acknowledged: applied or declined, each id counted once",
    "applied": "of these applied",
    "declined": "of these declined",
    "transfers": "transfers posted",
    "unknown_at_first": "writes of which at least one attempt had an unknown outcome",
    "unknown_at_the_end": "writes whose last attempt had an unknown outcome",
    "attempts": "attempts to write, with repeats",
    "attempts_refused": "of these refused as not applied",
    "requests": "HTTP requests with these attempts; a batch is one",
    "reads": "reads of an account, a transfer or a page of the feed, each compared with the order of the transfers",
    "faults": "faults",
    "lost": "**acknowledged and lost**",
    "doubled": "**applied twice**",
}


def render(text: str, found: dict[str, Any]) -> str:
    """The text of the document with the figures of these results."""
    parts = {"run": run_table(found), "counts": count_table(found), "faults": fault_table(found)}
    return MARKED.sub(lambda match: f"{match[1]}{parts[match[2]]}\n{match[3]}", text)


def run_table(found: dict[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in found["run"].items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def count_table(found: dict[str, Any]) -> str:
    """The counts, the violations, and the bound."""
    counts = found["counts"]
    rows = [f"| {label} | {counts[name]:,} |" for name, label in COUNTS.items()]
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(found["violations"].items()))
    rows.append(f"| violations of any kind | {kinds or 0} |")
    if not counts["lost"] + counts["doubled"]:
        bound = f"below {RULE_OF_THREE / counts['acknowledged']:.1e}"
        rows.append(f"| rate of lost or doubled writes under these faults, with a confidence of 95 % (3/n) | {bound} |")
    return "\n".join(["| count | |", "| --- | --- |", *rows])


def fault_table(found: dict[str, Any]) -> str:
    """One row for each fault: what it is, how often it happened, and the recovery."""
    rows = []
    for name, summary in found["faults"].items():
        what = (FAULTS[name].inject.__doc__ or "").strip()
        recovery = f"{summary['recovery_median_seconds']:.2f} | {summary['recovery_max_seconds']:.2f}"
        rows.append(
            f"| `{name}` | {what} | {summary['times']} | {recovery} | {summary['slowest_response_seconds']:.2f} |"
        )
    header = "| fault | what happens | times | recovery: median, s | recovery: longest, s | slowest response, s |"
    return "\n".join([header, "| --- | --- | --- | --- | --- | --- |", *rows])


def write() -> None:
    DOCUMENT.write_text(render(DOCUMENT.read_text("utf-8"), results.load()), "utf-8")


def main(arguments: list[str]) -> int:
    """Write, or check; returns the exit code."""
    if arguments != ["--check"]:
        write()
        return 0
    text = DOCUMENT.read_text("utf-8")
    if render(text, results.load()) == text:
        return 0
    print("docs/reliability.md is not what the results give: run python -m tests.faults.hammer.report")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
