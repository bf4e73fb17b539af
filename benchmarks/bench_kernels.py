"""The Triton ops against their references, eager and compiled, as a share of the GPU's copy bandwidth.

python -m benchmarks.bench_kernels [--repeats 15]

Each op runs forward and backward at (12, 48, 64, 64) and (4, 48, 512, 512), bfloat16, channels_last, raw parameters in
float32. Inputs are rotated over more memory than any cache holds, and a round over them is one CUDA graph for every
rival, so that kernels are timed and not Python. GB/s count the least that an op can move: every input read once, every
output written once. Parity with the float64 reference comes first.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch._functorch.config
from torch import Tensor

from benchmarks.harness import Row, add_output, append_rows, interleave, positive
from modnas_fast.ops import channel_gate, dense_aggregate, mixed_aggregate, mixed_op, relax
from modnas_fast.reference import (
    channel_gate_ref,
    dense_aggregate_ref,
    mixed_aggregate_ref,
    mixed_op_ref,
    relax_ref,
)

Op = Callable[..., Tensor]

SHAPES = ((12, 48, 64, 64), (4, 48, 512, 512))
_ROTATED = 256 * 2**20  # bytes that a round reads and writes at least: five times an H100's L2
_TOLERANCE = 2e-2  # relative L2 error against float64, of results stored in bfloat16: ε = 2⁻⁸, and gradients of sums


_OPS: Mapping[str, tuple[Op, Op]] = {
    "mixed_op": (mixed_op, mixed_op_ref),
    "channel_gate": (channel_gate, channel_gate_ref),
    "dense_aggregate": (dense_aggregate, dense_aggregate_ref),
    "mixed_aggregate": (mixed_aggregate, mixed_aggregate_ref),
    "relax": (relax, relax_ref),
}


@dataclass(frozen=True)
class Case:
    """An op of K candidates (0: it takes none) at depth ℓ (0: it has no history)."""

    op: str
    K: int = 0
    depth: int = 0

    def __str__(self) -> str:
        return self.op + (f" K={self.K}" if self.K else "") + (f" l={self.depth}" if self.depth else "")

    @property
    def maps(self) -> int:
        """How many feature maps it takes."""
        return {"channel_gate": 1, "relax": 2, "dense_aggregate": self.depth + 1}.get(self.op, self.depth + self.K)

    def parameters(self, C: int) -> list[tuple[int, ...]]:
        """Shapes of the raw parameters."""
        alone: dict[str, list[tuple[int, ...]]] = {"channel_gate": [(C,)], "relax": [()]}
        mixture = [(self.K,), (self.K, C)] if self.K else []
        return alone.get(self.op, [*mixture, *([(self.depth + 1,)] if self.depth else [])])

    def call(self, function: Op, maps: Sequence[Tensor], raw: Sequence[Tensor]) -> Tensor:
        """The op's or its reference's result."""
        if self.op == "mixed_op":
            return function(maps, *raw)
        if self.op == "dense_aggregate":
            return function(maps[:-1], maps[-1], *raw)
        if self.op == "mixed_aggregate":
            return function(maps[: self.depth], maps[self.depth :], *raw)
        return function(*maps, *raw)


CASES = (
    *(Case("mixed_op", K) for K in (4, 5, 7)),
    Case("channel_gate"),
    *(Case("dense_aggregate", depth=depth) for depth in (1, 3)),
    *(Case("mixed_aggregate", 7, depth) for depth in (1, 3)),
    Case("relax"),
)


class Inputs:
    """One set of a case's inputs, its result and a gradient for it."""

    def __init__(self, case: Case, shape: tuple[int, ...]) -> None:
        def draw(size: Sequence[int], of: torch.dtype) -> Tensor:
            return torch.randn(tuple(size), device="cuda").to(of)

        self.maps = [
            draw(shape, torch.bfloat16).contiguous(memory_format=torch.channels_last) for _ in range(case.maps)
        ]
        self.raw = [draw(size, torch.float32) for size in case.parameters(shape[1])]
        self.leaves = [tensor.requires_grad_() for tensor in (*self.maps, *self.raw)]
        self.dy = torch.randn_like(self.maps[0])


@dataclass(frozen=True)
class Captured:
    """The graph of a round; with the round, whose tensors it reads."""

    graph: torch.cuda.CUDAGraph
    a_round: Callable[[], None]

    def __call__(self) -> None:
        self.graph.replay()


