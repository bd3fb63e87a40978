"""The plots of docs/performance.md, from the results. A section that was not measured has no plot."""

from bench import growth, latency, memory, overload, svg, throughput
from bench.results import Cases, Results, limits, median
from bench.tables import growth_sizes

KINDS = {"spread": "single transfers", "batch": "in batches of 1,000", "read": "reads", "page": "pages of 20 entries"}
COLORS = {"pgbench": 2, "psycopg": 4, "service": 0, "baseline": 1}  # in svg.COLORS
BATCHES = "batches"  # not in the bars: 10,000 per second would make the others short


def render(results: Results) -> dict[str, str]:
    """SVG text by the name of the file."""
    sections = (throughput, latency, overload, growth, memory)
    cases = {module.SECTION: results.cases(module.SECTION) for module in sections}
    found = {}
    if cases[throughput.SECTION]:
        found["throughput"] = throughput_bars(cases[throughput.SECTION])
    if cases[latency.SECTION]:
        found["latency"] = latency_lines(cases[latency.SECTION])
    if cases[overload.SECTION]:
        found["overload"] = overload_lines(cases[overload.SECTION])
    if cases[growth.SECTION]:
        found["growth-transfers"] = growth_lines(cases[growth.SECTION], 0)
        found["growth-accounts"] = growth_lines(cases[growth.SECTION], 1)
    if cases[memory.SECTION].get("requests"):
        found["memory"] = memory_lines(cases[memory.SECTION])
    return found


def throughput_bars(cases: Cases) -> str:
    rows = []
    for case in cases:
        if BATCHES not in case and (value := median(cases, case, "rate")) is not None:
            rows.append(svg.Bar(case, value, *limits(cases, case, "rate"), COLORS[case.partition(":")[0].split()[0]]))
    return svg.bars("Transfers or reads per second: median, and lowest to highest round", rows)


def latency_lines(cases: Cases) -> str:
    """Latency over the rate, in per cent of the best."""
    lines = {}
    for kind in latency.KINDS:
        for name in ("p50", "p99"):
            points = [(float(percent), median(cases, f"{kind} {percent}", f"{name}_ms")) for percent in latency.PERCENT]
            lines[f"{kind}, {name}"] = [(x, y) for x, y in points if y is not None]
    plot = svg.Lines("Latency in an open loop, one process", "per cent of the best rate", "ms", drawable(lines))
    return svg.lines(plot)


def overload_lines(cases: Cases) -> str:
    """Goodput over the number of connections."""
    points = [(float(case), median(cases, case, "rate") or 0.0) for case in cases]
    title = "Posted transfers per second, one process, callers repeat at once"
    return svg.lines(svg.Lines(title, "connections", "per second", {"posted": points}, logarithmic=True))


def growth_lines(cases: Cases, column: int) -> str:
    """Each rate in per cent of that of the smallest ledger: over transfers (column 0) or accounts (column 1)."""
    sizes = [tuple(map(int, size.split("/"))) for size in growth_sizes(cases)]
    # The sizes that differ only in this column, of which there are most.
    shared = [size[1 - column] for size in sizes]
    other = max(shared, key=shared.count)
    varied = sorted(size for size in sizes if size[1 - column] == other)
    lines = {}
    for kind, name in KINDS.items():
        rates = [median(cases, f"{size[0]}/{size[1]} {kind}", "rate") for size in varied]
        points = [(float(size[column]), rate) for size, rate in zip(varied, rates, strict=True) if rate]
        lines[name] = [(x, y / points[0][1] * 100) for x, y in points]
    axis, fixed = ("transfers", "accounts") if column == 0 else ("accounts", "transfers")
    title = f"Rates with more {axis}, {other:,} {fixed}"
    return svg.lines(svg.Lines(title, axis, "% of the smallest", drawable(lines), logarithmic=True))


def memory_lines(cases: Cases) -> str:
    """Memory over the number of requests."""
    steps = cases["requests"]
    lines = {
        "worker, resident": [(step["requests"], step["rss_mb"]) for step in steps],
        "all, proportional": [(step["requests"], step["pss_mb"]) for step in steps],
    }
    ends = [steps[0]["requests"], steps[-1]["requests"] / 2, steps[-1]["requests"]]
    labels = {value: f"{value:,.0f}" for value in ends}
    return svg.lines(svg.Lines("Memory of one process", "requests served", "MB", lines, x_labels=labels))


def drawable(lines: dict[str, list[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
    """Without the lines that have no point."""
    return {name: points for name, points in lines.items() if points}
