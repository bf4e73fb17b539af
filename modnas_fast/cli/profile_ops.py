"""Measure every candidate operation on this machine, for searches with a latency penalty.

Writes a JSON table of times at every resolution of the U-net and several widths, and checks what it predicts against
whole networks: the published ones and random ones, of one stage. Takes a minute or two; leave the machine alone.
With --engine the compiled engine is measured, in float32 on the CPU, for searches of networks that will run on it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from modnas_fast.errors import ModnasError

if TYPE_CHECKING:
    from modnas_fast.search.latency import LatencyTable

_CALM = 1.5  # the spread of times from which on the medians deserve no trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the table: .json")
    parser.add_argument("--channels", type=int, default=48, metavar="C", help="greatest width, the search's C (48)")
    parser.add_argument("--size", type=int, default=256, metavar="N", help="images are N x N, a multiple of 8 (256)")
    parser.add_argument("--channels-in", type=int, choices=(1, 3), default=1, help="1 gray (default), 3 RGB")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--engine", action="store_true", help="measure the compiled engine instead of PyTorch")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="timed rounds (9)")
    parser.add_argument("--validate", type=int, default=6, metavar="N", help="random networks to check (6)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing table")


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.cli.progress import ProgressLine

    output = Path(arguments.output)
    if output.is_dir():
        raise ModnasError(f"{output} is a folder; give a file")
    if os.path.lexists(output) and not arguments.overwrite:
        raise ModnasError(f"{output} exists; choose another name, or add --overwrite")
    for key in ("threads", "validate"):
        if getattr(arguments, key) < 0:
            raise ModnasError(f"--{key} is {getattr(arguments, key)}; it cannot be negative")
    progress = ProgressLine()
    try:
        table = (_profile_engine if arguments.engine else _profile)(arguments, progress.update)
    finally:
        progress.clear()
    try:
        table.save(output)
    except OSError as error:
        raise ModnasError(f"{output}: {error.strerror or error}") from None
    print("\n".join(_lines(table)))
    print(output)
    return 0


def _profile(arguments: argparse.Namespace, on_progress: Callable[[float, str], None]) -> LatencyTable:
    """PyTorch's modules on the chosen device."""
    import torch

    from modnas_fast.networks.device import choose_device
    from modnas_fast.search.profiling import profile

    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads or threads)
    try:
        device = choose_device(arguments.device)
        sizes = arguments.channels, arguments.size, arguments.channels_in
        return profile(*sizes, device, arguments.repeats, arguments.validate, on_progress)
    finally:
        torch.set_num_threads(threads)


def _profile_engine(arguments: argparse.Namespace, on_progress: Callable[[float, str], None]) -> LatencyTable:
    """The compiled engine's layers."""
    import torch

    from modnas_fast.engine.profiling import profile_engine

    if arguments.device not in ("auto", "cpu"):
        raise ModnasError(f"--device is {arguments.device}; --engine measures on the CPU: leave one of them out")
    threads = arguments.threads or torch.get_num_threads()
    sizes = arguments.channels, arguments.size, arguments.channels_in
    return profile_engine(*sizes, threads, arguments.repeats, arguments.validate, on_progress)


def _lines(table: LatencyTable) -> Iterator[str]:
    where = table.settings
    yield f"{where.machine}, {where.device}{table.cores}; one stage, {where.size}x{where.size}, ms"
    if table.spread > _CALM:
        yield f"note: the times spread by x{table.spread:.1f} (p80 / p20): other programs were running; measure again"
    if table.mean_error is None:
        return
    width = max(len(network.network) for network in table.validation)
    yield f"{'network':{width}}  {'predicted':>10}  {'measured':>10}  {'p20':>10}  {'p80':>10}  {'error':>8}"
    for network in table.validation:
        times = (network.predicted_ms, network.median_ms, network.p20_ms, network.p80_ms)
        figures = "  ".join(f"{milliseconds:10.3f}" for milliseconds in times)
        yield f"{network.network:{width}}  {figures}  {100 * network.error:+6.1f} %"
    context = f"a network takes {table.context:.2f} x the sum of its parts"
    yield f"mean absolute relative error {100 * table.mean_error:.1f} %; {context}"
