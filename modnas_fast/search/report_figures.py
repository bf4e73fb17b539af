"""The report's curves over the epochs, each a function from runs to an inline SVG; and what all its figures share."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Genotype
from modnas_fast.networks.plot import plot_genotype
from modnas_fast.search.history import PHASES
from modnas_fast.search.latency import LatencyTable
from modnas_fast.search.monitor import Thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")

INK, FAINT, BLUE = "#20262e", "#6b7480", "#2563b0"
# The first two as in the paper's Fig. 3: the run of interest blue, the one beside it orange.
_RUN_COLOURS = (BLUE, "#dd6b20", "#2f8f5b", "#8a4fbf", "#c23b5a", "#1c8c9c", "#8c6d1f", "#5b6470")
_PSNR_RANGE = 8.0  # dB below the best; the first epochs would else take most of the axis
_DERIVED = ("alternate",)  # while W alone is trained, all choices are ties, and what they give tells nothing
_MARKED = 30  # up to so many epochs points are marked
WIDTH = 11.0  # inches; at the page's width, 1 pt is about 1.4 px
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "modnas-fast"}
_STYLE = _SETTINGS | {
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page shows narrower system fonts in its place
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": "#b6bec8",
    "axes.labelcolor": FAINT,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e3e7ec",
    "grid.linewidth": 0.7,
    "xtick.color": "#b6bec8",
    "ytick.color": "#b6bec8",
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
}


@dataclass(frozen=True)
class Run:
    """One search: its name, `read_history`'s records, its configuration (empty where there is none), its latencies."""

    name: str
    history: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    latency: LatencyTable | None = None

    def series(self, key: str, phases: Sequence[str] = PHASES) -> tuple[list[int], list[float]]:
        """Epochs of some phases, and a figure of theirs, where it is there."""
        records = [record for record in self.history if record["phase"] in phases]
        pairs = [(record["epoch"], record[key]) for record in records if record[key] is not None]
        return [epoch for epoch, _ in pairs], [float(value) for _, value in pairs]

    @property
    def warmup(self) -> int:
        """The last epoch that trained W alone, 0 for none."""
        return max((record["epoch"] for record in self.history if record["phase"] == "weights"), default=0)

    @property
    def searched(self) -> Sequence[Mapping[str, Any]]:
        """The records from the last epoch of W alone on: until then α, β and γ stand where they started."""
        return [record for record in self.history if record["epoch"] >= self.warmup]

    @property
    def moving(self) -> bool:
        """Whether α, β and γ have left their start."""
        return any(record["phase"] == "alternate" for record in self.history)


