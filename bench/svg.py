"""Two kinds of plots as SVG text: horizontal bars, and lines. Enough for docs/performance.md, without a library."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WIDTH = 760
BAR_HEIGHT, BAR_GAP = 16, 8
LABEL_WIDTH, VALUE_WIDTH = 270, 110  # left and right of the bars
PLOT_HEIGHT = 240
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 64, 190, 40, 44
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b")
TICKS = 5  # marks of the vertical axis, about


@dataclass(frozen=True)
class Bar:
    """One bar with the lowest and the highest value of its rounds."""

    label: str
    value: float
    low: float
    high: float
    color: int = 0  # in COLORS


@dataclass
class Lines:
    """Lines over a common horizontal axis; each is a name and its points."""

    title: str
    x_title: str
    y_title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    logarithmic: bool = False  # the horizontal axis
    x_labels: Mapping[float, str] = field(default_factory=dict)


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from 0, each with a line from the lowest to the highest round."""
    space = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    scale = space / max(bar.high for bar in rows)
    parts = [text(10, 20, title, bold=True)]
    for number, bar in enumerate(rows):
        top = MARGIN_TOP + number * (BAR_HEIGHT + BAR_GAP)
        middle = top + BAR_HEIGHT / 2
        low, high = LABEL_WIDTH + bar.low * scale, LABEL_WIDTH + bar.high * scale
        parts += [
            text(LABEL_WIDTH - 8, middle + 4, bar.label, anchor="end"),
            f'<rect x="{LABEL_WIDTH}" y="{top}" width="{bar.value * scale:.1f}" height="{BAR_HEIGHT}" '
            f'fill="{COLORS[bar.color]}"/>',
            line(low, middle, high, middle, "#000"),
            text(high + 6, middle + 4, format_number(bar.value)),
        ]
    return document(MARGIN_TOP + len(rows) * (BAR_HEIGHT + BAR_GAP) + 10, parts)


def lines(plot: Lines) -> str:
    """Lines with points, from 0 upwards, and a legend on the right."""
    xs = sorted({x for points in plot.lines.values() for x, _ in points})
    top = max(y for points in plot.lines.values() for _, y in points) or 1.0
    width, bottom = WIDTH - MARGIN_LEFT - MARGIN_RIGHT, MARGIN_TOP + PLOT_HEIGHT
    step = tick_step(top)
    highest = step * math.ceil(top / step)
    transform = math.log10 if plot.logarithmic else float
    first, last = transform(xs[0]), transform(xs[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        share = (transform(x) - first) / ((last - first) or 1)
        return MARGIN_LEFT + share * width, bottom - y / highest * PLOT_HEIGHT

    parts = [text(10, 20, plot.title, bold=True)]
    for number in range(round(highest / step) + 1):
        _, y = place(xs[0], number * step)
        parts += [line(MARGIN_LEFT, y, MARGIN_LEFT + width, y, "#ddd")]
        parts += [text(MARGIN_LEFT - 6, y + 4, format_number(number * step), anchor="end")]
    for x in plot.x_labels or xs:
        parts.append(text(place(x, 0)[0], bottom + 16, plot.x_labels.get(x, format_number(x)), anchor="middle"))
    parts.append(text(MARGIN_LEFT + width / 2, bottom + 36, plot.x_title, anchor="middle"))
    parts.append(text(MARGIN_LEFT + width + 12, MARGIN_TOP - 12, plot.y_title))
    for number, (name, points) in enumerate(plot.lines.items()):
        color = COLORS[number % len(COLORS)]
        places = [place(x, y) for x, y in points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
        parts.append(text(MARGIN_LEFT + width + 12, MARGIN_TOP + 10 + number * 18, f"● {name}", color=color))
    return document(bottom + MARGIN_BOTTOM, parts)


def tick_step(top: float) -> float:
    """The distance of the marks: 1, 2 or 5 times a power of ten."""
    power: float = 10 ** math.floor(math.log10(top / TICKS))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= top / TICKS)


def format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.3g}"


def text(x: float, y: float, content: str, *, anchor: str = "start", bold: bool = False, color: str = "#000") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{weight}>{html.escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'


def document(height: float, parts: Sequence[str]) -> str:
    """The SVG file, on white, so that it can be read in a dark theme too."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>"]) + "\n"
