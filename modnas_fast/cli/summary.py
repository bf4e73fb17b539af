"""Count parameters, MACs, receptive field and activation memory of a genotype, without building it in memory.

MACs are those of one image of the given size, padded to multiples of 8; the paper's "FLOPs" are the MACs with biases
(one for every output value of a convolution) at 48x48. Activations are the peak of float32 tensors alive at once in
plain PyTorch. For several stages the receptive field is an upper bound.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modnas_fast.networks.summary import LayerSummary, Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--genotype", required=True, metavar="NAME|FILE", help="published name, or a JSON file")
    parser.add_argument("--stages", nargs="+", type=int, default=[1], metavar="T", help="unfolded stages (default: 1)")
    parser.add_argument("--size", type=_size, default=(48, 48), metavar="N|WxH", help="width x height (default: 48)")
    parser.add_argument("--channels-in", type=int, choices=(1, 3), default=1, help="1 gray (default), 3 RGB")
    parser.add_argument("--json", action="store_true", help="print one JSON list, an object a number of stages")


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.genotype import Genotype
    from modnas_fast.networks.summary import summarize

    genotype = Genotype.load(arguments.genotype)
    width, height = arguments.size
    summaries = [summarize(genotype, stages, arguments.channels_in, height, width) for stages in arguments.stages]
    if arguments.json:
        print(json.dumps([summary.to_dict() for summary in summaries], indent=2))
    else:
        print(_text(summaries))
    return 0


def _size(text: str) -> tuple[int, int]:
    """(width, height) of "48" or "1280x720"."""
    width, cross, height = text.lower().partition("x")
    try:
        return int(width), int(height if cross else width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give one side, or WIDTHxHEIGHT as 1280x720") from None


def _text(summaries: Sequence[Summary]) -> str:
    first = summaries[0]
    colour = {1: "gray", 3: "RGB"}[first.channels_in]
    layers = [("layer", "size", "operation", "channels", "parameters", "MACs"), *map(_layer_row, first.layers)]
    heads = ("stages", "parameters", "MACs", "MACs with biases", "receptive field", "activations")
    totals = [heads, *map(_total_row, summaries)]
    return "\n".join(
        [
            f"{first.genotype or 'genotype'}, one stage, {colour} {first.width}x{first.height}",
            "",
            *_aligned(layers, "<<<>>>"),
            "",
            *_aligned(totals, ">>>>>>"),
        ]
    )


def _layer_row(layer: LayerSummary) -> tuple[str, ...]:
    operation = layer.op if layer.source is None else f"skip -> {layer.source}"
    row = (layer.name, f"{layer.width}x{layer.height}", operation if layer.used else f"{operation} (unused)")
    if layer.op == "skip":
        return (*row, "", "", "")
    if not layer.used:
        return (*row, f"{layer.channels_in} -> {layer.channels_out}", "", "")
    macs = f"{layer.macs:,}" if layer.macs else ""
    return (*row, f"{layer.channels_in} -> {layer.channels_out}", f"{layer.parameters:,}", macs)


def _total_row(summary: Summary) -> tuple[str, ...]:
    return (
        str(summary.stages),
        f"{summary.parameters:,}",
        f"{summary.macs / 1e9:.4f} G",
        f"{summary.macs_with_bias / 1e9:.4f} G",
        f"{summary.receptive_field} (+-{summary.receptive_field_radius})",
        f"{summary.activation_bytes / 2**20:.2f} MiB",
    )


def _aligned(rows: Sequence[tuple[str, ...]], alignment: str) -> list[str]:
    """The rows as lines, two spaces between columns; `alignment` has < or > for each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, alignment, widths, strict=True)).rstrip()
        for row in rows
    ]
