"""Derive a network from a searched supernet: depth by gamma, operations by alpha, widths by beta.

The genotype file also holds the numbers that decided each choice. --inherit slices the supernet's weights, beta in
them, into the derived network: a start for training that one can run at once. Several runs, of searches that differ in
their seed, are averaged.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from modnas_fast.errors import ModnasError

if TYPE_CHECKING:
    from modnas_fast.networks.summary import Summary
    from modnas_fast.search.derive import Derivation, LayerDecision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a search's run folder, or a supernet.safetensors")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the genotype: .json")
    parser.add_argument("--keep", type=float, default=0.9, metavar="SHARE", help="share of sum |beta| to keep (0.9)")
    parser.add_argument("--multiple", type=int, default=8, metavar="N", help="widths are multiples of N (8)")
    parser.add_argument("--inherit", metavar="FILE", help="also write the derived network's weights: .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.networks.summary import summarize
    from modnas_fast.networks.weights import save_weights
    from modnas_fast.search.average import average_architectures
    from modnas_fast.search.derive import derive
    from modnas_fast.search.inherit import inherit_weights
    from modnas_fast.search.weights import SUPERNET_FILE, read_supernet

    sources = [Path(run) / SUPERNET_FILE if Path(run).is_dir() else Path(run) for run in arguments.runs]
    output, weights = Path(arguments.output), Path(arguments.inherit) if arguments.inherit else None
    if weights is not None and len(sources) > 1:
        raise ModnasError("weights are one run's, and an average has none; leave out --inherit, or name one run")
    _check_outputs([output] if weights is None else [output, weights], sources, arguments.overwrite)
    supernets = [read_supernet(source) for source in sources]
    supernet, degradation = supernets[0]
    given = Path(arguments.runs[0]).resolve()
    architecture, name = supernet.architecture, given.name if given.is_dir() else given.stem
    if len(supernets) > 1:
        architecture = average_architectures([net.architecture for net, _ in supernets])
        name = f"average of {len(supernets)} searches"
    derivation = derive(architecture, arguments.keep, arguments.multiple, name)
    try:
        if weights is not None:
            net = inherit_weights(supernet, derivation)
            net.degradation = degradation
            save_weights(weights, net)
        derivation.genotype.save(output)
    except OSError as error:
        raise ModnasError(f"{error.filename or output}: {error.strerror or error}") from None
    summary = summarize(derivation.genotype, channels_in=supernet.channels_in)
    print("\n".join(_lines(derivation, summary)))
    print(output if weights is None else f"{output}\n{weights}")
    return 0


def _check_outputs(outputs: list[Path], sources: list[Path], overwrite: bool) -> None:
    """Refuse, before any work, what would be lost or could not be written."""
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise ModnasError(f"{outputs[0]} is both the genotype and the weights; give two files")
    for path in outputs:
        if path.resolve() in [source.resolve() for source in sources]:
            raise ModnasError(f"{path} is the supernet itself; give another file")
        if path.is_dir():
            raise ModnasError(f"{path} is a folder; give a file")
        if os.path.lexists(path) and not overwrite:
            raise ModnasError(f"{path} exists; choose another name, or add --overwrite")


def _lines(derivation: Derivation, summary: Summary) -> Iterator[str]:
    colour = {1: "gray", 3: "RGB"}.get(summary.channels_in, f"{summary.channels_in} channels")
    yield f"{'layer':8}  {'operation':24}  {'channels':>8}  {'|beta|':>7}  {'omega':>6}  {'p':>6}"
    rows = {row.name: row for row in summary.layers}
    for name, decision in derivation.decisions.items():
        row = rows[name]
        operation = row.op if row.source is None else f"skip -> {row.source}"
        yield _row(name, operation if row.used else f"{operation} (unused)", decision)
    yield ""
    yield (
        f"{summary.genotype}, one stage, {colour} {summary.width}x{summary.height}: {summary.parameters:,} parameters, "
        f"{summary.macs / 1e9:.4f} G MACs ({summary.macs_with_bias / 1e9:.4f} G with biases)"
    )


def _row(name: str, operation: str, decision: LayerDecision) -> str:
    """A table row: the share of |beta| kept, and the weights that won."""
    width = share = omega = p = ""
    if decision.source is None:
        width, share = str(len(decision.kept)), f"{100 * decision.share:.1f} %"
        omega = f"{max(decision.alpha_weights):.3f}"
    if decision.gamma_weights:
        p = f"{max(decision.gamma_weights):.3f}"
    return f"{name:8}  {operation:24}  {width:>8}  {share:>7}  {omega:>6}  {p:>6}".rstrip()
