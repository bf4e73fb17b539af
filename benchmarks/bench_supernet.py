"""One W-step of the supernet, forward, MSE, backward and Adam, by backend and precision, on the CPU.

python -m benchmarks.bench_supernet [--repeats 5]

T = 2, C = 48, 12 patches of 64² gray, channels_last. Backends are compared in every gradient first, then timed in turn
in one process. Memory is the peak of a fresh process that takes two steps less that of one that only builds the network
and its optimiser.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch.nn import functional as F

from benchmarks.harness import Row, append_rows, interleave, peak_memory
from modnas_fast.search import SuperNet

STAGES, CHANNELS, SHAPE, THREADS = 2, 48, (12, 1, 64, 64), 2
BACKENDS = ("reference", "folded")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TOLERANCE = 1e-4  # of a gradient's norm: ε·√8192 is 1e-5 in float32, for one layer of some 50
_STEPS = """from benchmarks.bench_supernet import prepare
_, step = prepare({backend!r}, {dtype!r})
for _ in range({steps}):
    step()"""


def prepare(backend: str, dtype: str) -> tuple[SuperNet, Callable[[], None]]:
    """A supernet and its W-step on fixed data; deterministic, so that two backends start alike."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    net = SuperNet(STAGES, CHANNELS, backend=backend)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter in net.architecture_parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam(net.weight_parameters(), 1e-3, fused=True)
    clean = torch.rand(SHAPE)
    noisy = clean + 25 / 255 * torch.randn(SHAPE)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", DTYPES[dtype], enabled=dtype != "float32"):
            restored = net(noisy)
        F.mse_loss(restored, clean).backward()
        optimizer.step()

    return net, step


def gradient_error() -> float:
    """The largest relative L2 difference between the backends' gradients, over all parameters, in float32."""
    y, gradients = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))[:2], []
    for backend in BACKENDS:
        net, _ = prepare(backend, "float32")
        net.requires_grad_(True)
        net(y).square().mean().backward()
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()])
    pairs = zip(*gradients, strict=True)
    return max(float((mine - theirs).norm() / theirs.norm()) for theirs, mine in pairs)


def memory(backend: str, dtype: str) -> float:
    """MiB of a step's peak above the built net's; see the module."""
    steps, built = (peak_memory(_STEPS.format(backend=backend, dtype=dtype, steps=n), THREADS) for n in (2, 0))
    return steps - built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each")
    repeats = parser.parse_args().repeats
    variants = {f"{backend} {dtype}": (backend, dtype) for dtype in DTYPES for backend in BACKENDS}
    peaks = {name: memory(*variant) for name, variant in variants.items()}
    error = gradient_error()
    print(f"gradients differ by {error:.1e} at most")
    if not error < _TOLERANCE:
        sys.exit("the backends disagree: nothing was measured")
    timings = interleave({name: prepare(*variant)[1] for name, variant in variants.items()}, repeats)
    rows: list[Row] = []
    for name, (backend, dtype) in variants.items():
        timing, peak = timings[name], peaks[name]
        rows.append(
            {
                "op": "supernet W-step",
                "backend": backend,
                "mode": f"T={STAGES} C={CHANNELS} channels_last, forward + backward + Adam",
                "dtype": dtype,
                "shape": list(SHAPE),
                **timing.as_row(),
                "peak_mib": peak,
                "error": error,
                "device": "cpu",
                "threads": THREADS,
            }
        )
        rival = timings[f"reference {dtype}"].median / timing.median
        print(f"{name:20} {timing.median:6.2f} s ({timing.low:.2f}-{timing.high:.2f})  {rival:4.2f}x  {peak:6.0f} MiB")
    print(append_rows(rows))


if __name__ == "__main__":
    main()
