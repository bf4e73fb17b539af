"""The engine's stand-alone C++ test, built under sanitizers: memory, undefined behaviour, races."""

from __future__ import annotations

import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
COMPILER = shutil.which("g++") or shutil.which("clang++")
FLAGS = {"portable": [], "avx512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"]}
KERNELS = ("convolution", "depthwise", "output", "separable", "taps", "upsample", "variant", "winograd")


def build(folder: Path, flags: list[str], variants: tuple[str, ...]) -> Path:
    sources = [path for path in CSRC.glob("*.cpp") if path.name != "bindings.cpp"]
    sources += [CSRC / "cpu/packing.cpp", CSRC / "cpu/select.cpp", *CSRC.glob("tests/*.cpp")]
    jobs = [(source, folder / f"{source.stem}.o", []) for source in sources]
    for variant in variants:
        for kernel in KERNELS:
            definition = [f"-DMODNAS_FAST_ISA={variant}", *FLAGS[variant]]
            jobs.append((CSRC / f"cpu/{kernel}.cpp", folder / f"{kernel}.{variant}.o", definition))
    built = [f"-DMODNAS_FAST_{variant.upper()}" for variant in variants]
    common = ["-std=c++17", "-O1", "-ffp-contract=fast", f"-I{CSRC}", *built, *flags]

    def compile_one(job: tuple[Path, Path, list[str]]) -> None:
        source, target, extra = job
        subprocess.run([COMPILER, *common, *extra, "-c", source, "-o", target], check=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, jobs))
    program = folder / "engine_test"
    libraries = ["-pthread", "-ldl"]
    subprocess.run([COMPILER, *flags, *(target for _, target, _ in jobs), *libraries, "-o", program], check=True)
    return program


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_engine_under_sanitizers(sanitizers: str, tmp_path: Path) -> None:
    """Memory with the widest vectors too, since they read farthest; races with the portable kernels alone."""
    flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    probe = [COMPILER, *flags, "-x", "c++", "-", "-o", tmp_path / "probe"]
    runs = subprocess.run(probe, input="int main(){}", text=True, check=False).returncode == 0
    if not runs or subprocess.run([tmp_path / "probe"], check=False).returncode != 0:
        pytest.skip(f"this machine has no {sanitizers} sanitizer that runs")
    wide = sanitizers != "thread" and platform.machine() in ("x86_64", "AMD64")
    program = build(tmp_path, flags, ("portable", "avx512") if wide else ("portable",))
    finished = subprocess.run([program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
