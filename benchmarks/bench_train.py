"""One training step of MoD-NAS-B, T = 1, gray: forward, MSE, backward and Adam, by precision and way.

python -m benchmarks.bench_train [--device cpu|cuda] [--batch 16] [--patch 64] [--repeats 5] [-o FILE]

Each way's gradients are compared with those of float64 first. "contiguous" and "channels_last" are a plain loop. What
`modnas-fast train` runs, in channels_last too, is on a CPU "fast_convolutions", which also keeps the memory that it
frees, and on a GPU "captured", the step as one CUDA graph. Memory is a setting of the process, so every way has a
process of its own, and they take turns of some steps, one after another as in training. float32 is without TF32.
"batch" is what making a batch of noisy and clean patches takes, alone.
"""

from __future__ import annotations

import argparse
import copy
import functools
import multiprocessing
import sys
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import PRECISIONS, add_output, append_rows, interleave, positive
from modnas_fast import DerivedNet, Genotype
from modnas_fast.bench.machine import without_tf32
from modnas_fast.images.patches import PairSampler
from modnas_fast.ops import fast_convolutions
from modnas_fast.runs.graphed import GraphedStep, build_adam
from modnas_fast.runs.memory import keep_freed_memory
from modnas_fast.runs.precision import autocast

FAST, CAPTURED = "fast_convolutions", "captured"
OURS = {"cpu": FAST, "cuda": CAPTURED}
TURN = {"cpu": 5, "cuda": 50}  # steps
# Precision → the largest error of a gradient, as a share of the largest gradient's norm.
LIMITS = {"float32": 1e-4, "bfloat16": 5e-2}


def ways_of(device: str) -> list[tuple[str, str]]:
    """Precision and way."""
    ours = OURS[device]
    return [
        *(("float32", way) for way in ("contiguous", "channels_last", ours)),
        *(("bfloat16", way) for way in ("channels_last", ours)),
    ]


class Step:
    """A network and its optimiser in one of the ways, and what a step of it does on a fixed batch."""

    def __init__(self, net: DerivedNet, batch: tuple[Tensor, Tensor], dtype: str, way: str) -> None:
        memory_format = torch.contiguous_format if way == "contiguous" else torch.channels_last
        self.net: nn.Module = copy.deepcopy(net).to(memory_format=memory_format)  # type: ignore[call-overload]
        self.noisy, self.clean = (image.contiguous(memory_format=memory_format) for image in batch)
        self.dtype, self.way = dtype, way
        self.adam = build_adam(list(self.net.parameters()), 1e-4, captured=way == CAPTURED)
        self.update = GraphedStep(self._update) if way == CAPTURED else self._update

    def gradients(self) -> list[Tensor]:
        self._backward(self.noisy, self.clean)
        return [parameter.grad for parameter in self.net.parameters() if parameter.grad is not None]

    def _backward(self, noisy: Tensor, clean: Tensor) -> Tensor:
        self.adam.zero_grad(set_to_none=True)
        precision = PRECISIONS.get(self.dtype, "fp32")  # of float64 as well, which is the judge
        with autocast(precision, noisy.device), fast_convolutions() if self.way == FAST else nullcontext():
            restored = self.net(noisy)
        loss = nn.functional.mse_loss(restored.to(clean.dtype), clean)
        loss.backward()
        return loss.detach()

    def _update(self, noisy: Tensor, clean: Tensor) -> Tensor:
        loss = self._backward(noisy, clean)
        self.adam.step()
        return loss

    def __call__(self) -> None:
        self.update(self.noisy, self.clean)


def build(device: str, batch: int, patch: int) -> tuple[DerivedNet, tuple[Tensor, Tensor]]:
    """A network drawn from seed 0, and (noisy, clean) patches."""
    torch.manual_seed(0)
    net = DerivedNet(Genotype.load("modnas-b")).to(device).train()
    clean = torch.rand(batch, 1, patch, patch, device=device)
    return net, (clean + 25 / 255 * torch.randn_like(clean), clean)


def error(step: Step, exact: list[Tensor]) -> float:
    """max ‖g − exact‖ over parameters, over the largest ‖exact‖."""
    largest = max(float(x.norm()) for x in exact)
    return max(float((g.double() - x).norm()) for g, x in zip(step.gradients(), exact, strict=True)) / largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=positive, default=16, help="patches a step")
    parser.add_argument("--patch", type=positive, default=64, help="side of a patch")
    parser.add_argument("--repeats", type=positive, default=5, help="timed turns of each")
    add_output(parser)
    run(parser.parse_args())


def serve(connection: Connection, dtype: str, way: str, device: str, batch: int, patch: int) -> None:
    """A process of one way: sends its gradients' error, then takes turns as it is told to, until it is not."""
    if device == "cpu" and way == FAST:
        keep_freed_memory()
    with without_tf32():
        net, pairs = build(device, batch, patch)
        small = pairs[0][:2], pairs[1][:2]
        exact = Step(net.double(), (small[0].double(), small[1].double()), "float64", "contiguous").gradients()
        net.float()
        connection.send(error(Step(net, small, dtype, way), exact))
        step = Step(net, pairs, dtype, way)
        while connection.recv():
            for _ in range(TURN[device]):
                step()
            if device == "cuda":
                torch.cuda.synchronize()
            connection.send(True)


def turn_of(connection: Connection) -> None:
    """A turn of the process at the other end."""
    connection.send(True)
    connection.recv()


def batches(device: str, batch: int, patch: int) -> Callable[[], None]:
    """A turn of making batches, from 50 images of 512x512."""
    images = [np.random.default_rng(seed).integers(0, 256, (512, 512, 1), np.uint8) for seed in range(50)]
    sampler = PairSampler(images, patch, "awgn", [25.0], torch.device(device), seed=0)

    def turn() -> None:
        for _ in range(TURN[device]):
            sampler.sample(batch)
        if device == "cuda":
            torch.cuda.synchronize()

    return turn


def run(arguments: argparse.Namespace) -> None:
    """Measures and prints; adds the rows."""
    context = multiprocessing.get_context("spawn")
    given = arguments.device, arguments.batch, arguments.patch
    rows, connections = [], []
    steps: dict[str, Callable[[], object]] = {}
    for dtype, way in ways_of(arguments.device):
        here, there = context.Pipe()
        context.Process(target=serve, args=(there, dtype, way, *given), daemon=True).start()
        there.close()  # so that a process that fails ends the wait for it
        departure = here.recv()
        if not departure < LIMITS[dtype]:
            sys.exit(f"{dtype}, {way}: gradients depart by {departure:.1e}, over {LIMITS[dtype]:.0e}; nothing is timed")
        steps[f"{dtype} {way}"] = functools.partial(turn_of, here)
        connections.append(here)
        rows.append({"op": "training step", "backend": way, "mode": "T=1", "dtype": dtype, "error": departure})
    steps["batch"] = batches(arguments.device, arguments.batch, arguments.patch)
    rows.append({"op": "training batch", "backend": "PairSampler", "mode": "AWGN", "dtype": "float32"})
    timings = {name: turn / TURN[arguments.device] for name, turn in interleave(steps, arguments.repeats).items()}
    for connection in connections:
        connection.send(False)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    shape = [arguments.batch, 1, arguments.patch, arguments.patch]
    for row, (name, timing) in zip(rows, timings.items(), strict=True):
        row |= {"shape": shape, "device": device, **timing.as_row()}
        print(f"{name:28} {1e3 * timing.median:8.1f} ms  {arguments.batch / timing.median:7.1f} patches/s")
    print(append_rows(rows, arguments.output))


if __name__ == "__main__":
    main()
