"""The report's plots, each a function from rows to an inline SVG: panels that stand two abreast, or one on a phone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modnas_fast.bench.contenders import STAGES, label
from modnas_fast.bench.paper import COUNTS, MACHINE
from modnas_fast.bench.rows import Row, place_of
from modnas_fast.bench.tables import counted, duration, latest_rows, published_psnr
from modnas_fast.bench.verdicts import milliseconds_per_megapixel
from modnas_fast.search.report_figures import BLUE, FAINT, INK, as_svg, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

_ORANGE = "#dd6b20"
_WIDTH = 5.4  # inches of a panel
_OURS = ("engine", "folded", "fused", "triton", "fast_convolutions")
_MARKS = {  # colour → what it stands for, shape, size
    BLUE: ("MoD-NAS", "o", 6.0),
    _ORANGE: ("MoD-NAS, engine", "D", 5.0),
    FAINT: ("others", "o", 4.5),
}

Costs = Mapping[tuple[str, str], float]  # (network, backend) → seconds, parameters, …


@dataclass(frozen=True)
class _Point:
    """A named mark, of `_MARKS`."""

    x: float
    y: float
    name: str
    colour: str = FAINT


def costs_of(rows: Sequence[Row]) -> dict[str, tuple[str, Costs]]:
    """What PSNR is set against: name → axis label and figures, for what the rows have."""
    counts = {row["network"]: row for row in rows if row["op"] == COUNTS}
    speeds = milliseconds_per_megapixel(rows)
    parameters = {(name, "torch"): row["parameters"] / 1e6 for name, row in counts.items()}
    macs = {(n, "torch"): row["macs_per_pixel"] / 1e6 for n, row in counts.items() if "macs_per_pixel" in row}
    found: dict[str, tuple[str, Costs]] = {
        "time": ("seconds a megapixel, here", {way: speed / 1e3 for way, speed in speeds.items()}),
        "parameters": ("parameters, million", parameters),
        "MACs": ("million MACs a pixel", macs),
    }
    return {name: (title, costs) for name, (title, costs) in found.items() if costs}


@as_svg
def quality_chart(title: str, costs: Costs) -> Figure:
    """Published PSNR against what a network costs, logarithmic."""
    figure, axes = _panel(4.0)
    points = [
        _Point(costs[name, backend], psnr, _short(name), _colour(name, backend))
        for name, psnr in published_psnr()
        for backend in ("torch", "engine")
        if (name, backend) in costs
    ]
    for colour in (BLUE, _ORANGE):
        ours = sorted((point.x, point.y) for point in points if point.colour == colour)
        axes.plot([x for x, _ in ours], [y for _, y in ours], color=colour, linewidth=1.0, alpha=0.4)
    axes.set_xscale("log")
    heights = [point.y for point in points]
    axes.set_ylim(min(heights) - 0.15, max(heights) + 0.2)
    _marked(axes, points)
    _logarithmic(axes.xaxis)
    axes.set_xlabel(title)
    axes.set_ylabel("PSNR, dB")
    return figure


def _panel(height: float) -> tuple[Figure, Axes]:
    figure = new_figure(height)
    figure.set_size_inches(_WIDTH, height)
    return figure, figure.add_axes((0.115, 0.125, 0.865, 0.79))


def _short(name: str) -> str:
    return label(name)[len("MoD-NAS(") : -1] if name in STAGES else label(name)


def _colour(name: str, backend: str) -> str:
    return _ORANGE if backend == "engine" else BLUE if name in STAGES else FAINT


def _marked(axes: Axes, points: Sequence[_Point]) -> None:
    """Draw the points, a legend, and the points' names, each where it meets the fewest others.

    Points on one spot share a name. Names are moved in turn until none finds a better place.
    """
    for colour, (meaning, marker, size) in _MARKS.items():
        alike = [point for point in points if point.colour == colour]
        if alike:
            style: dict[str, Any] = {"color": colour, "markersize": size, "label": meaning}
            axes.plot([point.x for point in alike], [point.y for point in alike], marker, **style)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=4, columnspacing=1.0, handletextpad=0.3)
    axes.grid(which="major")
    axes.margins(x=0.1)
    axes.autoscale_view(scaley=False)
    scale = axes.figure.dpi / 72  # pixels a point
    spots: dict[tuple[str, int, int], list[_Point]] = {}
    for point in points:
        x, y = axes.transData.transform((point.x, point.y))
        spots.setdefault((point.colour, round(x / (4 * scale)), round(y / (4 * scale))), []).append(point)
    groups = list(spots.values())
    centres = [tuple(map(float, axes.transData.transform((group[0].x, group[0].y)))) for group in groups]
    marks = [_at(x, y, 5 * scale) for x, y in centres]
    lines = [_at(x, y, 1.5 * scale) for line in axes.lines for x, y in _along(axes, line, 5 * scale)]
    frame = axes.get_window_extent()
    whole = (frame.x0, frame.y0, frame.x1, frame.y1)
    options = [[_place(axes, group, side, scale) for side in _SIDES] for group in groups]
    chosen = [0] * len(groups)

    def cost(index: int, side: int) -> float:
        box = options[index][side]
        names = [options[other][chosen[other]] for other in range(len(groups)) if other != index]
        met = sum(_overlap(box, other) for other in (*marks, *names)) + 0.3 * sum(_overlap(box, x) for x in lines)
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        nearest = min(range(len(groups)), key=lambda other: math.dist(middle, centres[other]))
        return met + 3 * _outside(box, whole) + _WRONG * (nearest != index) + scale * side

    for _ in range(6):
        for index in range(len(groups)):
            chosen[index] = min(range(len(_SIDES)), key=lambda side, index=index: cost(index, side))  # type: ignore[misc]
    for group, side in zip(groups, chosen, strict=True):
        align, dx, dy = _SIDES[side]
        colour = INK if group[0].colour == FAINT else group[0].colour
        text: dict[str, Any] = {"ha": align, "va": "center", "color": colour, "fontsize": 8}
        axes.annotate(_names(group), (group[0].x, group[0].y), (dx, dy), "data", "offset points", **text)


# Where a name may stand beside its point, the best first: alignment, and the offset in points.
_SIDES = (
    ("center", 0, 10),
    ("left", 7, 0),
    ("center", 0, -10),
    ("right", -7, 0),
    ("left", 5, 8),
    ("right", -5, 8),
    ("left", 5, -8),
    ("right", -5, -8),
)
_WRONG = 150.0  # pixels of overlap that are as bad as a name that stands nearer to another point than to its own
_Box = tuple[float, float, float, float]


def _names(group: Sequence[_Point]) -> str:
    return ", ".join(point.name for point in group)


def _place(axes: Axes, group: Sequence[_Point], side: tuple[str, int, int], scale: float) -> _Box:
    """The box of the names of points on one spot, on this side of it."""
    align, dx, dy = side
    half = (2.5 * len(_names(group)) + 3) * scale
    x, y = axes.transData.transform((group[0].x, group[0].y))
    middle = x + dx * scale + {"center": 0.0, "left": half, "right": -half}[align]
    return (middle - half, y + (dy - 5) * scale, middle + half, y + (dy + 5) * scale)


def _at(x: float, y: float, reach: float) -> _Box:
    return (x - reach, y - reach, x + reach, y + reach)


def _along(axes: Axes, line: Any, step: float) -> list[tuple[float, float]]:
    """Points of a drawn line every so many pixels; none of marks."""
    if line.get_linestyle() == "None":
        return []
    corners = axes.transData.transform(line.get_xydata())
    found = []
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        count = int(max(abs(x1 - x0), abs(y1 - y0)) / step) + 1
        found += [(x0 + (x1 - x0) * k / count, y0 + (y1 - y0) * k / count) for k in range(count)]
    return found


def _overlap(a: _Box, b: _Box) -> float:
    """The area that two boxes (left, bottom, right, top) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: _Box, frame: _Box) -> float:
    """The area of a box that its frame does not hold."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)


def _logarithmic(axis: XAxis | YAxis) -> None:
    """With plain numbers at 1, 3, 10, 30, …"""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


@as_svg
def roofline_chart(rows: Sequence[Row]) -> Figure:
    """Effective GFLOP/s of every network against its FLOP a byte, under this machine's memory and arithmetic."""
    machine = next(row for row in rows if row["op"] == MACHINE)
    counts = {row["network"]: row for row in rows if row["op"] == COUNTS and "bytes_per_pixel" in row}
    counts.pop("tnrd", None)  # its work is exponentials, which MACs do not count
    points = []
    for (name, backend), speed in milliseconds_per_megapixel(rows).items():
        row = counts.get(name)
        if row is not None:
            intensity = 2 * row["macs_per_pixel"] / row["bytes_per_pixel"]
            reached = 2 * row["macs_per_pixel"] / speed  # of a megapixel, over its ms: GFLOP/s
            points.append(_Point(intensity, reached, _short(name), _colour(name, backend)))
    figure, axes = _panel(4.0)
    ridge = machine["gflops"] / machine["gbytes_s"]
    xs = (ridge / 2, ridge, max(2 * ridge, *(1.6 * point.x for point in points)))
    roof = f"{machine['gbytes_s']:.0f} GB/s, {machine['gflops']:.0f} GFLOP/s"
    heights = [min(machine["gflops"], x * machine["gbytes_s"]) for x in xs]
    axes.plot(xs, heights, color=INK, linewidth=1.2, label=roof)
    axes.set_xscale("log")
    axes.set_yscale("log")
    heights += [point.y for point in points]
    axes.set_ylim(min(heights) / 1.6, max(heights) * 1.6)
    _marked(axes, points)
    _logarithmic(axes.xaxis)
    _logarithmic(axes.yaxis)
    axes.set_xlabel("FLOP a byte of every convolution’s inputs, weights and outputs")
    axes.set_ylabel("effective GFLOP/s, as by direct convolution")
    return figure


