"""A drawing of one stage like the paper's Fig. 2(c): the U-net, a box a layer, coloured by its kind of operation."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modnas_fast.atomic import write_atomically
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import DECODER_BLOCKS, ENCODER_BLOCKS, LAYERS_PER_BLOCK, Genotype
from modnas_fast.networks.summary import LayerSummary, Summary, reached_positions, summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Operation less its kernel → the paper's abbreviation, what it stands for, colour.
_KINDS = {
    "conv": ("Conv", "convolution", "#b3d0ee"),
    "res_block": ("RB", "residual block", "#f7b985"),
    "sep_conv": ("SC", "separable convolution", "#abdca2"),
    "dil_conv": ("DC", "dilated convolution", "#cfb9ea"),
    "nearest": ("NI", "nearest interpolation, 1×1 conv", "#fbe38f"),
    "bilinear": ("BI", "bilinear interpolation, 1×1 conv", "#ffcfd5"),
    "area": ("AI", "area interpolation, 1×1 conv", "#d8d3b8"),
    "deconv": ("Deconv", "transposed convolution", "#93d6d3"),
    "sub_pixel": ("Sub-pixel", "3×3 convolution, pixel shuffle", "#e9a6ca"),
}
_INK, _SKIP, _FAINT, _FEATURE = "#222222", "#555555", "#858585", "#2f62ad"
_DASHED, _DOTTED = (0, (4, 2.5)), (0, (1, 1.6))
_BANDS = ("#f6f7f9", "#eceff3")
_FONT = "DejaVu Sans"  # comes with matplotlib

# One unit of the axes is one inch of the page; x counts columns to the right and y rows down from stem.1.
_COLUMN, _ROW = 2.3, 0.54
_BOX_WIDTH, _BOX_HEIGHT, _TAG_WIDTH = 1.95, 0.37, 0.62
_LEFT, _TOP, _RIGHT, _BOTTOM = 1.7, 1.35, 1.3, 0.7  # from the outermost centres to the page's edges
_LEVEL_ROWS = 5  # of a resolution: the longest column, and the resampling layers below it
_LAST_ROW = ENCODER_BLOCKS * _LEVEL_ROWS + 1
_LAST_COLUMN = ENCODER_BLOCKS + LAYERS_PER_BLOCK + DECODER_BLOCKS - 2
_DETOUR = 0.17  # between a box and an arrow around it


@dataclass(frozen=True)
class _Box:
    """A layer and the centre of its box."""

    layer: LayerSummary
    x: float
    y: float

    def edge(self, right: int, down: int) -> tuple[float, float]:
        """The middle of one side: (1, 0) of the right, (0, -1) of the top."""
        return self.x + right * _BOX_WIDTH / 2, self.y + down * _BOX_HEIGHT / 2


def plot_genotype(genotype: Genotype) -> Figure:
    """Draw one stage of a genotype.

    The encoder runs down the left, DB1 along the bottom and the decoder up the right. A box names its layer, operation,
    kernel size and output width, as "EB2.2 SC 5×5, 40". Dashed boxes are skips, another layer's output under this name;
    dotted ones never run, since a later skip passes them by. Blue arrows are the encoder features.

    Returns:
        A matplotlib Figure: no window, no pyplot and no global state. Its costs are those of a 48×48 gray image.

    Raises:
        ModnasError: matplotlib is missing.
    """
    matplotlib = _matplotlib()
    summary = summarize(genotype)
    width, height = _LAST_COLUMN * _COLUMN + _LEFT + _RIGHT, _LAST_ROW * _ROW + _TOP + _BOTTOM
    figure: Figure = matplotlib.figure.Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-_LEFT, width - _LEFT)
    axes.set_ylim(height - _TOP, -_TOP)
    boxes = {layer.name: _Box(layer, *_place(layer.name)) for layer in summary.layers if layer.name != "delta"}
    _draw_levels(axes)
    _draw_flow(axes, genotype, boxes)
    for box in boxes.values():
        _draw_box(axes, box)
    _draw_title(axes, summary)
    _draw_legend(axes, summary)
    return figure


def save_plot(genotype: Genotype, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write `plot_genotype(genotype)` to a file, atomically; the same genotype gives the same bytes.

    Args:
        genotype: what to draw.
        path: ends in .svg (its text stays text) or .png (150 pixels an inch).
        overwrite: replace an existing file.

    Raises:
        ModnasError: another suffix, an existing file and no `overwrite`, a failed write, or matplotlib is missing.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise ModnasError(f"{target}: a drawing is an .svg or a .png; its name ends in {suffix or 'neither'}")
    if target.exists() and not overwrite:
        raise ModnasError(f"{target}: exists; give another name, or --overwrite")
    rendered = io.BytesIO()
    # matplotlib knows these two as settings only; the context gives the caller's back.
    with _matplotlib().rc_context({"svg.fonttype": "none", "svg.hashsalt": "modnas-fast"}):
        metadata = {"Date": None} if suffix == ".svg" else None
        plot_genotype(genotype).savefig(rendered, format=suffix[1:], dpi=150, metadata=metadata)
    try:
        write_atomically(target, rendered.getvalue(), overwrite=overwrite)
    except OSError as error:
        raise ModnasError(f"{target}: cannot be written: {error.strerror}") from None


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError:
        raise ModnasError("drawing needs matplotlib: pip install 'modnas-fast[plot]'") from None
    return matplotlib


def _place(name: str) -> tuple[float, float]:
    """Where a layer's box is centred; both ends of an encoder feature are in one row."""
    number, part = int(name[2]) if name[1] == "B" else 0, name[4:]
    if number == 0:  # "stem.1", "stem.2", "out"
        column, row = (_LAST_COLUMN, 0) if name == "out" else (0, int(name[5]) - 1)
    elif name.startswith("EB"):
        order = ("1", "2", "3", "down")
        column, row = number - 1, number * _LEVEL_ROWS - LAYERS_PER_BLOCK + order.index(part)
    elif number == 1:
        column = ENCODER_BLOCKS - 1 + (LAYERS_PER_BLOCK if part == "up" else int(part))
        row = _LAST_ROW - (part == "up")
    else:
        column = ENCODER_BLOCKS + LAYERS_PER_BLOCK + number - 2
        row = (DECODER_BLOCKS + 1 - number) * _LEVEL_ROWS - 1 - ("fuse", "1", "2", "3", "up").index(part)
    return column * _COLUMN, row * _ROW


