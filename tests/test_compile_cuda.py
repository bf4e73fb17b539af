"""The engine's CUDA kernels compile for the oldest and the newest GPU: without spilling, and to tensor cores."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.compile_cuda import CUOBJDUMP, NVCC


@pytest.mark.skipif(NVCC is None or CUOBJDUMP is None, reason="nvcc or cuobjdump is not on the path")
def test_cuda_kernels_compile_without_spills_and_to_tensor_cores() -> None:
    """sm_75 has other tensor-core instructions than the rest; the command by itself compiles everything."""
    hot = ["convolution", "separable"]
    command = [sys.executable, "-m", "benchmarks.compile_cuda", "--capabilities", "75", "90", "--kernels", *hot]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {(row[0], row[1], row[2]) for row in map(str.split, done.stdout.splitlines()) if len(row) == 9}
    for kernel in hot:
        for element, capability in (("Float16", "sm_75"), ("Float16", "sm_90"), ("Bfloat16", "sm_90")):
            assert (f"{kernel}_kernel", element, capability) in rows
