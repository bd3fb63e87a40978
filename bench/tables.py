"""The tables of docs/performance.md, from the results. Each function returns Markdown; a missing figure is a dash."""

from collections.abc import Sequence

from bench import growth, latency, locked, memory, overload, throughput
from bench.results import Cases, Results, limits, median

NONE = "–"
CASE_NAMES = {
    "pgbench one_statement: spread": "pgbench, one statement, number from a sequence, spread",
    "pgbench one_statement: hot": "… hot",
    "pgbench numbered: spread": "pgbench, one statement, number from the journal row, spread",
    "pgbench numbered: hot": "… hot",
    "pgbench interactive: spread": "pgbench, interactive transaction, spread",
    "pgbench interactive: hot": "… hot",
    "psycopg interactive: spread": "psycopg, interactive transaction, no HTTP, no rules, spread",
    "psycopg interactive: hot": "… hot",
}


def machine(results: Results) -> str:
    """The machine and the versions, then when and how each section was measured."""
    facts = table(["", ""], [[name, str(value)] for name, value in results.machine.items()])
    rows = []
    for name, section in results.sections.items():
        start = section["measured_at"].replace("T", " ").replace("+00:00", "")
        rounds = f"{section['rounds']} × {section['seconds']:g} s"
        rows.append([name, start, f"`{section['commit']}`", rounds])
        rows[-1] += [f"{section.get('steal_percent', 0):g} %", section.get("error", f"{section.get('took_seconds')} s")]
    sections = table(["section", "begun (UTC)", "commit", "rounds", "CPU stolen by other machines", "took"], rows)
    return f"{facts}\n\n{sections}"


def throughputs(results: Results) -> str:
    """One row per case: rate with its spread, latencies, and CPU time of the service and of PostgreSQL."""
    cases = results.cases(throughput.SECTION)
    header = ["", "per second", "lowest to highest", "p50 / p99 ms", "CPU µs of the service", "of PostgreSQL", "errors"]
    rows = []
    for case in cases:
        errors = sum(found.get("refused", 0) + found.get("failed", 0) for found in cases[case])
        rows.append(
            [
                CASE_NAMES.get(case, case),
                number(median(cases, case, "rate")),
                spread(cases, case, "rate"),
                pair(cases, case, "p50_ms", "p99_ms"),
                number(median(cases, case, "service_cpu_us")),
                number(median(cases, case, "database_cpu_us")),
                number(errors) if "refused" in cases[case][0] else NONE,
            ]
        )
    return table(header, rows)


def latencies(results: Results) -> str:
    """One row per rate of the open loop, and what the client itself needed."""
    cases = results.cases(latency.SECTION)
    header = ["", "rate", "p50 ms", "p99 ms", "lowest to highest p99", "errors"]
    header += ["client: CPU µs", "client: late p99 ms"]
    rows = []
    for case in cases:
        if case.endswith("best"):
            continue
        kind, percent = case.split()
        rows.append(
            [
                f"{kind}, {percent} %",
                *(number(median(cases, case, name)) for name in ("rate", "p50_ms", "p99_ms")),
                spread(cases, case, "p99_ms"),
                number(sum(found["failed"] for found in cases[case])),
                *(number(median(cases, case, name)) for name in ("client_cpu_us", "client_late_p99_ms")),
            ]
        )
    return table(header, rows)


def overloads(results: Results) -> str:
    """One row per number of connections."""
    cases = results.cases(overload.SECTION)
    header = ["connections", "posted per second", "lowest to highest", "p50 / p99 ms", "refused", "no response"]
    header += ["/health p50 / p99 ms", "/health highest ms", "/health failed"]
    rows = [
        [
            number(float(case)),
            number(median(cases, case, "rate")),
            spread(cases, case, "rate"),
            pair(cases, case, "p50_ms", "p99_ms"),
            *(number(sum(found[name] for found in cases[case])) for name in ("refused", "failed")),
            pair(cases, case, "health_p50_ms", "health_p99_ms"),
            number(max(found["health_max_ms"] for found in cases[case])),
            number(sum(found["health_failed"] for found in cases[case])),
        ]
        for case in cases
    ]
    return table(header, rows)


