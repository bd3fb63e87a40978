"""The file of results: bench/results/DATE.json. It is saved after each measurement, so a failure loses nothing.

    {"machine": {…}, "sections": {SECTION: {"commit": …, "cases": {CASE: [MEASUREMENT of round 1, of round 2, …]}}}}

A measurement is an object of numbers; the unit is the end of the name. A run replaces the sections that it measures.
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"

Measurement = dict[str, float]
Cases = dict[str, list[Measurement]]


@dataclass
class Results:
    """The results of one day."""

    path: Path
    machine: dict[str, Any]
    sections: dict[str, dict[str, Any]]

    def begin(self, section: str, facts: dict[str, Any]) -> None:
        """Start a section again, without the cases of an earlier run."""
        self.sections[section] = {**facts, "cases": {}}
        self.save()

    def add(self, section: str, case: str, measurement: Measurement) -> None:
        """Append one round of a case, save, and print it."""
        rounded = {name: float(f"{value:.5g}") for name, value in measurement.items()}
        self.sections[section]["cases"].setdefault(case, []).append(rounded)
        self.save()
        print(f"  {case:40}", *(f"{name}={value:,.6g}" for name, value in rounded.items() if value), flush=True)

    def set_fact(self, section: str, name: str, value: Any) -> None:
        self.sections[section][name] = value
        self.save()

    def cases(self, section: str) -> Cases:
        """The cases of a section; empty if it was not measured."""
        found: Cases = self.sections.get(section, {}).get("cases", {})
        return found

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": self.machine, "sections": self.sections}, indent=1)
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(text + "\n", "utf-8")
        unfinished.replace(self.path)


def load(path: Path) -> Results:
    """The results of the file, or empty ones if there is none."""
    content = json.loads(path.read_text("utf-8")) if path.exists() else {"machine": {}, "sections": {}}
    return Results(path, content["machine"], content["sections"])


def newest() -> Results:
    """The results of the newest day; empty ones if nothing was measured."""
    return load(max(FOLDER.glob("*.json"), default=FOLDER / "none.json"))


def median(cases: Cases, case: str, name: str) -> float | None:
    """The median of the rounds; None if it was not measured."""
    values = [measurement[name] for measurement in cases.get(case, []) if name in measurement]
    return statistics.median(values) if values else None


def limits(cases: Cases, case: str, name: str) -> tuple[float, float]:
    """The lowest and the highest value of the rounds."""
    values = [measurement[name] for measurement in cases[case] if name in measurement]
    return min(values), max(values)
