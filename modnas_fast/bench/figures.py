"""The report's plots, each a function from rows to an inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


@as_svg
def quality_chart(rows: Sequence[Row]) -> Figure:
    """Published PSNR against what a network costs: time measured here, parameters, MACs; logarithmic."""
    speeds = milliseconds_per_megapixel(rows)
    counts = {row["network"]: row for row in rows if row["op"] == COUNTS}
    times = {name: speeds[name, "torch"] / 1e3 for name in counts if (name, "torch") in speeds}
    engine = {name: speed / 1e3 for (name, backend), speed in speeds.items() if backend == "engine"}
    panels: list[tuple[str, Mapping[str, float]]] = [
        ("seconds a megapixel, here" if times else "", times),
        ("parameters, thousands", {name: row["parameters"] / 1e3 for name, row in counts.items()}),
        (
            "thousand MACs a pixel",
            {name: row["macs_per_pixel"] / 1e3 for name, row in counts.items() if "macs_per_pixel" in row},
        ),
    ]
    panels = [(title, costs) for title, costs in panels if costs]
    figure = new_figure(4.0)
    width = 0.94 / len(panels)
    for index, (title, costs) in enumerate(panels):
        axes = figure.add_axes((0.05 + index * width, 0.12, width - 0.035, 0.84))
        _points(axes, costs, engine if costs is times else {})
        axes.set_xlabel(title)
        if index == 0:
            axes.set_ylabel("PSNR on Urban100 at σ = 25, dB, as published")
    return figure


def _points(axes: Axes, costs: Mapping[str, float], engine: Mapping[str, float]) -> None:
    points = [(costs[name], psnr, name) for name, psnr in published_psnr() if name in costs]
    ours = sorted((cost, psnr) for cost, psnr, name in points if name in STAGES)
    axes.plot([cost for cost, _ in ours], [psnr for _, psnr in ours], color=BLUE, linewidth=1.0, alpha=0.5)
    for cost, psnr, name in points:
        mine = name in STAGES
        axes.plot(cost, psnr, "o", color=BLUE if mine else FAINT, markersize=6 if mine else 4.5)
        _name(axes, cost, psnr, label(name), BLUE if mine else INK)
    for name, psnr in published_psnr():
        if name in engine:
            axes.plot(engine[name], psnr, "D", color=_ORANGE, markersize=5)
            _name(axes, engine[name], psnr, f"T={STAGES[name]}, engine", _ORANGE, below=True)
    axes.set_xscale("log")
    _logarithmic(axes.xaxis)
    axes.margins(x=0.16, y=0.09)
    axes.grid(which="major")


def _logarithmic(axis: XAxis | YAxis) -> None:
    """With plain numbers at 1, 3, 10, 30, …"""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _name(axes: Axes, x: float, y: float, text: str, colour: str, *, below: bool = False) -> None:
    offset = (0, -12) if below else (0, 6)
    axes.annotate(text, (x, y), offset, "data", "offset points", ha="center", color=colour, fontsize=7.5)


@as_svg
def roofline_chart(rows: Sequence[Row]) -> Figure:
    """GFLOP/s of every network against its FLOP a byte, under this machine's memory and arithmetic."""
    machine = next(row for row in rows if row["op"] == MACHINE)
    counts = {row["network"]: row for row in rows if row["op"] == COUNTS and "bytes_per_pixel" in row}
    figure = new_figure(4.2)
    axes = figure.add_axes((0.06, 0.12, 0.92, 0.84))
    intensities = [2 * row["macs_per_pixel"] / row["bytes_per_pixel"] for row in counts.values()]
    left, right = min(intensities) / 2, max(intensities) * 2
    ridge = machine["gflops"] / machine["gbytes_s"]
    start = min(left, ridge / 2)
    xs = (start, ridge, max(right, ridge * 2))
    axes.plot(xs, [min(machine["gflops"], x * machine["gbytes_s"]) for x in xs], color=INK, linewidth=1.2)
    axes.annotate(
        f"copies {machine['gbytes_s']:.0f} GB/s, matrix products {machine['gflops']:.0f} GFLOP/s",
        (xs[-1], machine["gflops"]),
        (-4, -12),
        "data",
        "offset points",
        ha="right",
        color=FAINT,
    )
    for (name, backend), speed in milliseconds_per_megapixel(rows).items():
        row = counts[name]
        x, y = 2 * row["macs_per_pixel"] / row["bytes_per_pixel"], 2 * row["macs_per_pixel"] / speed
        colour = _ORANGE if backend == "engine" else BLUE if name in STAGES else FAINT
        axes.plot(x, y, "D" if backend == "engine" else "o", color=colour, markersize=5)
        _name(axes, x, y, label(name) + (", engine" if backend == "engine" else ""), colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
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
