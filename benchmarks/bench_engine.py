"""MoD-NAS-B, T = 1, gray, with the shipped weights: the compiled engine and its rivals, interleaved in one process.

python -m benchmarks.bench_engine [--sizes 64 256] [--dtypes float32] [--rivals engine mnn] [--repeats 9]
python -m benchmarks.bench_engine --memory --sizes 1024
python -m benchmarks.bench_engine --device cuda [--stages 1 3 6] [--rivals engine "torch half"] [--data DIR/Urban100]

On CUDA the rivals are others: see benchmarks/engine_on_cuda.py. What follows is about the CPU.

Every rival's result is compared with the reference in float64 first; one that fails is reported and not timed. 64x64
is measured on one thread and on two, larger sizes on two. GMAC/s are effective: the network's multiply-accumulates, as
direct convolutions would do them, over the median time. "torch eager" and "torch.compile" (with freezing) run
channels_last, in bfloat16 under autocast. Missing rivals are listed with the name that pip knows.

Memory (--memory) is a fresh process's peak over a call after the first, above what that process held once its packages
were imported: weights, activations, and what the program keeps. Linux only.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.engine_on_cuda import BATCHES, SIDES, STAGES
from benchmarks.engine_on_cuda import RIVALS as CUDA_RIVALS
from benchmarks.engine_on_cuda import run as run_on_cuda
from benchmarks.harness import Row, add_output, append_rows, interleave, peak_memory, positive
from benchmarks.rivals import MODEL, RIVALS, Array, Call, Job, NotMeasuredError, prepare
from modnas_fast import load
from modnas_fast.engine.tiling import run_tiled
from modnas_fast.networks.summary import summarize

ENGINE = "engine"
REPEATS = {64: 40, 256: 20, 512: 9, 1024: 5}
_CALLS = {64: 10}  # a turn at the smallest size is ten calls, so that caches and pools are the rival's own
_TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}  # relative L2; Winograd in float32 costs some rivals 1e-5
_REFERENCE_TILE = 256

_IMPORTS = """import importlib, numpy, torch
from benchmarks.rivals import *
for module in RIVALS[{name!r}].packages: importlib.import_module(module)"""
_RUN = """
import ctypes
call = prepare({name!r}, Job({side}, {dtype!r}, {threads}, Path({folder!r})))
y = np.zeros((1, 1, {side}, {side}), np.float32)
call(y)
ctypes.CDLL(None).malloc_trim(0)
open('/proc/self/clear_refs', 'w').write('5')  # the peak starts anew
call(y)"""


def noisy_image(side: int) -> Array:
    """[1, 1, side, side]: a smooth image with the noise that the network was trained for."""
    axis = np.linspace(0, 3 * np.pi, side)
    clean = 0.5 + 0.3 * np.sin(axis)[:, None] * np.cos(2 * axis)
    noise = np.random.default_rng(0).normal(0, 25 / 255, clean.shape)
    return (clean + noise).astype(np.float32)[None, None]


@functools.cache
def reference(side: int) -> Array:
    """The network's answer to `noisy_image(side)` in float64."""
    with torch.inference_mode():
        return run_tiled(load(MODEL).double(), torch.from_numpy(noisy_image(side)).double(), _REFERENCE_TILE).numpy()


def gather(names: Sequence[str], job: Job) -> tuple[dict[str, Call], dict[str, float], list[Row]]:
    """The rivals that agree with the reference, their errors, and rows of those that are not measured."""
    calls: dict[str, Call] = {}
    errors: dict[str, float] = {}
    absent: list[Row] = []
    y, exact = noisy_image(job.side), reference(job.side)
    for name in names:
        try:
            call = prepare(name, job)
        except NotMeasuredError as reason:
            absent.append({"backend": name, "not_measured": str(reason)})
            continue
        error = float(np.linalg.norm(call(y) - exact) / np.linalg.norm(exact))
        if error <= _TOLERANCES[job.dtype]:
            calls[name], errors[name] = call, error
        else:
            absent.append({"backend": name, "not_measured": "wrong: departs from the reference", "error": error})
    return calls, errors, absent


def measure(names: Sequence[str], job: Job, repeats: int | None) -> list[Row]:
    """Rows of one size, precision and number of threads; prints them."""
    calls, errors, rows = gather(names, job)
    y, count = noisy_image(job.side), _CALLS.get(job.side, 1)
    turns = {name: functools.partial(_repeat, call, y, count) for name, call in calls.items()}
    timings = interleave(turns, repeats or REPEATS.get(job.side, 5), warmup=2)
    macs = summarize(load(MODEL).genotype, height=job.side, width=job.side).macs
    for name, turn in timings.items():
        timing = turn / count
        rows.append({"backend": name, **timing.as_row(), "gmac_s": macs / timing.median / 1e9, "error": errors[name]})
    settings = f"{job.side}x{job.side}, {job.dtype}, {job.threads} thread{'s' * (job.threads > 1)}"
    show(settings, rows, {name: timing.median for name, timing in timings.items()})
    return [{**_circumstances(job), "op": "denoise", "mode": f"{MODEL}, whole image", **row} for row in rows]


