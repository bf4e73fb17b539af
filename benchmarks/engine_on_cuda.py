"""The engine and PyTorch on a GPU: `python -m benchmarks.bench_engine --device cuda`.

MoD-NAS-B, T = 1, 3 and 6 (every stage with the shipped weights of T = 1), gray, images on the device. "torch eager" is
float32 without TF32, the reference of all results; "torch half" is float16, channels_last; "torch graph" the same in a
CUDA graph, and "torch.compile" by max-autotune, at T = 1 alone, since that takes minutes. A call ends when its result
is there. `roofline` is the least time that the arithmetic and the bytes of the engine's plan can take at the GPU's
published rates, over the median: 1 is perfect.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row, append_rows, interleave
from modnas_fast import DerivedNet, load
from modnas_fast.bench.machine import without_tf32
from modnas_fast.engine.engine import Engine
from modnas_fast.engine.tiling import run_tiled
from modnas_fast.errors import ModnasError

MODEL = "modnas-b-t1-gray-s25"
STAGES, SIDES, BATCHES = (1, 3, 6), (256, 512, 1024, 2048), (1, 16)
RIVALS = ("engine", "torch eager", "torch half", "torch graph", "torch.compile")
_TOLERANCE = 1e-2  # relative L2 of half precision
_REPEATS, _FEWEST = {256: 100, 512: 50, 1024: 30, 2048: 15}, 5
_SECONDS = 8.0  # that the turns of a size take, unless the fewest take longer
_MOST_PIXELS = 1 << 25  # of a batch, for rivals that keep all activations: 16 images of 1448²

# Multiply-accumulates a second by tensor cores in half precision, bytes a second: NVIDIA's data sheets.
_RATES = {
    "H200": (494e12, 4.8e12),
    "H100": (494e12, 3.35e12),
    "A100": (156e12, 1.55e12),
    "2080 Ti": (53.8e12, 0.616e12),
}

Call = Callable[[], Tensor]


def unfolded(stages: int) -> DerivedNet:
    """The shipped network, its one stage repeated."""
    net = load(MODEL)
    stage = net.state_dict().items()
    state = {name.replace("stages.0.", f"stages.{t}."): value for name, value in stage for t in range(stages)}
    repeated = DerivedNet(net.genotype, stages, net.channels_in)
    repeated.load_state_dict(state)
    return repeated.eval()


def prepare(name: str, net: DerivedNet, engine: Engine, y: Tensor) -> Call:
    """The call that is timed.

    Raises:
        ModnasError: it is not measured here; the message says why.
    """
    if name == "engine":
        out = torch.empty_like(y)
        return lambda: engine(y, out=out)
    if y.numel() > _MOST_PIXELS:
        raise ModnasError("its activations are not sure to fit")
    if name == "torch eager":
        return lambda: net(y)
    half = copy.deepcopy(net).to(torch.float16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    noisy = y.half()
    if name == "torch half":
        return lambda: half(noisy)
    if name == "torch graph":
        return _Graphed(half, noisy)
    if len(net.stages) > 1:
        raise ModnasError("measured at T = 1 alone")
    compiled: Any = torch.compile(half, mode="max-autotune", dynamic=False)
    return lambda: compiled(noisy)


class _Graphed:
    """A network's call on an image, captured; it holds what the graph reads and writes."""

    def __init__(self, net: DerivedNet, y: Tensor) -> None:
        self._net, self._y = net, y
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                net(y)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = net(y)

    def __call__(self) -> Tensor:
        self._graph.replay()
        return cast(Tensor, self._result)


def roofline_seconds(macs: int, traffic: int) -> float | None:
    """The least seconds that so much arithmetic and memory traffic take on this GPU; None if its rates are unknown."""
    name = torch.cuda.get_device_name()
    rates = next((rates for part, rates in _RATES.items() if part in name), None)
    return None if rates is None else max(macs / rates[0], traffic / rates[1])


