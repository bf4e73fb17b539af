"""What a machine can do, for the roofline: float32 arithmetic and memory, as PyTorch reaches them; and only float32."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from modnas_fast.bench.rows import Row


@contextmanager
def without_tf32() -> Iterator[None]:
    """float32 that is float32: on a GPU, PyTorch's convolutions otherwise multiply with the 10 bits of TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def measure_machine(device: torch.device) -> Row:
    """GFLOP/s of a float32 matrix product (TF32 off) and GB/s of a copy past the caches; medians of 7."""
    side, length = (8192, 2**28) if device.type == "cuda" else (2048, 2**26)
    a, b = (torch.rand(side, side, device=device) for _ in range(2))
    source = torch.rand(length, device=device)
    target = torch.empty_like(source)
    with without_tf32():
        product = _median(lambda: torch.mm(a, b), device)
    copy = _median(lambda: target.copy_(source), device)
    return {"gflops": 2 * side**3 / product / 1e9, "gbytes_s": 2 * 4 * length / copy / 1e9}


def _median(run: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[3]
