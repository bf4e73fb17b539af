"""Count parameters, MACs, receptive field and activation memory of a genotype, without building it in memory.

MACs are those of one image of the given size, padded to multiples of 8; the paper's "FLOPs" are the MACs with biases
(one for every output value of a convolution) at 48x48. Activations are the peak of float32 tensors alive at once in
plain PyTorch. For several stages the receptive field is an upper bound.

With --baselines: parameters and MACs of the networks that the paper compares with, beside the published ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modnas_fast.errors import ModnasError

if TYPE_CHECKING:
    from modnas_fast.networks.summary import LayerSummary, Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--genotype", metavar="NAME|FILE", help="published name, or a JSON file")
    network.add_argument("--baselines", action="store_true", help="the networks that the paper compares with")
    parser.add_argument("--stages", nargs="+", type=int, default=[1], metavar="T", help="unfolded stages (default: 1)")
    parser.add_argument("--size", type=_size, default=(48, 48), metavar="N|WxH", help="width x height (default: 48)")
    parser.add_argument(
        "--channels-in",
        type=int,
        choices=(1, 3),
        help="1 gray, 3 RGB (default: 1; of a baseline, the published one)",
    )
    parser.add_argument("--json", action="store_true", help="a JSON list, an object a number of stages or a baseline")


def run(arguments: argparse.Namespace) -> int:
    if arguments.baselines:
        rows = _baselines(arguments)
        print(json.dumps(rows, indent=2) if arguments.json else _baselines_text(rows))
        return 0
    from modnas_fast.genotype import Genotype
    from modnas_fast.networks.summary import summarize

    genotype = Genotype.load(arguments.genotype)
    width, height = arguments.size
    channels_in = arguments.channels_in or 1
    summaries = [summarize(genotype, stages, channels_in, height, width) for stages in arguments.stages]
    if arguments.json:
        print(json.dumps([summary.to_dict() for summary in summaries], indent=2))
    else:
        print(_text(summaries))
    return 0


def _baselines(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What is counted and what is published of each baseline, as JSON types."""
    from modnas_fast.networks.baselines import BASELINES, count

    if arguments.stages != [1]:
        raise ModnasError("--stages belongs to --genotype; baselines have no stages")
    width, height = arguments.size
    rows = []
    for name, baseline in BASELINES.items():
        channels_in = arguments.channels_in or baseline.channels[0]
        if channels_in not in baseline.channels:
            continue
        as_published = channels_in == baseline.channels[0]
        cost, large = count(name, channels_in, height, width), count(name, channels_in, 256, 256)
        rows.append(
            {
                "name": name,
                "channels_in": channels_in,
                "height": height,
                "width": width,
                "parameters": cost and cost.parameters,
                "published_parameters_k": baseline.params_k if as_published else None,
                "macs": cost and cost.macs,
                "published_macs_g": baseline.macs_g if as_published and (height, width) == (48, 48) else None,
                "kilo_macs_per_pixel": large and large.macs / 256**2 / 1e3,  # no network pads 256x256
                "published_by": baseline.counts_from,
                "psnr": dict(baseline.psnr),
                "psnr_published_by": baseline.psnr_from,
                "paper": baseline.paper,
                "note": baseline.note,
            }
        )
    return rows


def _baselines_text(rows: Sequence[dict[str, Any]]) -> str:
    size = f"{rows[0]['width']}x{rows[0]['height']}"
    table = [("network", "", "parameters", "published", "", f"MACs at {size}", "published", "", "kMAC a pixel")]
    for row in rows:
        parameters, macs = row["parameters"], row["macs"]
        table.append(
            (
                row["name"],
                {1: "gray", 3: "RGB"}[row["channels_in"]],
                f"{parameters:,}" if parameters else "",
                *_published(parameters, row["published_parameters_k"], 1e3, "k"),
                f"{macs / 1e9:.4f} G" if macs else "",
                *_published(macs, row["published_macs_g"], 1e9, " G"),
                f"{row['kilo_macs_per_pixel']:.1f}" if macs else "",
            )
        )
    notes = [f"{row['name']}: {row['note']}" for row in rows if row["note"]]
    return "\n".join([*_aligned(table, "<<>>>>>>>"), "", *notes])


def _published(value: int, published: float | None, unit: float, suffix: str) -> tuple[str, str]:
    """A published count, and by how much ours is off."""
    if published is None:
        return "", ""
    return f"{published:g}{suffix}", f"{value / (published * unit) - 1:+.1%}"


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
