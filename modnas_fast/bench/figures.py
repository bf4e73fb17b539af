"""The report's plots, each a function from rows to an inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modnas_fast.bench.contenders import STAGES, label
from modnas_fast.bench.paper import COUNTS, MACHINE
from modnas_fast.bench.rows import Row
from modnas_fast.bench.tables import latest_rows, published_psnr
from modnas_fast.bench.verdicts import milliseconds_per_megapixel
from modnas_fast.search.report_figures import BLUE, FAINT, INK, as_svg, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

_ORANGE = "#dd6b20"
_BARS = 14  # of one panel
_OURS = ("engine", "folded", "fused", "triton")


@dataclass(frozen=True)
class _Point:
    """A named mark; ours are blue, the engine's orange diamonds."""

    x: float
    y: float
    name: str
    colour: str = FAINT

    def draw(self, axes: Axes) -> None:
        marker, size = {_ORANGE: ("D", 5.0), BLUE: ("o", 6.0)}.get(self.colour, ("o", 4.5))
        axes.plot(self.x, self.y, marker, color=self.colour, markersize=size)


@as_svg
def quality_chart(rows: Sequence[Row]) -> Figure:
    """Published PSNR against what a network costs: time measured here, parameters, MACs; logarithmic."""
    speeds = milliseconds_per_megapixel(rows)
    counts = {row["network"]: row for row in rows if row["op"] == COUNTS}
    panels: list[tuple[str, Mapping[tuple[str, str], float]]] = [
        ("seconds a megapixel, here", {way: speed / 1e3 for way, speed in speeds.items()}),
        ("parameters, million", {(name, "torch"): row["parameters"] / 1e6 for name, row in counts.items()}),
        (
            "million MACs a pixel",
            {(n, "torch"): row["macs_per_pixel"] / 1e6 for n, row in counts.items() if "macs_per_pixel" in row},
        ),
    ]
    panels = [(title, costs) for title, costs in panels if costs]
    figure = new_figure(4.2)
    width = 0.935 / len(panels)
    for index, (title, costs) in enumerate(panels):
        axes = figure.add_axes((0.062 + index * width, 0.12, width - 0.035, 0.85))
        points = [
            _Point(costs[name, backend], psnr, _short(name, backend), _colour(name, backend))
            for name, psnr in published_psnr()
            for backend in ("torch", "engine")
            if (name, backend) in costs
        ]
        ours = sorted((point.x, point.y) for point in points if point.colour == BLUE)
        axes.plot([x for x, _ in ours], [y for _, y in ours], color=BLUE, linewidth=1.0, alpha=0.5)
        axes.set_xscale("log")
        axes.set_ylim(29.05, 31.3)
        _marked(axes, points)
        _logarithmic(axes.xaxis)
        axes.set_xlabel(title)
        axes.grid(which="major")
        if index == 0:
            axes.set_ylabel("PSNR, dB")
    return figure


def _short(name: str, backend: str) -> str:
    text = label(name)
    text = text[len("MoD-NAS(") : -1] if name in STAGES else text
    return f"{text}, engine" if backend == "engine" else text


def _colour(name: str, backend: str) -> str:
    return _ORANGE if backend == "engine" else BLUE if name in STAGES else FAINT


def _marked(axes: Axes, points: Sequence[_Point]) -> None:
    """Draw the points, then their names, each on the side where it meets the fewest others."""
    for point in points:
        point.draw(axes)
    axes.margins(x=0.13)
    axes.autoscale_view(scaley=False)
    places = [tuple(map(float, axes.transData.transform((point.x, point.y)))) for point in points]
    scale = axes.figure.dpi / 72  # pixels a point
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for point, (x, y) in zip(points, places, strict=True):
        half = 2.2 * len(point.name) * scale
        sides = (("center", 0, 10), ("center", 0, -10), ("left", 7, 0), ("right", -7, 0))
        boxes = []
        for align, dx, dy in sides:
            middle = x + dx * scale + {"center": 0.0, "left": half, "right": -half}[align]
            height = y + dy * scale
            boxes.append((middle - half, height - 5 * scale, middle + half, height + 5 * scale))
        frame = axes.get_window_extent()
        costs = [
            sum(_overlap(box, other) for other in taken) + _outside(box, (frame.x0, frame.y0, frame.x1, frame.y1))
            for box in boxes
        ]
        best = costs.index(min(costs))
        align, dx, dy = sides[best]
        taken.append(boxes[best])
        colour = INK if point.colour == FAINT else point.colour
        style: dict[str, Any] = {"ha": align, "va": "center", "color": colour, "fontsize": 7.5}
        axes.annotate(point.name, (point.x, point.y), (dx, dy), "data", "offset points", **style)


_Box = tuple[float, float, float, float]