def rival_groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Timed rows that differ in backend or precision alone: what speed charts compare; the slowest first."""
    groups: dict[str, list[Row]] = {}
    for row in latest_rows(rows):
        shape = "×".join(map(str, row.get("shape", ())))
        threads = counted(row["threads"], "thread")
        title = ", ".join(filter(None, (row["op"], row.get("mode"), shape, threads, place_of(row))))
        groups.setdefault(title, []).append(row)
    return {
        title: sorted(group, key=lambda row: -row["median_ms"])
        for title, group in groups.items()
        if len({row.get("backend") for row in group}) > 1
    }


@as_svg
def speed_chart(group: Sequence[Row]) -> Figure:
    """How many times as fast as the slowest, which comes first, with 20th and 80th percentile."""
    height = 0.26 * len(group) + 0.45
    figure = new_figure(height)
    figure.set_size_inches(_WIDTH, height)
    axes = figure.add_axes((0.36, 0.4 / height, 0.62, 1 - 0.42 / height))
    slowest = group[0]["median_ms"]
    for position, row in enumerate(reversed(group)):
        _bar(axes, position, row, slowest)
    axes.set_yticks(range(len(group)), [_way(row) for row in reversed(group)])
    fastest = min(row["p20_ms"] if "p20_ms" in row else row["median_ms"] for row in group)
    axes.set_xlim(0, 1.45 * slowest / fastest)  # figures stand beside the bars
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.grid(axis="x")
    return figure


def _bar(axes: Axes, position: int, row: Row, slowest: float) -> None:
    speed = slowest / row["median_ms"]
    ours = str(row.get("backend")).startswith(_OURS)
    axes.barh(position, speed, 0.7, color=BLUE if ours else "#c3cad3")
    low, high = (slowest / row[key] if key in row else speed for key in ("p80_ms", "p20_ms"))
    axes.plot((low, high), (position, position), color=INK, linewidth=1)
    text = f"{speed:.2f}×  {duration(row['median_ms'])}"
    axes.annotate(text, (max(speed, high), position), (5, 0), "data", "offset points", va="center", color=INK)


def _way(row: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (str(row.get("backend", "")), str(row.get("dtype", "")))))
