"""One training step of MoD-NAS-B, T = 1, gray: forward, MSE, backward and Adam, by precision and way.

python -m benchmarks.bench_train [--device cpu|cuda] [--batch 16] [--patch 64] [--repeats 5] [-o FILE]

Each way's gradients are compared with those of float64 first. "contiguous" and "channels_last" are a plain loop;
"fast_convolutions", in channels_last too, is what `modnas-fast train` runs, which on a CPU also keeps the memory that
it frees. That is a setting of the process, so every way has a process of its own, and they take turns of five steps,
one after another as in training. On a GPU the two are the same. float32 is without TF32.
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

import torch
from torch import Tensor, nn

from benchmarks.harness import add_output, append_rows, interleave, positive
from modnas_fast import DerivedNet, Genotype
from modnas_fast.bench.machine import without_tf32
from modnas_fast.ops import fast_convolutions
from modnas_fast.runs.memory import keep_freed_memory

FAST = "fast_convolutions"
TURN = 5  # steps
# Precision and way → the largest error of a gradient, as a share of the largest gradient's norm.
WAYS = {
    ("float32", "contiguous"): 1e-4,
    ("float32", "channels_last"): 1e-4,
    ("float32", FAST): 1e-4,
    ("bfloat16", "channels_last"): 5e-2,
    ("bfloat16", FAST): 5e-2,
}


class Step:
    """A network and its optimiser in one of `WAYS`, and what a step of it does on a fixed batch."""

    def __init__(self, net: DerivedNet, batch: tuple[Tensor, Tensor], dtype: str, way: str) -> None:
        memory_format = torch.contiguous_format if way == "contiguous" else torch.channels_last
        self.net: nn.Module = copy.deepcopy(net).to(memory_format=memory_format)  # type: ignore[call-overload]
        self.noisy, self.clean = (image.contiguous(memory_format=memory_format) for image in batch)
        self.dtype, self.way = dtype, way
        self.adam = torch.optim.Adam(self.net.parameters(), lr=1e-4, fused=True)

    def gradients(self) -> list[Tensor]:
        self.adam.zero_grad(set_to_none=True)
        device = self.noisy.device.type
        autocast = torch.autocast(device, torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()
        with autocast, fast_convolutions() if self.way == FAST else nullcontext():
            restored = self.net(self.noisy)
        nn.functional.mse_loss(restored.to(self.clean.dtype), self.clean).backward()
        return [parameter.grad for parameter in self.net.parameters() if parameter.grad is not None]

    def __call__(self) -> None:
        self.gradients()
        self.adam.step()


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
            for _ in range(TURN):
                step()
            if device == "cuda":
                torch.cuda.synchronize()
            connection.send(True)


def turn_of(connection: Connection) -> None:
    """A turn of the process at the other end."""
    connection.send(True)
    connection.recv()


def run(arguments: argparse.Namespace) -> None:
    """Measures and prints; adds the rows."""
    context = multiprocessing.get_context("spawn")
    given = arguments.device, arguments.batch, arguments.patch
    rows, connections = [], []
    steps: dict[str, Callable[[], object]] = {}
    for (dtype, way), limit in WAYS.items():
        here, there = context.Pipe()
        context.Process(target=serve, args=(there, dtype, way, *given), daemon=True).start()
        there.close()  # so that a process that fails ends the wait for it
        departure = here.recv()
        if not departure < limit:
            sys.exit(f"{dtype}, {way}: gradients depart by {departure:.1e}, more than {limit:.0e}; nothing is timed")
        steps[f"{dtype} {way}"] = functools.partial(turn_of, here)
        connections.append(here)
        rows.append({"op": "training step", "backend": way, "mode": "T=1", "dtype": dtype, "error": departure})
    timings = {name: turn / TURN for name, turn in interleave(steps, arguments.repeats).items()}
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
