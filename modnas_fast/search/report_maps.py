"""The report's heat maps: what α, γ and β chose in every layer, at the end and on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modnas_fast.genotype import PRIMITIVES, Genotype
from modnas_fast.search.history import layer_kind
from modnas_fast.search.report_figures import BLUE, FAINT, INK, Run, as_svg, half, new_figure, whole_epochs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[np.float64]]

# A family a hue, so that 3×3 and 5×5 are told apart by lightness; interpolations and the rest keep away from those.
_COLOURS = {
    "conv_3x3": "#2f74c0",
    "conv_5x5": "#173f73",
    "sep_conv_3x3": "#56b356",
    "sep_conv_5x5": "#1f6b2e",
    "dil_conv_3x3": "#b07fe0",
    "dil_conv_5x5": "#6b2fa0",
    "res_block_3x3": "#f07f1e",
    "bilinear": "#d6336c",
    "nearest": "#e0b000",
    "area": "#8a7a52",
    "deconv_3x3": "#16a3a3",
    "sub_pixel": "#7a1f3d",
}
_ROW = 0.2  # inches
_LEFT_OUT = "#a4acb7"


@as_svg
def alpha_map(run: Run) -> Figure:
    """Who leads in every layer at every epoch: the colour says which operation, its strength with what weight."""
    from matplotlib.patches import Patch

    last = run.history[-1]
    names = list(last["alpha"])
    figure = new_figure(_ROW * (len(names) + 5))
    axes = figure.add_axes((0.065, 0.175, 0.785, 0.805))
    colours = (_leader_colours(_over_epochs(run, "alpha", name), PRIMITIVES[layer_kind(name)]) for name in names)
    axes.imshow(np.stack(list(colours)), aspect="auto", interpolation="none", extent=_extent(run, len(names)))
    left_out = _left_out(last)
    _rows(axes, names, left_out)
    _part_blocks(axes, names)
    for row, name in enumerate(names):
        op, weight = _leader(last["alpha"][name], PRIMITIVES[layer_kind(name)])
        ink = _LEFT_OUT if name in left_out else INK
        for text, offset, colour, side in (
            ("■", 7, _COLOURS[op], "left"),
            (op, 19, ink, "left"),
            (f"{weight:.2f}", 113, ink, "right"),
        ):
            _beside(axes, row, text, offset, color=colour, ha=side)
    whole_epochs(axes)
    axes.set_xlabel("epoch")
    patches = [Patch(color=colour, label=op) for op, colour in _COLOURS.items()]
    axes.legend(
        handles=patches, loc="upper center", bbox_to_anchor=(0.5, -0.085), ncols=6, handlelength=1.2, handleheight=1.0
    )
    return figure


@as_svg
def alpha_table(record: Mapping[str, Any]) -> Figure:
    """ω of one epoch: a row a layer, a column an operation; the leaders bold, layers left out in grey."""
    names = {kind: [name for name in record["alpha"] if layer_kind(name) == kind] for kind in PRIMITIVES}
    rows = len(names["normal"]) + 3  # of the figure: column heads and title take three
    figure = new_figure(1.12 * _ROW * rows)
    left_out = _left_out(record)
    places = {"normal": (0.065, 3, 0.51), "down": (0.655, 3, 0.266), "up": (0.655, 11, 0.332)}  # left, row, width
    titles = {"normal": "Normal layers", "down": "Down-sampling layers", "up": "Up-sampling layers"}
    for kind, (left, row, width) in places.items():
        count = len(names[kind])
        axes = figure.add_axes((left, 1 - (row + count) / rows, width, count / rows))
        weights = np.array([record["alpha"][name] for name in names[kind]])
        _weight_table(axes, weights, names[kind], PRIMITIVES[kind], left_out)
        axes.set_title(titles[kind], pad=8)
    return figure


@as_svg
def gamma_map(run: Run) -> Figure:
    """p of every normal layer over the epochs: a panel a block, a row a source, the largest at the end marked."""
    names = list(run.history[-1]["gamma"])
    blocks = list(dict.fromkeys(name.partition(".")[0] for name in names))
    figure = new_figure(4.9)
    for index, block in enumerate(blocks):
        row, column = (0, index) if block.startswith("EB") else (1, index - 3)
        axes = figure.add_axes((0.065 + 0.24 * column, 0.565 - 0.49 * row, 0.17, 0.375))
        image = _gamma_panel(axes, run, [name for name in names if name.startswith(block)])
        axes.set_title(block)
    key = figure.add_axes((0.065 + 0.24 * 3, 0.72, 0.17, 0.028))
    bar = figure.colorbar(image, cax=key, orientation="horizontal")
    bar.outline.set_visible(False)
    key.set_title("p = softmax(γ)", pad=5)
    key.set_xticks([0, 0.5, 1])
    note = "●  chosen after the last epoch\n2: L1 is layer 2's share of L1,\n2: own that of its own mixture"
    figure.text(0.065 + 0.24 * 3, 0.635, note, va="top", color=FAINT, linespacing=1.5)
    return figure


@as_svg
def beta_chart(run: Run) -> Figure:
    """β of the leading operations: its last histogram (Fig. 2a), and all histograms over the epochs."""
    records = [record for record in run.searched if record["beta"] is not None]
    figure = new_figure(3.0)
    last = records[-1]["beta"]
    edges = np.asarray(last["edges"])
    axes = half(figure, 0, f"After epoch {records[-1]['epoch']}")
    axes.bar(
        edges[:-1],
        last["counts"],
        np.diff(edges),
        align="edge",
        color=BLUE,
        edgecolor="white",
        linewidth=0.4,
    )
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_xlabel("β")
    axes.set_ylabel("channels")
    axes.grid(axis="y")
    beside = half(figure, 1, "Over the epochs")
    image, extent = _histogram_image([record["beta"] for record in records], [record["epoch"] for record in records])
    beside.imshow(image, "Blues", aspect="auto", origin="lower", extent=extent, interpolation="none", norm="log")
    beside.axhline(0, color=FAINT, linewidth=0.8)
    beside.set_xlabel("epoch")
    beside.set_ylabel("β")
    whole_epochs(beside)
    return figure


def _gamma_panel(axes: Axes, run: Run, names: Sequence[str]) -> Any:
    """The three layers of a block, one above the other; returns the image, for the key."""
    stacked = np.concatenate([_over_epochs(run, "gamma", name) for name in names])
    extent = _extent(run, len(stacked))
    image = axes.imshow(stacked, "Blues", vmin=0, vmax=1, aspect="auto", interpolation="none", extent=extent)
    sources, row = [], 0
    for position, name in enumerate(names, 1):
        final = run.history[-1]["gamma"][name]
        chosen = max(reversed(range(len(final))), key=final.__getitem__)  # of a tie the deepest, as `derive` has it
        _beside(axes, row + chosen, "●", 4, color=INK)
        sources += [f"{position}: {f'L{source}' if source < position else 'own'}" for source in range(position + 1)]
        row += position + 1
        if position < len(names):
            axes.axhline(row - 0.5, color="white", linewidth=2.5)
    axes.set_yticks(range(len(sources)), sources)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().endswith("own") else "normal")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    whole_epochs(axes, 4)
    return image


def _weight_table(axes: Axes, weights: Array, names: Sequence[str], ops: Sequence[str], left_out: set[str]) -> None:
    axes.imshow(weights, "Blues", vmin=0, vmax=1, aspect="auto", interpolation="none")
    _rows(axes, names, left_out)
    axes.set_xticks(range(len(ops)), [op.replace("_", " ", op.count("_") - 1).replace("_", "\n") for op in ops])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    _part_blocks(axes, names)
    for row, column in np.ndindex(*weights.shape):
        leads = column == int(weights[row].argmax())
        shade = "white" if weights[row, column] > 0.6 else INK if leads else FAINT
        weight = "bold" if leads else "normal"
        axes.text(
            column, row, f"{weights[row, column]:.2f}", ha="center", va="center_baseline", color=shade, weight=weight
        )


def _rows(axes: Axes, names: Sequence[str], left_out: set[str]) -> None:
    """Layer names at the left, in grey where the derived network does without the layer."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    for label in axes.get_yticklabels():
        label.set_color(_LEFT_OUT if label.get_text() in left_out else INK)