def as_svg(draw: Callable[Arguments, Figure]) -> Callable[Arguments, str]:
    """Let a function that draws a figure return its SVG, in the report's style; matplotlib's settings stay."""

    @functools.wraps(draw)
    def drawn(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> str:
        with _matplotlib().rc_context(_STYLE):
            return _to_svg(draw(*arguments, **keywords))

    return drawn


def new_figure(height: float) -> Figure:
    """An empty figure of the page's width, `height` inches high."""
    figure: Figure = _matplotlib().figure.Figure(figsize=(WIDTH, height))
    return figure


def network_drawing(genotype: Genotype) -> str:
    """`plot_genotype`'s drawing."""
    with _matplotlib().rc_context(_SETTINGS):
        return _to_svg(plot_genotype(genotype))


@as_svg
def psnr_chart(runs: Sequence[Run]) -> Figure:
    """PSNR of the supernets per epoch (Fig. 3); training figures only of a single run, or where there are no others."""
    figure = new_figure(3.3)
    axes = figure.add_axes((0.055, 0.14, 0.93, 0.82))
    highest, lowest = -math.inf, math.inf
    for index, run in enumerate(runs):
        epochs, validated = run.series("validation_psnr")
        if len(runs) == 1 or not epochs:
            curve(axes, *run.series("train_psnr"), f"{_prefix(run, runs)}training patches", index, faint=True)
        if epochs:
            curve(axes, epochs, validated, f"{_prefix(run, runs)}validation", index)
            _mark_best(axes, epochs, validated, index, label=len(runs) == 1)
        for value in filter(math.isfinite, run.series("train_psnr")[1] + validated):
            highest, lowest = max(highest, value), min(lowest, value)
    if math.isfinite(highest):
        bottom = max(lowest, highest - _PSNR_RANGE)
        margin = max(0.05 * (highest - bottom), 0.05)
        axes.set_ylim(bottom - margin, highest + 2 * margin)
    _shade_warmup(axes, runs)
    _finish(axes, runs, "PSNR, dB")
    axes.legend(loc="best")
    return figure


@as_svg
def decision_chart(runs: Sequence[Run]) -> Figure:
    """α entropy and skipped layers per epoch, side by side; both axes 0 to 1."""
    figure = new_figure(2.7)
    for column, (key, title) in enumerate(
        (("alpha_entropy", "α entropy"), ("skipped_layers", "Share of skipped layers"))
    ):
        axes = half(figure, column, title)
        for index, run in enumerate(runs):
            phases = PHASES if key == "alpha_entropy" else _DERIVED
            curve(axes, *run.series(key, phases), run.name, index)
        axes.set_ylim(-0.03, 1.03)
        _shade_warmup(axes, runs, label=False)
        _finish(axes, runs, "")
        if key == "skipped_layers":
            limit = Thresholds().skipped
            axes.axhline(limit, color="#b42318", linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate("collapse monitor", (0, limit), (4, 3), "axes fraction", "offset points", color="#b42318")
        elif len(runs) > 1:
            axes.legend(loc="best")
    return figure


@as_svg
def cost_chart(runs: Sequence[Run]) -> Figure:
    """Parameters and MACs of the network derived at each epoch, side by side."""
    figure = new_figure(2.7)
    panels = (("parameters", "Parameters, thousands", 1e3), ("macs_with_bias", "MACs at 48×48, 10⁹", 1e9))
    for column, (key, title, unit) in enumerate(panels):
        axes = half(figure, column, title)
        for index, run in enumerate(runs):
            epochs, values = run.series(key, _DERIVED)
            curve(axes, epochs, [value / unit for value in values], run.name, index)
        axes.set_ylim(bottom=0)
        _shade_warmup(axes, runs, label=False)
        _finish(axes, runs, "")
        if len(runs) > 1 and column == 0:
            axes.legend(loc="best")
    return figure


def whole_epochs(axes: Axes, most: int = 8) -> None:
    """Let the ticks of the x axis be whole epochs, about `most` of them."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError:
        raise ModnasError("the report needs matplotlib: pip install 'modnas-fast[plot]'") from None
    return matplotlib


def _to_svg(figure: Figure) -> str:
    """The figure as a scalable SVG element, without metadata, and the style sheet that would leak into the page."""
    rendered = io.StringIO()
    figure.savefig(
        rendered, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), transparent=True
    )
    svg = rendered.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    return re.sub(r"<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL).strip()


def half(figure: Figure, column: int, title: str) -> Axes:
    """The left or the right one of two axes."""
    axes = figure.add_axes((0.055 + 0.505 * column, 0.17, 0.425, 0.69))
    axes.set_title(title)
    return axes


def _prefix(run: Run, runs: Sequence[Run]) -> str:
    return f"{run.name}, " if len(runs) > 1 else ""


def curve(
    axes: Axes, steps: Sequence[int], values: Iterable[float], label: str, index: int, *, faint: bool = False
) -> None:
    """One more line; `index` is its colour's."""
    colour = _RUN_COLOURS[index % len(_RUN_COLOURS)]
    dashes = "solid" if index < len(_RUN_COLOURS) else (0, (4, 1.5))
    marker = "o" if len(steps) <= _MARKED else ""
    style: dict[str, Any] = {"linewidth": 1.0, "alpha": 0.45} if faint else {}
    axes.plot(steps, list(values), color=colour, linestyle=dashes, marker=marker, label=label, **style)


def _mark_best(axes: Axes, epochs: Sequence[int], values: Sequence[float], index: int, *, label: bool) -> None:
    best = max((pair for pair in zip(values, epochs, strict=True) if math.isfinite(pair[0])), default=None)
    if best is not None:
        colour = _RUN_COLOURS[index % len(_RUN_COLOURS)]
        axes.plot(best[1], best[0], "o", color=colour, markeredgecolor="white", markersize=6)
        if label:
            axes.annotate(f"{best[0]:.2f} dB", best[::-1], (0, 6), "data", "offset points", ha="center", color=colour)


def _shade_warmup(axes: Axes, runs: Sequence[Run], *, label: bool = True) -> None:
    """Where W alone is trained; the shades of runs that differ in that lie over each other."""
    for last in sorted({run.warmup for run in runs} - {0}):
        axes.axvspan(0.5, last + 0.5, color="#f1f4f8", linewidth=0, zorder=0)
        axes.axvline(last + 0.5, color="#c9d1da", linewidth=0.8, zorder=0.5)
        if label:
            axes.annotate(
                "W only",
                (last + 0.5, 1),
                (-4, -10),
                ("data", "axes fraction"),
                "offset points",
                ha="right",
                color=FAINT,
            )


def _finish(axes: Axes, runs: Sequence[Run], unit: str) -> None:
    last = max((record["epoch"] for run in runs for record in run.history), default=1)
    axes.set_xlim(0.5, max(last, 2) + 0.5)
    whole_epochs(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.grid(axis="y")
