"""The targets of the service, as ratios within one run on one machine, and whether the results meet them."""

from collections.abc import Callable
from dataclasses import dataclass

from bench import growth, locked, memory, overload, throughput
from bench.results import Results, median
from bench.tables import growth_sizes, number, table


@dataclass(frozen=True)
class Target:
    """A figure of the results, and the limit that it must reach (or, if `is_upper`, must not exceed)."""

    text: str
    limit: float
    figure: Callable[["Figures"], float | None]
    unit: str = ""
    is_upper: bool = False

    def row(self, figures: "Figures") -> list[str]:
        sign = "≤" if self.is_upper else "≥"
        found = self.figure(figures)
        wanted = f"{sign} {number(self.limit)}{self.unit}"
        if found is None:
            return [self.text, wanted, "not measured", ""]
        is_met = found <= self.limit if self.is_upper else found >= self.limit
        return [self.text, wanted, f"{number(found)}{self.unit}", "yes" if is_met else "**no**"]


@dataclass(frozen=True)
class Figures:
    """Access to the medians of the results."""

    results: Results

    def of(self, section: str, case: str, name: str = "rate") -> float | None:
        return median(self.results.cases(section), case, name)

    def service(self, case: str, name: str = "rate") -> float | None:
        return self.of(throughput.SECTION, f"service: {case}", name)

    def against_baseline(self, case: str) -> float | None:
        return ratio(self.service(case), self.of(throughput.SECTION, f"baseline: {case}"))

    def p99_by_p50(self, *cases: str) -> float | None:
        """The worst ratio of these cases."""
        return worst(max, [ratio(self.service(case, "p99_ms"), self.service(case, "p50_ms")) for case in cases])

    def smallest_growth_ratio(self) -> float | None:
        """The lowest rate at the most transfers, compared with the rate of the same kind at the fewest."""
        cases = self.results.cases(growth.SECTION)
        sizes = sorted(growth_sizes(cases), key=lambda size: int(size.split("/")[0]))
        if not sizes:
            return None
        kinds = ("spread", "batch", "read", "page")
        rates = [[self.of(growth.SECTION, f"{size} {kind}") for size in (sizes[-1], sizes[0])] for kind in kinds]
        return worst(min, [ratio(large, small) for large, small in rates])

    def smallest_goodput(self) -> float | None:
        """The lowest goodput of all numbers of connections, compared with the highest."""
        rates = [self.of(overload.SECTION, str(connections)) for connections in overload.CONNECTIONS]
        return ratio(worst(min, rates), worst(max, rates))

    def highest_health(self) -> float | None:
        """The slowest /health of all rounds beside the overload, in ms."""
        cases = self.results.cases(overload.SECTION)
        return worst(max, [found["health_max_ms"] for rounds in cases.values() for found in rounds])

    def memory_growth(self) -> float | None:
        """Memory after all requests, compared with that after half of them."""
        steps = self.results.cases(memory.SECTION).get("requests", [])
        if not steps:
            return None
        half = min(steps, key=lambda step: abs(step["requests"] - steps[-1]["requests"] / 2))
        return steps[-1]["pss_mb"] / half["pss_mb"]

    def last_memory(self) -> float | None:
        steps = self.results.cases(memory.SECTION).get("requests", [])
        return steps[-1]["pss_mb"] if steps else None


ONE_SPREAD, ONE_HOT = "one process, spread", "one process, hot"
TWO_SPREAD, TWO_HOT = "two processes, spread", "two processes, hot"
TARGETS = (
    Target("two processes, single transfers, × baseline", 4.5, lambda f: f.against_baseline(TWO_SPREAD)),
    Target("one process, single transfers, × baseline", 4, lambda f: f.against_baseline(ONE_SPREAD)),
    Target(
        "two processes, × psycopg interactive without HTTP and rules",
        1,
        lambda f: ratio(f.service(TWO_SPREAD), f.of(throughput.SECTION, "psycopg interactive: spread")),
    ),
    Target("one process: hot account, × spread", 0.95, lambda f: ratio(f.service(ONE_HOT), f.service(ONE_SPREAD))),
    Target("two processes: hot account, × spread", 0.95, lambda f: ratio(f.service(TWO_HOT), f.service(TWO_SPREAD))),
    Target(
        "p99 of spread and hot, × p50", 2.5, lambda f: f.p99_by_p50(ONE_SPREAD, ONE_HOT, TWO_SPREAD, TWO_HOT), "", True
    ),
    Target("one connection: p99, × p50", 3, lambda f: f.p99_by_p50("one connection"), "", True),
    Target("reads of one account, × baseline", 2.5, lambda f: f.against_baseline("reads")),
    Target("pages of 20 entries, × baseline", 2.5, lambda f: f.against_baseline("pages")),
    Target("batches of 1,000, × baseline", 1.4, lambda f: f.against_baseline("batches of 1,000")),
    Target(
        "accounts opened in batches of 1,000, × transfers in batches of 1,000",
        1,
        lambda f: ratio(f.service("batches of 1,000 accounts"), f.service("batches of 1,000")),
    ),
    Target(
        "/health beside batches of 1,000: p99",
        50,
        lambda f: f.service("batches of 1,000", "health_p99_ms"),
        " ms",
        True,
    ),
    Target("largest ledger: each rate, × that of the smallest", 0.9, Figures.smallest_growth_ratio),
    Target("goodput with any number of connections, × the best", 0.75, Figures.smallest_goodput),
    Target("/health beside overload: highest", 300, Figures.highest_health, " ms", True),
    Target(
        "one account locked, 24 callers wait for it: rate on the others, × that without",
        0.8,
        lambda f: ratio(f.of(locked.SECTION, locked.LOCKED), f.of(locked.SECTION, locked.FREE)),
    ),
    Target("memory after all requests", 90, Figures.last_memory, " MB", True),
    Target("memory after all requests, × that after half of them", 1.02, Figures.memory_growth, "", True),
)


def render(results: Results) -> str:
    """The table of the targets."""
    figures = Figures(results)
    return table(["target", "wanted", "measured", "met"], [target.row(figures) for target in TARGETS])


def ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def worst(choose: Callable[[list[float]], float], values: list[float | None] | list[float]) -> float | None:
    """The lowest or the highest of the values; None if one was not measured."""
    known = [value for value in values if value is not None]
    return choose(known) if known and len(known) == len(values) else None