def locks(results: Results) -> str:
    """The load on the other accounts, without and with a locked account."""
    cases = results.cases(locked.SECTION)
    header = ["", "posted per second", "lowest to highest", "p50 / p99 ms", "errors"]
    rows = []
    for case in cases:
        errors = sum(found["refused"] + found["failed"] for found in cases[case])
        figures = [
            number(median(cases, case, "rate")),
            spread(cases, case, "rate"),
            pair(cases, case, "p50_ms", "p99_ms"),
        ]
        rows.append([case, *figures, number(errors)])
    return table(header, rows)


def growth_rates(results: Results) -> str:
    """One row per size of the ledger: rates, with the lowest and the highest round."""
    cases = results.cases(growth.SECTION)
    header = ["transfers", "accounts", "single transfers/s", "in batches of 1,000/s", "reads/s"]
    header += ["pages of 20/s", "audit s"]
    rows = []
    for size in growth_sizes(cases):
        rates = [
            f"{number(median(cases, f'{size} {kind}', 'rate'))} ({spread(cases, f'{size} {kind}', 'rate')})"
            for kind in ("spread", "batch", "read", "page")
        ]
        rows.append([*size_columns(size), *rates, number(median(cases, f"{size} size", "audit_seconds"))])
    return table(header, rows)


def growth_costs(results: Results) -> str:
    """One row per size: pages and WAL of one transfer, and the size of table and indexes."""
    cases = results.cases(growth.SECTION)
    header = ["transfers", "accounts", "pages: single", "in a batch", "read", "page of 20", "WAL bytes: single"]
    header += ["in a batch", "bytes per transfer", "of it indexes"]
    rows = []
    for size in growth_sizes(cases):
        sizes, transfers = cases[f"{size} size"][0], float(size.split("/")[0])
        total = sum(value for name, value in sizes.items() if name.startswith("transfer_"))
        pages = [median(cases, f"{size} {kind} cost", "pages") for kind in ("spread", "batch", "read", "page")]
        wal = [median(cases, f"{size} {kind} cost", "wal_bytes") for kind in ("spread", "batch")]
        of_rows = [total / transfers, (total - sizes["transfer_bytes"]) / transfers]
        rows.append([*size_columns(size), *map(number, [*pages, *wal, *of_rows])])
    return table(header, rows)


def index_sizes(results: Results) -> str:
    """The tables and indexes at the largest number of transfers and at the largest number of accounts."""
    cases = results.cases(growth.SECTION)
    sizes = growth_sizes(cases)
    largest = [max(sizes, key=lambda size: int(size.split("/")[column])) for column in (0, 1)] if sizes else []
    names = [name for name in (cases[f"{largest[0]} size"][0] if largest else {}) if name.endswith("_bytes")]
    rows = [
        [f"`{name.removesuffix('_bytes')}`", *(number(cases[f"{size} size"][0][name] / 1e6) for size in largest)]
        for name in sorted(names)
    ]
    return table(["MB", *(" transfers, ".join(size_columns(size)) + " accounts" for size in largest)], rows)


def memories(results: Results) -> str:
    """Start, idle, loaded, half-way and at the end."""
    cases = results.cases(memory.SECTION)
    steps = cases.get("requests", [])
    rows = [["start to ready", number(median(cases, "start", "ready_seconds")) + " s", NONE]]
    if steps:
        half = min(steps, key=lambda step: abs(step["requests"] - steps[-1]["requests"] / 2))
        for name, step in (("idle", steps[0]), ("first load", steps[1]), ("half-way", half), ("end", steps[-1])):
            rows.append([f"{name}: {step['requests']:,.0f} requests", f"{step['rss_mb']:.1f}", f"{step['pss_mb']:.1f}"])
    return table(["", "worker, MB resident", "all processes, MB proportional"], rows)


def growth_sizes(cases: Cases) -> list[str]:
    return [case.removesuffix(" size") for case in cases if case.endswith(" size")]


def size_columns(size: str) -> list[str]:
    return [f"{int(part):,}" for part in size.split("/")]


def number(value: float | None) -> str:
    """Three significant digits, or all digits of a whole number; a dash if it was not measured."""
    if value is None:
        return NONE
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def pair(cases: Cases, case: str, *names: str) -> str:
    return " / ".join(number(median(cases, case, name)) for name in names)


def spread(cases: Cases, case: str, name: str) -> str:
    if median(cases, case, name) is None:
        return NONE
    return " to ".join(map(number, limits(cases, case, name)))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
