"""What every benchmark shares: interleaved timing, peak memory, and rows that describe themselves."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modnas_fast.bench.rows import Row, circumstances, machine_name, read_rows, write_rows

__all__ = [
    "DTYPES",
    "PRECISIONS",
    "RESULTS",
    "Row",
    "Timing",
    "add_output",
    "append_rows",
    "interleave",
    "kernel_line",
    "machine_name",
    "peak_memory",
    "positive",
]

RESULTS = Path(__file__).parent / "results"
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}  # what configurations call a row's dtype
DTYPES = {precision: dtype for dtype, precision in PRECISIONS.items()}


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate: median, 20th and 80th percentile over the repeats, and these as they came."""

    median: float
    low: float
    high: float
    samples: tuple[float, ...] = ()

    def __truediv__(self, count: int) -> Timing:
        """Of one of `count` calls that were timed as one."""
        return Timing(
            self.median / count, self.low / count, self.high / count, tuple(second / count for second in self.samples)
        )

    def as_row(self) -> Row:
        times = {"median_ms": 1e3 * self.median, "p20_ms": 1e3 * self.low, "p80_ms": 1e3 * self.high}
        return times | ({"samples_ms": [float(f"{1e3 * s:.6g}") for s in self.samples]} if self.samples else {})


def interleave(
    candidates: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1, wait: Callable[[], None] = lambda: None
) -> dict[str, Timing]:
    """Time candidates in turn, A B C A B C …, so that a machine whose speed drifts treats them alike.

    Args:
        candidates: name → what is timed.
        repeats: timed calls of each.
        warmup: calls of each before.
        wait: ends a call, a device's synchronisation for instance.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + repeats):
        for name, run in candidates.items():
            started = time.perf_counter()
            run()
            wait()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - started)
    percentiles = {name: [float(np.percentile(s, q)) for q in (50, 20, 80)] for name, s in seconds.items()}
    return {name: Timing(p[0], p[1], p[2], tuple(seconds[name])) for name, p in percentiles.items()}


def peak_memory(code: str, threads: int | None = None) -> float:
    """Peak resident memory, in MiB, of a fresh Python process that runs `code`; Linux only.

    VmHWM, since ru_maxrss of a child starts at what its parent held when it was forked.
    """
    program = code + "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=RESULTS.parents[1],
    )
    return int(done.stdout.split()[-1]) / 2**10


def add_output(parser: argparse.ArgumentParser) -> None:
    """-o FILE, for `append_rows`."""
    where = "where rows are added (benchmarks/results/MACHINE.json)"
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=where)


def positive(text: str) -> int:
    """A command line's whole number of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def append_rows(rows: Iterable[Row], output: Path | None = None) -> Path:
    """Add rows to `output`, or this machine's file, each with machine, threads, versions, commit and date.

    What a row says itself comes first.
    The file, which is returned, is a JSON list, one row a line; what was measured before stays.
    """
    path = output or RESULTS / f"{machine_name()}.json"
    here = circumstances()
    write_rows(path, [*(read_rows(path) if path.exists() else []), *({**here, **row} for row in rows)])
    return path


def kernel_line(kernel: str, *columns: object) -> str:
    """A line of the tables that tell what compiled kernels take."""
    return f"{kernel:36}" + "".join(f"{column!s:>10}" for column in columns)
