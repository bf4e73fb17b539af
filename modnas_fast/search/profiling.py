"""Measuring what operations take: every candidate, at every resolution of the U-net and several widths."""

from __future__ import annotations

import datetime
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modnas_fast.genotype import Genotype, published_genotypes
from modnas_fast.networks import DerivedNet
from modnas_fast.search.architecture import Architecture
from modnas_fast.search.derive import derive
from modnas_fast.search.latency import LatencyTable, NetworkTime, OperationTime, Settings, median_ratio, predict_latency
from modnas_fast.search.parts import PARTS

OnProgress = Callable[[float, str], None]  # share of the work done, 0…1, and what is being done

_WARMUP = 2  # untimed rounds
_GRAPH_CALLS = 10  # calls in a CUDA graph, whose one launch is then negligible


def profile(
    channels: int,
    size: int,
    channels_in: int,
    device: torch.device,
    repeats: int,
    networks: int,
    on_progress: OnProgress,
) -> LatencyTable:
    """Measure every operation of every kind at every resolution, and whole networks to check the predictions.

    All are called in turn, round after round, so that a machine whose speed drifts treats them alike; in float32,
    channels-last, without autograd. On CUDA, calls are replayed from CUDA graphs: times are the device's, not Python's.

    Args:
        channels: the greatest width; see `profiled_widths` for the others.
        size: of the image, a multiple of 8.
        channels_in: of the image.
        device: where to run.
        repeats: timed rounds.
        networks: random genotypes to check, beside the published ones that are no wider than `channels`.
        on_progress: called often.

    Raises:
        LatencyError: a size that makes no sense.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    settings = measured_here(name, torch.get_num_threads(), size, channels, channels_in, repeats)
    cases = [(part, u, v) for part in PARTS for u, v in part.widths(profiled_widths(channels), channels_in)]
    genotypes = checked_genotypes(channels, networks)
    calls = _Calls(device)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        for part, u, v in cases:
            calls.add(part.build(u, v), part.inputs(u, size))
        for genotype in genotypes:
            calls.add(DerivedNet(genotype, 1, channels_in), ((1, channels_in, size, size),))
        figures = calls.measure(repeats, on_progress)
    operations = tuple(
        OperationTime(part.kind, part.op, part.level, u, v, *times)
        for (part, u, v), times in zip(cases, figures[: len(cases)], strict=True)
    )
    validation = predicted_by_others(genotypes, LatencyTable(settings, operations), figures[len(cases) :])
    return LatencyTable(settings, operations, validation)


def profiled_widths(channels: int) -> tuple[int, ...]:
    """Widths at which operations are measured: sixths of `channels`, from 16 on rounded up to multiples of 8.

    For 48 these are the widths that deriving chooses from: where a device pads channels to 16, say, the law finds the
    mean.
    """
    step = 8 if channels >= 16 else 1
    sixths = {-(-channels * sixth // (6 * step)) * step for sixth in range(1, 6)}
    return (*sorted(width for width in sixths if width < channels), channels)


def checked_genotypes(channels: int, networks: int) -> list[Genotype]:
    """What predictions are checked on: the published genotypes that are not too wide, and random ones."""
    published = map(Genotype.load, published_genotypes())
    narrow = [genotype for genotype in published if genotype.channels <= channels]
    return [*narrow, *(_random_genotype(seed, channels) for seed in range(networks))]


def predicted_by_others(
    genotypes: Sequence[Genotype], table: LatencyTable, figures: Sequence[tuple[float, float, float]]
) -> tuple[NetworkTime, ...]:
    """Each network's prediction, from what the others took over the sum of their parts, and its own figures in ms."""
    parts = [predict_latency(genotype, table) for genotype in genotypes]
    pairs = [(median, own) for (median, _, _), own in zip(figures, parts, strict=True)]
    return tuple(
        NetworkTime(genotype.name, own, own * median_ratio(pairs[:index] + pairs[index + 1 :]), *times)
        for index, (genotype, own, times) in enumerate(zip(genotypes, parts, figures, strict=True))
    )


class _Calls:
    """Modules with inputs, to be timed in turn. Inputs of a shape are one tensor."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if self._cuda else None  # graphs run one by one and share memory
        self._inputs: dict[tuple[int, ...], Tensor] = {}
        self._modules: list[nn.Module] = []  # kept, since a graph only knows addresses
        self._runs: list[Callable[[], object]] = []

    def add(self, module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> None:
        module = module.to(self._device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        inputs = [self._input(shape) for shape in shapes]
        self._modules.append(module)
        self._runs.append(self._captured(module, inputs) if self._cuda else partial(module, *inputs))

    def measure(self, repeats: int, on_progress: OnProgress) -> list[tuple[float, float, float]]:
        """Median, 20th and 80th percentile of each, ms a call."""
        times = np.empty((_WARMUP + repeats, len(self._runs)))
        for turn in range(len(times)):
            for index, run in enumerate(self._runs):
                started = time.perf_counter()
                run()
                if self._cuda:
                    torch.cuda.synchronize(self._device)
                times[turn, index] = time.perf_counter() - started
                on_progress((turn * len(self._runs) + index + 1) / times.size, f"round {turn + 1} of {len(times)}")
        scale = 1e3 / (_GRAPH_CALLS if self._cuda else 1)
        median, low, high = (scale * np.percentile(times[_WARMUP:], [50, 20, 80], axis=0)).tolist()
        return list(zip(median, low, high, strict=True))

    def _input(self, shape: tuple[int, ...]) -> Tensor:
        if shape not in self._inputs:
            self._inputs[shape] = torch.rand(shape).to(self._device, memory_format=torch.channels_last)
        return self._inputs[shape]

    def _captured(self, module: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """The replay of a CUDA graph of `_GRAPH_CALLS` calls."""
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            module(*inputs)  # cuDNN chooses its kernels before the capture
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            for _ in range(_GRAPH_CALLS):
                module(*inputs)
        return graph.replay


def measured_here(device: str, threads: int, size: int, channels: int, channels_in: int, repeats: int) -> Settings:
    """The settings of a table that is measured now, on this machine."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)):
        processor = found[1]
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    machine = f"{processor}, {os.cpu_count()} cores"
    return Settings(machine, device, threads, torch.__version__, date, channels, channels_in, size, repeats)


def _random_genotype(seed: int, channels: int) -> Genotype:
    """What a search could derive: random depth and operations, widths of many degrees of concentration."""
    random = torch.Generator().manual_seed(seed)
    architecture = Architecture(channels)
    with torch.no_grad():
        for name, raw in architecture.named_parameters():
            raw.normal_(generator=random)
            if name.endswith("beta"):
                raw.mul_(2 * torch.rand(len(raw), 1, generator=random)).exp_()
    return derive(architecture, name=f"random-{seed}").genotype
