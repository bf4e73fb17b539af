"""Measuring what a stage's parts take inside the compiled engine, for searches of networks that will run on it.

The engine runs whole networks: layers share memory, and what is one operation to PyTorch may be part of another's
kernel. So parts are timed where they are used, in networks that together hold every operation at every resolution.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from modnas_fast.engine.engine import Engine
from modnas_fast.genotype import DECODER_BLOCKS, ENCODER_BLOCKS, LAYERS_PER_BLOCK, PRIMITIVES, Block, Genotype, Layer
from modnas_fast.networks import DerivedNet
from modnas_fast.networks.summary import LayerSummary, summarize
from modnas_fast.search.latency import CPU, LatencyTable, OperationTime
from modnas_fast.search.parts import BLOCK_LEVELS, PARTS, Part
from modnas_fast.search.profiling import (
    OnProgress,
    checked_genotypes,
    measured_here,
    predicted_by_others,
    profiled_widths,
)

_NETWORKS = 40  # at 1/8 that is 17 points for each normal operation, and 8 for each up-sampling one
_PARTS = {(part.kind, part.op, part.level): part for part in PARTS}
_FIXED = {"stem.1": ("stem", "first", 0), "stem.2": ("stem", "second", 0), "out": ("out", "conv_1x1", 0)}
_REST = Part("relaxation", "relaxation", 0)

Sample = tuple[int, int, list[float]]  # input width, output width, seconds of each call


def profile_engine(
    channels: int, size: int, channels_in: int, threads: int, repeats: int, networks: int, on_progress: OnProgress
) -> LatencyTable:
    """Measure every part on the compiled engine, in float32 on the CPU, and whole networks to check the predictions.

    A part's time is that of its layers' kernels as the engine reports them (`Engine.plan`); what no layer accounts for,
    reading the image among it, stands as the relaxation, which the engine does in its last layer.

    Args:
        channels: the greatest width; see `search.profiling.profiled_widths` for the others.
        size: of the image, a multiple of 8.
        channels_in: of the image.
        threads: that share an image.
        repeats: timed calls of each network.
        networks: random genotypes to check, beside the published ones that are no wider than `channels`.
        on_progress: called often.

    Raises:
        ModnasError: the engine is not there, or a size that makes no sense.
    """
    settings = measured_here(CPU, threads, size, channels, channels_in, repeats)
    sampled = [_sampled_genotype(index, channels) for index in range(_NETWORKS)]
    checked = checked_genotypes(channels, networks)
    samples: dict[Part, list[Sample]] = {part: [] for part in PARTS}
    calls: list[list[float]] = []
    for index, genotype in enumerate((*sampled, *checked)):
        on_progress(index / (len(sampled) + len(checked)), genotype.name)
        timed = _TimedNetwork(genotype, size, channels_in, threads, repeats)
        variant = timed.variant
        if index < len(sampled):
            for part, sample in timed.parts():
                samples[part].append(sample)
        else:
            calls.append(timed.calls)
    on_progress(1.0, "")
    operations = tuple(
        OperationTime(part.kind, part.op, part.level, u, v, *_percentiles(seconds))
        for part, found in samples.items()
        for u, v, seconds in found
    )
    settings = replace(settings, device=f"{CPU}, the engine's {variant} kernels")
    figures = [_percentiles(seconds) for seconds in calls]
    validation = predicted_by_others(checked, LatencyTable(settings, operations), figures)
    return LatencyTable(settings, operations, validation)


class _TimedNetwork:
    """One stage of a genotype on the engine, called `repeats` times: seconds of every call, and of its layers."""

    def __init__(self, genotype: Genotype, size: int, channels_in: int, threads: int, repeats: int) -> None:
        with torch.random.fork_rng(devices=[]):
            weights = DerivedNet(genotype, 1, channels_in).state_dict()
        engine = Engine(genotype, weights, threads=threads)
        self.variant = engine.variant
        self._rows = [row for row in summarize(genotype, 1, channels_in, size, size).layers if row.used]
        self._channels_in = channels_in
        self.calls: list[float] = []
        self._layers: dict[str, list[float]] = {}
        image: Any = np.random.default_rng(0).random((1, channels_in, size, size), np.float32)
        engine.warmup(size, size)
        before = _sums(engine, size, 1)
        for repeat in range(repeats):
            started = time.perf_counter()
            engine(image)
            self.calls.append(time.perf_counter() - started)
            after = _sums(engine, size, repeat + 2)
            for name, seconds in after.items():
                self._layers.setdefault(name, []).append(seconds - before[name])
            before = after

    def parts(self) -> Iterator[tuple[Part, Sample]]:
        """Every part that the network has, once for each place."""
        rest = np.array(self.calls)
        for row in self._rows:
            if row.op == "skip" or row.op == "relaxation":
                continue
            seconds = np.sum([s for name, s in self._layers.items() if _place(name) == row.name], axis=0)
            rest = rest - seconds
            yield _part(row), (row.channels_in, row.channels_out, np.maximum(seconds, 0).tolist())
        yield _REST, (self._channels_in, self._channels_in, np.maximum(rest, 1e-9).tolist())


def _sums(engine: Engine, size: int, calls: int) -> dict[str, float]:
    """Seconds of each layer, added up over all calls so far; the engine tells their mean."""
    return {row.name: calls * row.seconds for row in engine.plan(size, size).rows}


def _place(layer: str) -> str:
    """Which row of the summary a layer of the engine belongs to: "EB1.2" for "EB1.2.1", "DB1 up" for "DB1 up 1x1"."""
    if " " in layer:
        return " ".join(layer.split()[:2])
    return ".".join(layer.split(".")[:2])


def _part(row: LayerSummary) -> Part:
    if row.name in _FIXED:
        return _PARTS[_FIXED[row.name]]
    block, _, kind = row.name.partition(" ")
    return _PARTS[kind or "normal", row.op, BLOCK_LEVELS[block.partition(".")[0]]]


def _percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Median, 20th and 80th percentile, ms."""
    median, low, high = (1e3 * np.percentile(seconds, [50, 20, 80])).tolist()
    return median, low, high


def _sampled_genotype(index: int, channels: int) -> Genotype:
    """Together they hold every operation about equally often at every resolution; widths are drawn, none is skipped."""
    draw = random.Random(f"modnas_fast {index}")
    turns = {kind: itertools.count(index) for kind in PRIMITIVES}

    def layer(kind: str) -> Layer:
        return Layer(
            PRIMITIVES[kind][next(turns[kind]) % len(PRIMITIVES[kind])], draw.choice(profiled_widths(channels))
        )

    def block(kind: str | None) -> Block:
        layers = tuple(layer("normal") for _ in range(LAYERS_PER_BLOCK))
        return Block(layers, None if kind is None else layer(kind))

    encoder = [block("down") for _ in range(ENCODER_BLOCKS)]
    decoder = [block("up") for _ in range(DECODER_BLOCKS - 1)] + [block(None)]
    return Genotype(draw.choice(profiled_widths(channels)), tuple(encoder), tuple(decoder), f"sampled-{index}")
