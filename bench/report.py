"""`python -m bench.report [--check]`: write the tables and plots of docs/performance.md from the newest results.

A table, or the link to a plot, is between the markers `<!-- begin NAME -->` and `<!-- end -->`; the text around it is
written by hand. With `--check` nothing is written, and the exit code is 1 if the document or a plot is not what the
results give.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from bench import plots, results, tables, targets
from bench.processes import ROOT
from bench.results import Results

DOCUMENT = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"
TABLES: dict[str, Callable[[Results], str]] = {
    "machine": tables.machine,
    "targets": targets.render,
    "throughput": tables.throughputs,
    "latency": tables.latencies,
    "overload": tables.overloads,
    "locked": tables.locks,
    "growth-rates": tables.growth_rates,
    "growth-costs": tables.growth_costs,
    "sizes": tables.index_sizes,
    "memory": tables.memories,
}
NOT_MEASURED = "Not measured."
MARKED = re.compile(r"(<!-- begin ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(found: Results) -> dict[Path, str]:
    """The text of the document and of each plot, by path."""
    drawn = plots.render(found)
    parts = {f"plot-{name}": f"![{name}]({PLOTS.name}/{name}.svg)" for name in drawn}
    parts |= {name: make_table(found) for name, make_table in TABLES.items()}
    text = DOCUMENT.read_text("utf-8")
    text = MARKED.sub(lambda match: f"{match[1]}{parts.get(match[2], NOT_MEASURED)}\n{match[3]}", text)
    return {DOCUMENT: text, **{PLOTS / f"{name}.svg": content for name, content in drawn.items()}}


def write(found: Results) -> None:
    """Write the document and the plots."""
    PLOTS.mkdir(exist_ok=True)
    for path, content in render(found).items():
        path.write_text(content, "utf-8")
        print(f"written: {path.relative_to(ROOT)}")


def main(arguments: list[str]) -> int:
    """Write, or check; returns the exit code."""
    found = results.newest()
    if arguments != ["--check"]:
        write(found)
        return 0
    old = [path for path, text in render(found).items() if not path.exists() or path.read_text("utf-8") != text]
    for path in old:
        print(f"{path.relative_to(ROOT)} is not what {found.path.name} gives: run python -m bench.report")
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