def _part_blocks(axes: Axes, names: Sequence[str]) -> None:
    """A gap between two blocks."""
    for row in range(1, len(names)):
        if names[row][:3] != names[row - 1][:3]:
            axes.axhline(row - 0.5, color="white", linewidth=3)


def _beside(axes: Axes, row: int, text: str, offset: float, **style: Any) -> None:
    """Text at the right of a row, `offset` points away."""
    axes.annotate(
        text, (1, row), (offset, 0), ("axes fraction", "data"), "offset points", va="center_baseline", **style
    )


def _extent(run: Run, rows: int) -> tuple[float, float, float, float]:
    """Of an image of the searched epochs, for `imshow`: epochs are centred, and rows count down from 0."""
    return run.searched[0]["epoch"] - 0.5, run.searched[-1]["epoch"] + 0.5, rows - 0.5, -0.5


def _over_epochs(run: Run, key: str, name: str) -> Array:
    """A layer's weights as [K, epochs], those that are searched; epochs without a record are NaN."""
    first, last = run.searched[0], run.searched[-1]
    weights = np.full((len(last[key][name]), last["epoch"] - first["epoch"] + 1), np.nan)
    for record in run.searched:
        weights[:, record["epoch"] - first["epoch"]] = record[key][name]
    return weights


def _histogram_image(
    histograms: Sequence[Mapping[str, Any]], epochs: Sequence[int]
) -> tuple[Array, tuple[float, float, float, float]]:
    """Counts as [bins, epochs] on the widest histogram's bins, empty ones NaN, and the extent for `imshow`."""
    width = max(histogram["edges"][1] - histogram["edges"][0] for histogram in histograms)
    first = math.floor(min(histogram["edges"][0] for histogram in histograms) / width + 1e-6)
    last = math.ceil(max(histogram["edges"][-1] for histogram in histograms) / width - 1e-6)
    image = np.full((last - first, epochs[-1] - epochs[0] + 1), np.nan)
    for epoch, histogram in zip(epochs, histograms, strict=True):
        edges = np.asarray(histogram["edges"])
        bins = np.floor((edges[:-1] + edges[1:]) / 2 / width).astype(int) - first
        image[:, epoch - epochs[0]] = np.bincount(bins, histogram["counts"], last - first)
    image[image == 0] = np.nan
    return image, (epochs[0] - 0.5, epochs[-1] + 0.5, first * width, last * width)


def _leader_colours(weights: Array, ops: Sequence[str]) -> Array:
    """[K, epochs] → [epochs, RGB]: the leader's colour, white at an even share 1/K and full at 1."""
    from matplotlib.colors import to_rgb

    known = np.nan_to_num(weights, nan=-1.0)
    colours = np.array([to_rgb(_COLOURS[op]) for op in ops])[known.argmax(0)]
    strength = np.clip((known.max(0) - 1 / len(ops)) / (1 - 1 / len(ops)), 0, 1)[:, None] ** 0.5
    return 1 - strength * (1 - colours)


def _leader(weights: Sequence[float], ops: Sequence[str]) -> tuple[str, float]:
    return max(zip(ops, weights, strict=True), key=lambda entry: entry[1])


def _left_out(record: Mapping[str, Any]) -> set[str]:
    """Names of the normal layers that the network derived after an epoch does without."""
    if record["genotype"] is None:
        return set()
    genotype = Genotype.from_json(json.dumps(record["genotype"]))
    live = {f"{name}.{index + 1}" for name, block in genotype.blocks() for index, _ in block.live_layers()}
    return set(record["gamma"]) - live
