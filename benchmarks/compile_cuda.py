"""Compile the engine's CUDA kernels for GPUs that need not be there, and read what became of them in machine code.

python -m benchmarks.compile_cuda [--capabilities 75 80 86 89 90] [--kernels convolution separable ...]

Prints for every kernel and architecture: how many variants it has, the most registers a thread, bytes of stack (spilled
registers), bytes of shared memory fixed at compile time, and the most and fewest tensor-core instructions of a variant.
Fails where a kernel has any stack, or where one that should use tensor cores does not. Ends with the seconds that each
source took. The rest of shared memory is chosen at launch, within the device's limit. Needs nvcc, cuobjdump (Triton
brings one), and no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import kernel_line

CSRC = Path(__file__).parent.parent / "csrc"
CAPABILITIES = (75, 80, 86, 89, 90)
ELEMENTS = {"Float16": 75, "Bfloat16": 80}  # the least capability that has tensor cores for it
HALF_KERNELS = ("convolution", "separable", "stem", "output")  # compiled once an element type
TENSOR_CORES = ("convolution_kernel", "separable_kernel")
NVCC = shutil.which("nvcc")


def find_cuobjdump() -> str | None:
    """NVIDIA's, or the one that Triton brings."""
    triton = importlib.util.find_spec("triton")
    bundled = (
        [Path(folder) / "backends/nvidia/bin" for folder in triton.submodule_search_locations or []] if triton else []
    )
    return shutil.which("cuobjdump") or next(
        (found for at in bundled if (found := shutil.which("cuobjdump", path=at))), None
    )


CUOBJDUMP = find_cuobjdump()


@dataclass(frozen=True)
class Usage:
    """What one compiled variant of a kernel takes."""

    kernel: str
    source: str
    capability: int
    registers: int
    stack: int
    shared: int
    products: int

    @property
    def fits(self) -> bool:
        return self.stack == 0 and (self.products > 0 or not self.needs_tensor_cores)

    @property
    def needs_tensor_cores(self) -> bool:
        return self.kernel in TENSOR_CORES and self.source.split()[0] in HALF_KERNELS


@dataclass(frozen=True)
class Job:
    """One source for one architecture."""

    source: Path
    element: str
    capability: int

    @property
    def name(self) -> str:
        return f"{self.source.stem} {self.element}".strip()


def jobs(capabilities: list[int], kernels: list[str]) -> list[Job]:
    """Every source of `csrc/cuda`, once an element type if it has types, for each capability that can run it."""
    result = []
    for source in sorted((CSRC / "cuda").glob("*.cu")):
        elements = ELEMENTS if source.stem in HALF_KERNELS else {"": 75}
        for element, least in elements.items():
            if not kernels or source.stem in kernels:
                result += [Job(source, element, capability) for capability in capabilities if capability >= least]
    return result


def compile_one(job: Job, folder: Path) -> tuple[list[Usage], float]:
    """What its kernels take, and the seconds that compiling took."""
    target = folder / f"{job.name}.{job.capability}.cubin"
    command = [str(NVCC), "-std=c++17", "-O3", f"-I{CSRC}", f"-arch=sm_{job.capability}", "-cubin"]
    if job.element:
        command.append(f"-DMODNAS_FAST_ELEMENT={job.element}")
    begin = time.perf_counter()
    subprocess.run([*command, "-o", str(target), str(job.source)], check=True)
    return usages(job, target), time.perf_counter() - begin


def usages(job: Job, cubin: Path) -> list[Usage]:
    """Of each kernel in a file of machine code."""

    def dump(what: str) -> str:
        return subprocess.run([str(CUOBJDUMP), what, str(cubin)], capture_output=True, text=True, check=True).stdout

    products = {}
    for part in dump("-sass").split("Function : ")[1:]:
        products[part.split(None, 1)[0]] = len(re.findall(r"\bHMMA\.", part))
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", dump("-res-usage"))
    return [
        Usage(kernel_name(symbol), job.name, job.capability, int(registers), int(stack), int(shared), products[symbol])
        for symbol, registers, stack, shared in found
        if symbol in products
    ]


def kernel_name(symbol: str) -> str:
    """The function's own name in a mangled one: the last of the nested names that ends in _kernel."""
    names = re.findall(r"\d+([a-z]+(?:_[a-z]+)*_kernel)", symbol)
    return names[-1] if names else symbol


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capabilities", type=int, nargs="+", choices=CAPABILITIES, default=[*CAPABILITIES])
    parser.add_argument("--kernels", nargs="+", default=[], help="the sources' stems; all of them if left out")
    options = parser.parse_args()
    if NVCC is None or CUOBJDUMP is None:
        sys.exit("nvcc and cuobjdump are not on the path: install NVIDIA's CUDA toolkit")
    work = jobs(options.capabilities, options.kernels)
    print(kernel_line("kernel", "GPU", "variants", "registers", "stack", "shared", "HMMA max", "HMMA min"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda job: compile_one(job, Path(folder)), work))
    failed = False
    taken = [usage for found, _ in results for usage in found]
    for source, kernel, capability in sorted({(usage.source, usage.kernel, usage.capability) for usage in taken}):
        mine = [u for u in taken if (u.source, u.kernel, u.capability) == (source, kernel, capability)]
        products = [usage.products for usage in mine]
        largest = [max(getattr(usage, field) for usage in mine) for field in ("registers", "stack", "shared")]
        name = kernel if " " not in source else f"{kernel} {source.split()[1]}"
        print(kernel_line(name, f"sm_{capability}", len(mine), *largest, max(products), min(products)))
        failed |= not all(usage.fits for usage in mine)
    for name in sorted({job.name for job in work}):
        seconds = [taken for job, (_, taken) in zip(work, results, strict=True) if job.name == name]
        print(f"{name}: {sum(seconds):.1f} s for {len(seconds)} architectures")
    if failed:
        sys.exit("some kernels spill registers, or do without tensor cores")


if __name__ == "__main__":
    main()
