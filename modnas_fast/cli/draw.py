"""Draw networks of a given latency from a search: operations by the probabilities of alpha, depths by those of gamma.

For a search that has not decided yet, or for other latencies than the derived network's: train each for a while, keep
the best. Writes genotypes, draw-01.json and so on, into a folder.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from modnas_fast.errors import ModnasError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a search's run folder, or a supernet.safetensors")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="where the genotypes go")
    parser.add_argument("--latency", required=True, metavar="FILE", help="the table that modnas-fast profile-ops wrote")
    parser.add_argument(
        "--between", required=True, nargs=2, type=float, metavar="MS", help="a stage's least and greatest latency"
    )
    parser.add_argument("--count", type=int, default=16, metavar="N", help="how many (16)")
    parser.add_argument(
        "--keep",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="widths: each keeps this share of sum |beta| to 1 (0.9)",
    )
    parser.add_argument("--multiple", type=int, default=8, metavar="N", help="widths are multiples of N (8)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (0)")


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.networks.summary import summarize
    from modnas_fast.search.draw import draw_within
    from modnas_fast.search.latency import LatencyTable
    from modnas_fast.search.weights import SUPERNET_FILE, load_supernet

    source, folder = Path(arguments.run), Path(arguments.output)
    if arguments.count < 1:
        raise ModnasError(f"count is {arguments.count}; it must be at least 1")
    if next(folder.glob("draw-*.json"), None) is not None:
        raise ModnasError(f"{folder} holds drawn networks already; choose another folder")
    supernet = load_supernet(source / SUPERNET_FILE if source.is_dir() else source)
    table = LatencyTable.load(arguments.latency)
    least, most = arguments.between
    options = (arguments.seed, arguments.keep, arguments.multiple)
    drawn = draw_within(supernet.architecture, table, least, most, *options)
    print(f"{'genotype':16}  {'ms':>7}  {'parameters':>10}  {'G MACs':>7}", flush=True)
    for number, (genotype, latency) in enumerate(itertools.islice(drawn, arguments.count), 1):
        path = folder / f"draw-{number:02}.json"
        genotype.save(path)
        summary = summarize(genotype, channels_in=supernet.channels_in)
        print(f"{path.stem:16}  {latency:7.1f}  {summary.parameters:10,}  {summary.macs / 1e9:7.4f}", flush=True)
    print(folder)
    return 0
