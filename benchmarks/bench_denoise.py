"""Denoising through the public API: seam error, time and peak memory by image size, and what importing costs.

python -m benchmarks.bench_denoise [--largest 4096] [-o FILE]

The shipped model by name, which is the compiled engine where it is built, and as a network, which is PyTorch: in turn.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys

import torch

from benchmarks.harness import Row, add_output, append_rows, interleave, peak_memory, positive
from modnas_fast import Denoiser, DerivedNet, load
from modnas_fast.engine.denoiser import default_model

MODEL = default_model(25)
MODELS = {"engine": f"{MODEL!r}", "torch": f"load({MODEL!r})"}
_DENOISE = "import torch\nfrom modnas_fast import Denoiser, load\nDenoiser({model})(torch.rand(1, 1, {size}, {size}))"
_IMPORT = "import time, torch; s = time.perf_counter(); {statement}; print(time.perf_counter() - s)"


def denoisers() -> dict[str, Denoiser]:
    """By the backend's name in `MODELS`; without the engine where it is not built."""
    ways: dict[str, str | DerivedNet] = {"engine": MODEL, "torch": load(MODEL)}
    found = {name: Denoiser(model, "cpu") for name, model in ways.items()}
    return {name: denoiser for name, denoiser in found.items() if ("PyTorch" in denoiser.backend) == (name == "torch")}


def seam_error(size: int) -> dict[str, float]:
    """max |tiled − whole| on noise in [0, 1] of size × size pixels, by backend."""
    y = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    errors = {}
    for name, denoiser in denoisers().items():
        whole = denoiser(y)
        denoiser.tile = 256
        errors[name] = float((denoiser(y) - whole).abs().max())
    return errors


def measure_size(size: int, repeats: int) -> list[Row]:
    """Time and peak memory of one image with the automatic choice of tiles, by backend."""
    y = torch.rand(1, 1, size, size)
    calls = {name: functools.partial(denoiser, y) for name, denoiser in denoisers().items()}
    rows = []
    for name, timing in interleave(calls, repeats, warmup=int(repeats > 1)).items():
        memory = peak_memory(_DENOISE.format(model=MODELS[name], size=size))
        print(f"{size:5}²  {name:6} {timing.median:8.2f} s  {memory:7.0f} MiB", flush=True)
        rows.append({"backend": name, "shape": [1, 1, size, size], **timing.as_row(), "peak_mib": memory})
    return rows


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
    parser.add_argument("--largest", type=positive, default=4096, help="side of the largest image")
    add_output(parser)
    arguments = parser.parse_args()
    errors = seam_error(1024)
    print("max |tiled − whole| at 1024²:", ", ".join(f"{name} {error:.2e}" for name, error in errors.items()))
    if not max(errors.values()) <= 1e-5:
        sys.exit("tiles have seams: nothing was measured")
    common = {"op": "denoise", "dtype": "float32", "device": "cpu"}
    sizes = [size for size in (256, 512, 1024, 2048, 4096) if size <= arguments.largest]
    measured = [row for size in sizes for row in measure_size(size, 5 if size <= 1024 else 1)]
    rows = [{**common, "error": errors[row["backend"]], **row} for row in measured]
    for statement in ("import modnas_fast", "import modnas_fast; modnas_fast.denoise"):
        seconds = import_seconds(statement)
        print(f"{statement}: {1e3 * seconds:.0f} ms over torch's own")
        rows.append({"op": "import", "mode": statement, "median_ms": 1e3 * seconds})
    print(append_rows(rows, arguments.output))


if __name__ == "__main__":
    main()
