"""The engine on a GPU under NVIDIA's tools, where they are: compute-sanitizer, then Nsight Compute.

python -m benchmarks.check_cuda [--tools memcheck racecheck initcheck ncu]

memcheck, racecheck and initcheck run odd sizes, batches, graphs and tiles in every precision, and fail on any report;
ncu prints what the kernels of one 512x512 call reach of the GPU's arithmetic and memory. A tool that is not installed,
or may not run, is said so and fails nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = ("memcheck", "racecheck", "initcheck", "ncu")
_PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")

# NumPy in and out, no torch at work: what the tools see is the engine's.
_CALLS = """
import sys
import numpy as np
from modnas_fast.engine.engine import Engine
for dtype in sys.argv[1].split(","):
    engine = Engine.from_pretrained("modnas-b-t1-gray-s25", device="cuda", dtype=dtype)
    for shape in {shapes}:
        x = np.random.default_rng(0).random(shape, np.float32)
        for _ in range({repeats}):
            assert np.isfinite(engine(x)).all()
    if {tiles}:
        assert np.isfinite(engine.run_tiled(np.zeros((1, 1, 300, 70), np.float32), 64)).all()
"""


def find_tool(name: str) -> str | None:
    """Its path: on PATH, or where CUDA is usually installed."""
    return shutil.which(name) or next((found for at in _PLACES if (found := shutil.which(name, path=at))), None)


def run(tool: str) -> bool:
    """Runs it and prints what it says; False where it reports an error."""
    program = "ncu" if tool == "ncu" else "compute-sanitizer"
    path = find_tool(program)
    if path is None:
        print(f"{tool}: {program} is not installed")
        return True
    if tool == "ncu":
        code = _CALLS.format(shapes=[(1, 1, 512, 512)], repeats=1, tiles=False)
        command = [path, "--section", "SpeedOfLight", "--section", "LaunchStats", sys.executable, "-c", code, "float16"]
    else:
        code = _CALLS.format(shapes=[(1, 1, 13, 37), (2, 1, 64, 40)], repeats=3, tiles=True)
        command = [
            path,
            "--tool",
            tool,
            "--error-exitcode",
            "9",
            sys.executable,
            "-c",
            code,
            "float16,bfloat16,float32",
        ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = (done.stdout + done.stderr).splitlines()
    print(f"\n{tool}: exit status {done.returncode}", *lines[-200 if tool == "ncu" else -40 :], sep="\n", flush=True)
    return done.returncode == 0 or tool == "ncu"  # counters may be forbidden to users


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    passed = [run(tool) for tool in parser.parse_args().tools]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