@torch.no_grad()
def measure(rivals: Sequence[str], stages: int, side: int, batch: int, repeats: int | None) -> list[Row]:
    """Rows of one network, size and batch; prints them."""
    net: DerivedNet = unfolded(stages).cuda()
    engine = Engine(net.genotype, net.cpu().state_dict(), device="cuda")
    net = net.cuda()
    y = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(0)).cuda()
    exact = run_tiled(net, y[:1], 1024)
    rows: list[Row] = []
    calls: dict[str, Call] = {}
    for name in rivals:
        try:
            call = prepare(name, net, engine, y)
            result = call()[:1].float()
            torch.cuda.synchronize()
        except (ModnasError, RuntimeError) as error:  # too little memory, or a peer that this GPU or version cannot run
            rows.append({"backend": name, "not_measured": str(error).splitlines()[0]})
            continue
        departure = float((result - exact).norm() / exact.norm())
        if departure <= _TOLERANCE:
            calls[name] = call
            rows.append({"backend": name, "error": departure})
        else:
            rows.append({"backend": name, "not_measured": "wrong: departs from the reference", "error": departure})
    plan = engine.plan(side, side)
    timings = interleave(calls, repeats or _repeats_of(calls, side), warmup=3, wait=torch.cuda.synchronize)
    least = roofline_seconds(batch * plan.macs, batch * plan.traffic)
    print(f"\nT = {stages}, {batch} x {side}x{side}", flush=True)
    for row in rows:
        if row["backend"] in timings:
            timing = timings[row["backend"]]
            row |= timing.as_row() | {"gmac_s": batch * plan.macs / timing.median / 1e9}
            row |= {"p99_ms": float(np.percentile(timing.samples, 99)) * 1e3}
            row |= {"roofline": least / timing.median} if least is not None else {}
        print(_line(row), flush=True)
    print(_verdict({name: timing.median for name, timing in timings.items()}), flush=True)
    engine.release()
    torch.cuda.empty_cache()
    common: Row = {"op": "denoise", "mode": f"{MODEL} x {stages}, on the device", "shape": [batch, 1, side, side]}
    dtypes = {"torch eager": "float32"}
    return [
        {**common, "device": torch.cuda.get_device_name(), "dtype": dtypes.get(row["backend"], "float16"), **row}
        for row in rows
    ]


def _repeats_of(calls: Mapping[str, Call], side: int) -> int:
    """As many as a size deserves, or as its seconds allow."""
    turn = sum(timing.median for timing in interleave(calls, 1, warmup=2, wait=torch.cuda.synchronize).values())
    return max(_FEWEST, min(_REPEATS.get(side, 15), int(_SECONDS / max(turn, 1e-6))))


def _line(row: Row) -> str:
    if "not_measured" in row:
        return f"  {row['backend']:14} not measured: {row['not_measured']}"
    share = f"   {row['roofline']:.0%} of the roofline" if "roofline" in row else ""
    times = f"{row['median_ms']:9.3f} ms ({row['p20_ms']:.3f}-{row['p80_ms']:.3f}, p99 {row['p99_ms']:.3f})"
    return f"  {row['backend']:14} {times:44} {row['gmac_s'] / 1e3:7.1f} TMAC/s   error {row['error']:.1e}{share}"


def _verdict(seconds: dict[str, float]) -> str:
    peers = {name: value for name, value in seconds.items() if name != "engine"}
    if "engine" not in seconds or not peers:
        return "  nothing to compare the engine with"
    best = min(peers, key=peers.__getitem__)
    ratio = peers[best] / seconds["engine"]
    return f"  the engine against the best peer, {best}: {ratio:.2f}x, {'won' if ratio > 1 else 'lost'}"


@torch.no_grad()
def measure_set(folder: Path, stages: int, repeats: int = 5) -> list[Row]:
    """Seconds for all images of a folder, one by one and with noise of σ = 25, by the engine; prints them.

    "on the device": images lie there before and results stay; "from the host": NumPy in, NumPy out. Sizes are new at
    first, as they are to whoever denoises a folder once; the later rounds know them.
    """
    from modnas_fast.images.degradations import add_test_noise
    from modnas_fast.images.evaluation import EvaluationSet

    engine = Engine(load(MODEL).genotype, unfolded(stages).state_dict(), device="cuda")
    noisy: list[np.ndarray[Any, Any]] = []
    for _, clean in EvaluationSet(folder, 1, "awgn"):
        noisy.append(add_test_noise(clean[..., 0] / 255.0, 25)[None, None])
    engine.warmup(64, 64)
    rows: list[Row] = []
    images: dict[str, Sequence[Any]] = {
        "on the device": [torch.from_numpy(y).cuda() for y in noisy],
        "from the host": noisy,
    }
    for place, batch in images.items():
        seconds = [_seconds_of(functools.partial(_run_all, engine, batch)) for _ in range(1 + repeats)]
        first, median = seconds[0], float(np.median(seconds[1:]))
        print(f"{folder.name}, {len(noisy)} images, T = {stages}, {place}: {median:.3f} s ({first:.3f} s at first)")
        rows.append(
            {
                "op": "denoise a set",
                "backend": "engine",
                "mode": f"{MODEL} x {stages}, {folder.name}, {place}",
                "dtype": engine.dtype,
                "device": torch.cuda.get_device_name(),
                "images": len(noisy),
                "median_ms": 1e3 * median,
                "first_ms": 1e3 * first,
            }
        )
    return rows


def _run_all(engine: Engine, images: Sequence[Any]) -> None:
    for image in images:
        engine(image)


def _seconds_of(run: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def run(
    rivals: Sequence[str],
    stages: Sequence[int],
    batches: Sequence[int],
    sides: Sequence[int],
    repeats: int | None,
    folder: Path | None,
    output: Path | None = None,
) -> None:
    """Everything above; rows are kept as they come, each network's of the folder first."""
    with without_tf32():
        for count in stages:
            if folder is not None:
                append_rows(measure_set(folder, count), output)
            for batch in batches:
                for side in sides:
                    append_rows(measure(rivals, count, side, batch, repeats), output)
