"""The engine's latency for genotypes side by side: float32, one stage, gray, in turn in one process, parity first.

python -m benchmarks.bench_genotypes [GENOTYPE ...] [--repeats 15] [-o FILE]      # names or JSON files
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Row, add_output, append_rows, interleave, positive
from modnas_fast import DerivedNet, Genotype
from modnas_fast.engine.engine import Engine

LIMIT = 1e-4  # largest difference from PyTorch in float64
SIDES = (256, 512)
GENOTYPES = ["modnas-b", "modnas-fast-a", "modnas-fast-b"]
THREADS = (1, 2)


def engine_of(genotype: Genotype, threads: int) -> tuple[Engine, float]:
    """An engine with random weights, and its error on an image."""
    torch.manual_seed(0)
    net = DerivedNet(genotype).eval()
    engine = Engine(genotype, net.state_dict(), threads=threads)
    x = torch.rand(1, 1, 72, 88)
    with torch.inference_mode():
        exact = net.double()(x.double())
    return engine, float((torch.from_numpy(engine(x.numpy())).double() - exact).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("genotypes", nargs="*", default=GENOTYPES, metavar="GENOTYPE")
    parser.add_argument("--repeats", type=positive, default=15, help="timed calls of each")
    add_output(parser)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for threads in THREADS:
        engines = {Path(name).stem: engine_of(Genotype.load(name), threads) for name in arguments.genotypes}
        for name, (_, error) in engines.items():
            if not error < LIMIT:
                sys.exit(f"{name}: departs by {error:.1e}, more than {LIMIT:.0e}; nothing is timed")
        for side in SIDES:
            x = np.random.default_rng(0).random((1, 1, side, side), np.float32)
            calls = {name: functools.partial(engine, x) for name, (engine, _) in engines.items()}
            for name, timing in interleave(calls, arguments.repeats, 2).items():
                print(f"{name:16} {side}², {threads} threads: {1e3 * timing.median:7.1f} ms")
                place = {"op": "engine, by genotype", "backend": name, "mode": "T=1", "dtype": "float32"}
                size = {"shape": [*x.shape], "threads": threads, "error": engines[name][1]}
                rows.append(place | size | timing.as_row())
    print(append_rows(rows, arguments.output))


if __name__ == "__main__":
    main()