def _circumstances(job: Job) -> Row:
    return {"dtype": job.dtype, "shape": [1, 1, job.side, job.side], "threads": job.threads, "device": "cpu"}


def show(title: str, rows: Sequence[Row], figures: dict[str, float]) -> None:
    """Prints rows, a line each, and the verdict on their figures."""
    print(f"\n{title}")
    for row in rows:
        print(_line(row))
    print(verdict(figures))


def _repeat(call: Call, y: Array, count: int) -> None:
    for _ in range(count):
        call(y)


def _line(row: Row) -> str:
    if "not_measured" in row:
        error = f" (error {row['error']:.1e})" if "error" in row else ""
        return f"  {row['backend']:14} not measured: {row['not_measured']}{error}"
    if "peak_mib" in row:
        return f"  {row['backend']:14} {row['peak_mib']:8.1f} MiB"
    times = f"{row['median_ms']:9.2f} ms ({row['p20_ms']:.2f}-{row['p80_ms']:.2f})"
    return f"  {row['backend']:14} {times:34} {row['gmac_s']:7.1f} GMAC/s   error {row['error']:.1e}"


def verdict(figures: dict[str, float]) -> str:
    """The engine against the best of its peers, in a sentence; figures are times or memory, the smaller the better."""
    peers = {name: figure for name, figure in figures.items() if name != ENGINE}
    if ENGINE not in figures or not peers:
        return "  nothing to compare the engine with"
    best = min(peers, key=peers.__getitem__)
    ratio = peers[best] / figures[ENGINE]
    return f"  the engine against the best peer, {best}: {ratio:.2f}x, {'won' if ratio > 1 else 'lost'}"


def measure_memory(names: Sequence[str], job: Job) -> list[Row]:
    """Peak memory of each, in processes of their own; prints them."""
    rows: list[Row] = []
    for name in names:
        try:
            prepare(name, Job(8, job.dtype, job.threads, job.folder))
        except NotMeasuredError as error:
            rows.append({"backend": name, "not_measured": str(error)})
            continue
        imports = _IMPORTS.format(name=name)
        run = _RUN.format(name=name, side=job.side, dtype=job.dtype, threads=job.threads, folder=str(job.folder))
        try:
            rows.append({"backend": name, "peak_mib": peak_memory(imports + run) - peak_memory(imports)})
        except subprocess.CalledProcessError as error:
            rows.append({"backend": name, "not_measured": f"failed: {error.stderr.strip().splitlines()[-1]}"})
    title = f"peak memory, {job.side}x{job.side}, {job.dtype}, {job.threads} threads"
    show(title, rows, {row["backend"]: row["peak_mib"] for row in rows if "peak_mib" in row})
    mode = f"{MODEL}, whole image, above imports"
    return [{**_circumstances(job), "op": "denoise memory", "mode": mode, **row} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", help="multiples of 8")
    parser.add_argument("--dtypes", nargs="+", choices=_TOLERANCES, default=list(_TOLERANCES))
    parser.add_argument("--rivals", nargs="+", help=f"all by default: {', '.join(RIVALS)}; {', '.join(CUDA_RIVALS)}")
    parser.add_argument("--stages", nargs="+", type=positive, default=STAGES, metavar="T", help="on CUDA")
    parser.add_argument("--batches", nargs="+", type=positive, default=BATCHES, metavar="N", help="on CUDA")
    parser.add_argument("--data", type=Path, metavar="DIR", help="on CUDA: a folder of images to denoise")
    parser.add_argument("--threads", nargs="+", type=positive, metavar="N", help="default: 2, and 1 as well at 64")
    parser.add_argument("--repeats", type=positive, help="timed turns of each")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    add_output(parser)
    arguments = parser.parse_args()
    known = CUDA_RIVALS if arguments.device == "cuda" else RIVALS
    rivals = arguments.rivals or list(known)
    sizes = arguments.sizes or (SIDES if arguments.device == "cuda" else sorted(REPEATS))
    if any(side < 8 or side % 8 for side in sizes):
        parser.error("sizes are multiples of 8")
    if not set(rivals) <= set(known):
        parser.error(f"rivals on {arguments.device} are {', '.join(known)}")
    if arguments.device == "cuda":
        run_on_cuda(
            rivals, arguments.stages, arguments.batches, sizes, arguments.repeats, arguments.data, arguments.output
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        for side in sizes:
            for dtype in arguments.dtypes:
                for threads in arguments.threads or ((1, 2) if side == 64 and not arguments.memory else (2,)):
                    job = Job(side, dtype, threads, Path(folder))
                    rows = measure_memory(rivals, job) if arguments.memory else measure(rivals, job, arguments.repeats)
                    path = append_rows(rows, arguments.output)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
