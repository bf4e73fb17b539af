"""Denoising through the public API: seam error, time and peak memory by image size, and what importing costs.

python -m benchmarks.bench_denoise [--largest 4096]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch

from benchmarks.harness import Row, append_rows, interleave, peak_memory
from modnas_fast import Denoiser

_DENOISE = "import torch\nfrom modnas_fast import Denoiser\nDenoiser(tile={tile!r})(torch.rand(1, 1, {size}, {size}))"
_IMPORT = "import time, torch; s = time.perf_counter(); {statement}; print(time.perf_counter() - s)"


def seam_error(size: int) -> float:
    """max |tiled − whole| of the shipped model on noise in [0, 1] of size × size pixels."""
    y = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    return float((Denoiser(tile=256)(y) - Denoiser(tile=0)(y)).abs().max())


def measure_size(size: int, repeats: int) -> Row:
    """Time and peak memory of one image with the automatic choice of tiles."""
    denoiser, y = Denoiser(), torch.rand(1, 1, size, size)
    timing = interleave({"denoise": lambda: denoiser(y)}, repeats, warmup=int(repeats > 1))["denoise"]
    memory = peak_memory(_DENOISE.format(tile="auto", size=size))
    print(f"{size:5}²  {timing.median:8.2f} s  {memory:7.0f} MiB")
    return {"shape": [1, 1, size, size], **timing.as_row(), "peak_mib": memory}


def import_seconds(statement: str, repeats: int = 5) -> float:
    """Median seconds of an import statement in a process that has imported torch already."""
    code = _IMPORT.format(statement=statement)
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(repeats)
    ]
    return sorted(seconds)[repeats // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=4096, help="side of the largest image")
    largest = parser.parse_args().largest
    error = seam_error(1024)
    print(f"max |tiled − whole| at 1024²: {error:.2e}")
    if error > 1e-5:
        sys.exit("tiles have seams: nothing was measured")
    common = {"op": "denoise", "backend": "torch", "dtype": "float32", "device": "cpu", "error": error}
    sizes = [size for size in (256, 512, 1024, 2048, 4096) if size <= largest]
    rows = [{**common, **measure_size(size, 5 if size <= 1024 else 1)} for size in sizes]
    for statement in ("import modnas_fast", "import modnas_fast; modnas_fast.denoise"):
        seconds = import_seconds(statement)
        print(f"{statement}: {1e3 * seconds:.0f} ms over torch's own")
        rows.append({"op": "import", "mode": statement, "median_ms": 1e3 * seconds})
    print(append_rows(rows))


if __name__ == "__main__":
    main()
