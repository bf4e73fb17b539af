"""Compile the Triton kernels ahead of time, as they are launched, for GPUs that need not be there.

python -m benchmarks.compile_kernels [--fewer] [--capabilities 75 80 86 89 90]

Prints the most registers a thread, bytes of stack (spilled registers) and bytes of shared memory of every kernel's
variants, and the fewest 16-byte loads and stores; sizes that 16 bytes do not divide have none. Fails where there is any
stack, or more shared memory than a program may have. Needs Triton, which brings NVIDIA's assembler, and no GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from benchmarks.harness import kernel_line
from benchmarks.kernel_bytes import LAYOUTS
from benchmarks.kernel_launches import FOLDS, launches
from modnas_fast.kernels.tiles import INTERPRETED

CAPABILITIES = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227}  # compute capability: KiB of shared memory a program may have
# N·H·W of each makes other tiles of contiguous memory; the last has sizes that no vector divides.
SHAPES = ((12, 48, 64, 64), (12, 48, 16, 16), (12, 48, 8, 8), (3, 48, 13, 11))
WIDTHS = (48, 130)  # of folded layers
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class OfflineDriver:
    """What Triton asks an active driver while it compiles, of a GPU that is not there."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it compiled by device

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes."""

    kernel: str
    capability: int
    registers: int
    stack: int
    shared: int
    vectors: int

    @property
    def fits(self) -> bool:
        return self.stack == 0 and self.shared <= CAPABILITIES[self.capability] * 1024


@contextmanager
def compiling(capability: int) -> Iterator[list[Any]]:
    """Inside, launches of Triton kernels only compile them; they are added to the list, each once.

    The process is of no other use afterwards: Triton has no way back from a driver without a GPU.
    """
    compiled: dict[int, Any] = {}
    results: list[Any] = []
    launch: Callable[..., Any] = triton.runtime.JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = launch(self, *arguments, grid=grid, warmup=True, **options)
        if id(kernel) not in compiled:
            compiled[id(kernel)] = kernel
            results.append(kernel)

    driver.set_active(OfflineDriver(capability))
    triton.runtime.JITFunction.run = compile_only
    try:
        yield results
    finally:
        triton.runtime.JITFunction.run = launch


def usage(kernel: Any, capability: int) -> Usage:
    """Read from the machine code by cuobjdump."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", text)
    if found is None:
        raise RuntimeError(f"no usage in what cuobjdump prints: {text}")
    registers, stack, fixed = (int(number) for number in found.groups())
    vectors = len(re.findall(r"(?:ld|st)\.global\S*\.v4\.b32", kernel.asm["ptx"]))
    return Usage(kernel.metadata.name, capability, registers, stack, fixed + kernel.metadata.shared, vectors)


def compile_all(capability: int, fewer: bool) -> list[Usage]:
    """All kernels as launched for every dtype, layout, K, ℓ and width; `fewer`: the largest K and ℓ, and two dtypes."""

    def raw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    if fewer:
        variants = [
            ((12, 48, 64, 64), torch.bfloat16, "channels_last"),
            ((12, 48, 64, 64), torch.float32, "contiguous"),
        ]
    else:
        variants = [*product(SHAPES, DTYPES, LAYOUTS)]
    passes = [*(launches((7,), (3,)) if fewer else launches())]
    if fewer:
        passes = [launch for launch in passes if launch.forward or launch.features]
    with compiling(capability) as kernels:
        for shape, dtype, layout in variants:

            def feature(
                shape: tuple[int, ...] = shape, dtype: torch.dtype = dtype, layout: str = layout
            ) -> torch.Tensor:
                return torch.empty(shape, dtype=dtype, device="meta").contiguous(memory_format=LAYOUTS[layout])

            for launch in passes:
                launch.run(feature, raw, shape[1])
        for dtype, C in product((torch.float32,) if fewer else DTYPES, (48,) if fewer else WIDTHS):
            for fold in FOLDS:
                fold.run(partial(raw, dtype=dtype), 21, C)
    return [usage(kernel, capability) for kernel in kernels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fewer", action="store_true", help="only the largest K and ℓ, in bfloat16 and float32")
    parser.add_argument("--capabilities", type=int, nargs="+", choices=CAPABILITIES, default=[*CAPABILITIES])
    options = parser.parse_args()
    if INTERPRETED:
        sys.exit("TRITON_INTERPRET is set: interpreted kernels are not compiled")
    print(kernel_line("kernel", "GPU", "variants", "registers", "stack", "shared", "16-byte"))
    failed = False
    for capability in options.capabilities:
        usages = compile_all(capability, options.fewer)
        for name in sorted({usage.kernel for usage in usages}):
            mine = [usage for usage in usages if usage.kernel == name]
            largest = [max(getattr(usage, field) for usage in mine) for field in ("registers", "stack", "shared")]
            vectors = min(usage.vectors for usage in mine)
            print(kernel_line(name, f"sm_{capability}", len(mine), *largest, vectors), flush=True)
            failed |= not all(usage.fits for usage in mine)
    if failed:
        sys.exit("some kernels spill registers or do not fit into shared memory")


if __name__ == "__main__":
    main()