def _overlap(a: _Box, b: _Box) -> float:
    """The area that two boxes (left, bottom, right, top) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: _Box, frame: _Box) -> float:
    """The area of a box that its frame does not hold, weighted: words that leave the drawing are lost."""
    return 10 * ((box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame))


def _logarithmic(axis: XAxis | YAxis) -> None:
    """With plain numbers at 1, 3, 10, 30, …"""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


@as_svg
def roofline_chart(rows: Sequence[Row]) -> Figure:
    """GFLOP/s of every network against its FLOP a byte, under this machine's memory and arithmetic."""
    machine = next(row for row in rows if row["op"] == MACHINE)
    counts = {row["network"]: row for row in rows if row["op"] == COUNTS and "bytes_per_pixel" in row}
    counts.pop("tnrd", None)  # its work is exponentials, which MACs do not count
    figure = new_figure(4.2)
    axes = figure.add_axes((0.062, 0.12, 0.92, 0.84))
    intensities = [2 * row["macs_per_pixel"] / row["bytes_per_pixel"] for row in counts.values()]
    left, right = min(intensities) / 2, max(intensities) * 2
    ridge = machine["gflops"] / machine["gbytes_s"]
    start = min(left, ridge / 2)
    xs = (start, ridge, max(right, ridge * 2))
    axes.plot(xs, [min(machine["gflops"], x * machine["gbytes_s"]) for x in xs], color=INK, linewidth=1.2)
    axes.annotate(
        f"copies {machine['gbytes_s']:.0f} GB/s, matrix products {machine['gflops']:.0f} GFLOP/s",
        (xs[-1], machine["gflops"]),
        (-4, 5),
        "data",
        "offset points",
        ha="right",
        color=FAINT,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    points = []
    for (name, backend), speed in milliseconds_per_megapixel(rows).items():
        row = counts.get(name)
        if row is None:
            continue
        intensity = 2 * row["macs_per_pixel"] / row["bytes_per_pixel"]
        reached = 2 * row["macs_per_pixel"] / speed  # of a megapixel, over its ms: GFLOP/s
        points.append(_Point(intensity, reached, _short(name, backend), _colour(name, backend)))
    heights = [machine["gflops"], *(point.y for point in points)]
    axes.set_ylim(min(heights) / 1.6, max(heights) * 1.6)
    _marked(axes, points)
    _logarithmic(axes.xaxis)
    _logarithmic(axes.yaxis)
    axes.set_xlabel("FLOP a byte of every convolution’s inputs, weights and outputs")
    axes.set_ylabel("GFLOP/s")
    axes.grid(which="major")
    return figure


def rival_groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Timed rows that differ in backend or precision alone: what speed charts compare; the slowest first."""
    groups: dict[str, list[Row]] = {}
    for row in latest_rows(rows):
        shape = "×".join(map(str, row.get("shape", ())))
        title = ", ".join(filter(None, (row["op"], row.get("mode"), shape, f"{row['threads']} threads")))
        groups.setdefault(title, []).append(row)
    return {
        title: sorted(group, key=lambda row: -row["median_ms"])[:_BARS]
        for title, group in groups.items()
        if len({row.get("backend") for row in group}) > 1
    }


@as_svg
def speed_chart(groups: Mapping[str, Sequence[Row]]) -> Figure:
    """How many times as fast as the slowest of its group, a panel a group, with 20th and 80th percentile."""
    heights = [0.26 * len(group) + 0.5 for group in groups.values()]
    figure = new_figure(sum(heights))
    top = sum(heights)
    for (title, group), height in zip(groups.items(), heights, strict=True):
        axes = figure.add_axes((0.26, (top - height + 0.08) / sum(heights), 0.68, (height - 0.42) / sum(heights)))
        top -= height
        slowest = group[0]["median_ms"]
        for position, row in enumerate(reversed(group)):
            _bar(axes, position, row, slowest)
        axes.set_title(title)
        axes.set_yticks(range(len(group)), [_way(row) for row in reversed(group)])
        axes.set_xlim(0, 1.12 * slowest / group[-1]["median_ms"])
        axes.tick_params(axis="x", labelbottom=False, length=0)
        axes.tick_params(axis="y", length=0)
    return figure


def _bar(axes: Axes, position: int, row: Row, slowest: float) -> None:
    speed = slowest / row["median_ms"]
    ours = str(row.get("backend")).startswith(_OURS)
    axes.barh(position, speed, 0.7, color=BLUE if ours else "#c3cad3")
    low, high = (slowest / row[key] if key in row else speed for key in ("p80_ms", "p20_ms"))
    axes.plot((low, high), (position, position), color=INK, linewidth=1)
    text = f"{speed:.2f}×  {row['median_ms']:.4g} ms"
    axes.annotate(text, (max(speed, high), position), (5, 0), "data", "offset points", va="center", color=INK)


def _way(row: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (str(row.get("backend", "")), str(row.get("dtype", "")))))