def _draw_levels(axes: Axes) -> None:
    """A band for each resolution, with its size on the left; the resampling layers straddle two."""
    for level in range(ENCODER_BLOCKS + 1):
        top = -0.5 if level == 0 else level * _LEVEL_ROWS
        bottom = _LAST_ROW + 1.3 if level == ENCODER_BLOCKS else (level + 1) * _LEVEL_ROWS
        axes.axhspan(top * _ROW, bottom * _ROW, color=_BANDS[level % 2], linewidth=0, zorder=0)
        size = "H × W" if level == 0 else f"H/{2**level} × W/{2**level}"
        middle = (top + bottom) / 2 * _ROW
        _text(axes, 0.25 - _LEFT, middle, size, size=9, rotation=90, color=_FAINT, va="center")


def _draw_box(axes: Axes, box: _Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    layer, skip = box.layer, box.layer.source is not None
    colour = _FAINT if not layer.used else _SKIP if skip else _INK
    left = box.x - _BOX_WIDTH / 2
    outline = FancyBboxPatch((left, box.y - _BOX_HEIGHT / 2), _BOX_WIDTH, _BOX_HEIGHT, zorder=3, linewidth=0.9)
    outline.set_boxstyle("round", pad=0, rounding_size=0.06)
    outline.set_facecolor(_KINDS[_kind(layer)][2] if layer.used and not skip else "white")
    outline.set_edgecolor(colour)
    outline.set_linestyle(_DOTTED if not layer.used else _DASHED if skip else "solid")
    axes.add_patch(outline)
    _text(axes, left + 0.07, box.y, layer.name, size=7, ha="left", color=colour)
    middle = left + (_TAG_WIDTH + _BOX_WIDTH) / 2
    weight = "bold" if layer.used and not skip else "normal"
    _text(axes, middle, box.y, _label(layer), size=9, color=colour, weight=weight)


def _kind(layer: LayerSummary) -> str:
    """The key of `_KINDS`: the operation without its kernel size."""
    return re.sub(r"_\d+x\d+$", "", layer.op)


def _label(layer: LayerSummary) -> str:
    if layer.source is not None:
        return f"skip → {layer.source}"
    kernel = re.search(r"(\d+)x(\d+)$", layer.op)
    return f"{_KINDS[_kind(layer)][0]}{f' {kernel[1]}×{kernel[2]}' if kernel else ''}, {layer.channels_out}"


def _draw_flow(axes: Axes, genotype: Genotype, boxes: dict[str, _Box]) -> None:
    """Arrows along what runs, and the encoder features."""
    first, last = boxes["stem.1"], boxes["out"]
    _arrow(axes, [(first.x, first.y - 0.62), first.edge(0, -1)])
    _text(axes, first.x + 0.12, first.y - 0.5, "xᵗ⁻¹", size=10, ha="left")
    _arrow(axes, [last.edge(0, -1), (last.x, last.y - 0.62)])
    _text(axes, last.x - 0.12, last.y - 0.5, "f(xᵗ⁻¹)", size=10, ha="right")
    _connect(axes, boxes["stem.1"], boxes["stem.2"])
    before = boxes["stem.2"]
    for name, block in genotype.blocks():
        number = int(name[2])
        if f"{name} fuse" in boxes:
            fuse, feature = boxes[f"{name} fuse"], boxes[f"EB{DECODER_BLOCKS + 1 - number}.{LAYERS_PER_BLOCK}"]
            _arrow(axes, [feature.edge(1, 0), fuse.edge(-1, 0)], _FEATURE)
            _connect(axes, before, fuse)
            before = fuse
        for position, following in pairwise((0, *reached_positions(block))):
            target = boxes[f"{name}.{following}"]
            (_connect if following == position + 1 else _pass_by)(axes, before, target)
            before = target
        after = f"{name} down" if name.startswith("EB") else "out" if number == DECODER_BLOCKS else f"{name} up"
        _connect(axes, before, boxes[after])
        before = boxes[after]


def _connect(axes: Axes, source: _Box, target: _Box) -> None:
    """An arrow to the next box: straight in a row or column, or else right and then up or down."""
    down = 1 if target.y > source.y else -1
    if source.y == target.y:
        _arrow(axes, [source.edge(1, 0), target.edge(-1, 0)])
    elif source.x == target.x:
        _arrow(axes, [source.edge(0, down), target.edge(0, -down)])
    else:
        _arrow(axes, [source.edge(1, 0), (target.x, source.y), target.edge(0, -down)])


def _pass_by(axes: Axes, source: _Box, target: _Box) -> None:
    """An arrow around the boxes between two of a block, which do not run: outside of the U."""
    if target.layer.name.startswith("DB1"):  # a row: below it
        below = target.y + _BOX_HEIGHT / 2 + _DETOUR
        _arrow(axes, [source.edge(0, 1), (source.x, below), (target.x, below), target.edge(0, 1)])
    elif source.x != target.x:  # from the level above, where the source's column is free
        _arrow(axes, [source.edge(0, 1), (source.x, target.y), target.edge(-1, 0)])
    else:
        side = -1 if target.layer.name.startswith("EB") else 1
        beside = source.x + side * (_BOX_WIDTH / 2 + _DETOUR)
        _arrow(axes, [source.edge(side, 0), (beside, source.y), (beside, target.y), target.edge(side, 0)])


def _arrow(axes: Axes, points: Sequence[tuple[float, float]], colour: str = _INK) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Line

    line = Line(list(points))
    axes.add_patch(
        FancyArrowPatch(path=line, arrowstyle="-|>", mutation_scale=9, linewidth=1.1, color=colour, zorder=2)
    )


def _draw_title(axes: Axes, summary: Summary) -> None:
    middle = _LAST_COLUMN * _COLUMN / 2
    costs = (
        f"one stage: {summary.parameters:,} parameters · {summary.macs_with_bias / 1e9:.4f} G MACs at 48×48 gray · "
        f"receptive field ±{summary.receptive_field_radius} pixels"
    )
    _text(axes, middle, 0.45 - _TOP, summary.genotype or "genotype", size=17, weight="bold")
    _text(axes, middle, 0.8 - _TOP, costs, size=10.5)


def _draw_legend(axes: Axes, summary: Summary) -> None:
    """What occurs in this drawing, in the hollow of the U."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds = {_kind(layer) for layer in summary.layers if layer.used and layer.source is None}
    handles: list[Any] = [
        Patch(facecolor=colour, edgecolor=_INK, linewidth=0.9, label=f"{short}  {meaning}")
        for kind, (short, meaning, colour) in _KINDS.items()
        if kind in kinds
    ]
    if any(layer.source is not None and layer.used for layer in summary.layers):
        handles.append(Patch(facecolor="white", edgecolor=_SKIP, linestyle=_DASHED, label="skip: another's output"))
    if not all(layer.used for layer in summary.layers):
        handles.append(Patch(facecolor="white", edgecolor=_FAINT, linestyle=_DOTTED, label="unused: passed by"))
    handles.append(Line2D([], [], color=_FEATURE, linewidth=1.4, label="encoder feature, concatenated"))
    axes.legend(
        handles=handles,
        loc="center",
        bbox_to_anchor=(_LAST_COLUMN * _COLUMN / 2, 1.6 * _ROW),
        bbox_transform=axes.transData,
        ncols=3,
        frameon=False,
        prop={"family": _FONT, "size": 9.5},
        handlelength=2.2,
        handleheight=1.1,
        columnspacing=2.5,
        labelspacing=0.7,
    )


def _text(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    style = {"ha": "center", "va": "center_baseline", "color": _INK, **style}
    axes.text(x, y, text, family=_FONT, zorder=4, parse_math=False, **style)
