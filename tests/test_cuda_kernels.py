"""Every CUDA kernel, run on the CPU by an emulation (`csrc/tests/cuda`), against plain loops: without GPU and nvcc."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
COMPILER = shutil.which("g++")  # the emulation uses GCC's assembly, and clang its own CUDA
KERNELS = ("convolution", "separable", "stem", "output")  # compiled once a half-precision type
SOURCES = ("cuda/packing.cu", "cuda/direct.cu", "cuda/blocks.cpp", "cuda/select.cpp")
TESTS = (
    *("emulation", "fibers", "runtime"),  # the device
    *("tensors", "stage_end", "problems", "convolution_problem", "other_problems"),
    *("planted", "blocks_test", "kernels_test"),
)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++")


def build(folder: Path, flags: list[str]) -> Path:
    jobs = [
        (CSRC / f"cuda/{kernel}.cu", folder / f"{kernel}.{element}.o", [f"-DMODNAS_FAST_ELEMENT={element}"])
        for kernel in KERNELS
        for element in ("Float16", "Bfloat16")
    ]
    plain = (*SOURCES, *(f"tests/cuda/{test}.cpp" for test in TESTS))
    jobs += [(CSRC / source, folder / f"{Path(source).stem}.o", []) for source in plain]
    common = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{CSRC}"]
    common += [f"-I{CSRC}/tests/cuda", *flags]

    def compile_one(job: tuple[Path, Path, list[str]]) -> None:
        source, target, extra = job
        subprocess.run([COMPILER, *common, *extra, "-x", "c++", "-c", source, "-o", target], check=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, jobs))
    program = folder / "kernels_test"
    subprocess.run([COMPILER, *flags, *(target for _, target, _ in jobs), "-o", program], check=True)
    return program


def test_kernels_give_what_plain_loops_give(tmp_path: Path) -> None:
    """All kernels, epilogues, shapes of blocks and orders of warps; and every barrier is missed when it is left out."""
    program = build(tmp_path, ["-O2"])
    runs = [
        subprocess.Popen([program, "all", *elements], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for elements in (["float16"], ["bfloat16", "float32"])
    ]
    for run, results in zip(runs, (6, 6 + 4), strict=True):  # float32 has no fused stage ends
        printed, _ = run.communicate()
        assert run.returncode == 0, printed
        assert len([line for line in printed.splitlines() if line.endswith("% |")]) == results, printed


def test_kernels_under_sanitizers(tmp_path: Path) -> None:
    """Fewer of the same, with memory and undefined behaviour watched."""
    flags = ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    probe = [COMPILER, *flags, "-x", "c++", "-", "-o", tmp_path / "probe"]
    runs = subprocess.run(probe, input="int main(){}", text=True, check=False).returncode == 0
    if not runs or subprocess.run([tmp_path / "probe"], check=False).returncode != 0:
        pytest.skip("this machine has no address sanitizer that runs")
    program = build(tmp_path, flags)
    finished = subprocess.run(
        [program, "fewer", "float16", "float32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