def captured(prepare: Callable[[], Callable[[], None]], stream: torch.cuda.Stream) -> Captured:
    """The round that `prepare` makes, captured after two eager ones.

    All on the same stream: a backward pass runs on that of its forward pass, and a capture sees no other.
    """
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        a_round = prepare()
        for _ in range(2):
            a_round()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        a_round()
    return Captured(graph, a_round)


def rounds_of(case: Case, sets: Sequence[Inputs], backward: bool) -> dict[str, Callable[[], None]]:
    """A round over all sets, for each rival."""
    torch._dynamo.reset()  # or past eight compilations of a function it would run eagerly
    op, reference = _OPS[case.op]
    rivals = {"triton": op, "eager": reference, "compiled": torch.compile(reference, dynamic=False)}
    stream = torch.cuda.Stream()
    return {
        name: captured(partial(_round, case, function, sets, backward), stream) for name, function in rivals.items()
    }


def _round(case: Case, function: Op, sets: Sequence[Inputs], backward: bool) -> Callable[[], None]:
    def forwards() -> None:
        with torch.no_grad():
            for inputs in sets:
                case.call(function, inputs.maps, inputs.raw)

    if not backward:
        return forwards
    results = [case.call(function, inputs.maps, inputs.raw) for inputs in sets]

    def backwards() -> None:
        for result, inputs in zip(results, sets, strict=True):
            torch.autograd.grad(result, inputs.leaves, inputs.dy, retain_graph=True)

    return backwards


def least_bytes(case: Case, inputs: Inputs, backward: bool) -> int:
    """Of the feature maps; the parameters are thousands of times smaller."""
    one = inputs.dy.numel() * inputs.dy.element_size()
    return one * (1 + (2 if backward else 1) * case.maps)


def parity(case: Case, inputs: Inputs) -> float:
    """The largest relative L2 error of the result and every gradient, against the reference in float64."""
    op, reference = _OPS[case.op]
    got = case.call(op, inputs.maps, inputs.raw)
    mine = [got.detach(), *torch.autograd.grad(got, inputs.leaves, inputs.dy)]
    leaves = [leaf.detach().double().requires_grad_() for leaf in inputs.leaves]
    want = case.call(reference, leaves[: case.maps], leaves[case.maps :])
    exact = [want.detach(), *torch.autograd.grad(want, leaves, inputs.dy.double())]
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(mine, exact, strict=True))


def copy_bandwidth() -> float:
    """GB/s of a device-to-device copy past the caches, bytes read and written."""
    source = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    timing = interleave({"copy": lambda: target.copy_(source)}, 20, 5, torch.cuda.synchronize)["copy"]
    return 2 * source.numel() / timing.median / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive, default=15, help="timed rounds of each")
    add_output(parser)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("kernels are timed on a GPU, and torch sees none")
    torch._functorch.config.donated_buffer = False  # a compiled backward pass runs again and again
    peak = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, copies at {peak:.0f} GB/s")
    for shape, case in itertools.product(SHAPES, CASES):
        torch.manual_seed(0)
        first = Inputs(case, shape)
        error = parity(case, first)
        if not error < _TOLERANCE:
            sys.exit(f"{case} at {shape} departs from its reference by {error:.1e}: nothing more is measured")
        for mode in ("forward", "backward"):
            least = least_bytes(case, first, mode == "backward")
            sets = [first, *(Inputs(case, shape) for _ in range(_ROTATED // least))]
            timings = interleave(
                rounds_of(case, sets, mode == "backward"), arguments.repeats, 3, torch.cuda.synchronize
            )
            for rival, whole in timings.items():
                timing = whole / len(sets)
                rate, ratio = least / timing.median / 1e9, timings["eager"].median / whole.median
                row: Row = {
                    "op": str(case),
                    "backend": rival,
                    "mode": mode,
                    "dtype": "bfloat16",
                    "shape": list(shape),
                    **timing.as_row(),
                    "gb_per_s": rate,
                    "copy_gb_per_s": peak,
                    "error": error,
                    "device": torch.cuda.get_device_name(),
                }
                path = append_rows([row], arguments.output)
                figures = f"{1e6 * timing.median:8.1f} us {rate:6.0f} GB/s {rate / peak:4.0%} of copy"
                print(f"{case!s:22} {mode:8} {shape!s:18} {rival:8} {figures} {ratio:5.2f}x eager", flush=True)
    print(path)


if __name__ == "__main__":
    main()
