"""Everything that a GPU machine is for, by one command: build, tests, parity, benchmarks, the paper's tables.

python -m benchmarks.on_gpu --out DIR [--only STAGE ...] [--data DIR/Urban100] [--minutes 9.5]

Needs no network and no installation. Stages run one after the other, each in a process of its own with its log in
DIR/STAGE.log; what is done is in DIR/stages.json, so that the same command goes on after an interruption, and one that
failed is tried again. A call ends within its minutes: a stage that they cut off starts the next call, and the paper's
tables go on where they were. Rows go to benchmarks/results/ and, with the table that is printed at the end, to DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import RESULTS, machine_name

ROOT = Path(__file__).parents[1]
CUT_OFF = "cut off: the same command goes on with it"

Stages = Mapping[str, Sequence[str]]


def stages_of(out: Path, data: Sequence[str]) -> Stages:
    """Name → arguments of Python."""
    rows = out / "paper.json"
    folder = ("--data", data[0]) if data else ()
    uncompiled = ("engine", "torch eager", "torch half", "torch graph")
    compiled = ("engine", "torch.compile", "--stages", "1", "--sizes", "256", "1024", "--batches", "1")
    return {
        "environment": ("-c", "import torch; print(torch.__version__, torch.cuda.get_device_properties(0))"),
        "build": ("setup.py", "build_ext", "--inplace"),
        "gpu-tests": ("-m", "pytest", "-q", "-m", "gpu", "tests"),
        "engine": ("-m", "benchmarks.bench_engine", "--device", "cuda", "--rivals", *uncompiled, *folder),
        "engine-compiled": ("-m", "benchmarks.bench_engine", "--device", "cuda", "--rivals", *compiled),
        "engine-tools": ("-m", "benchmarks.check_cuda"),
        "kernels": ("-m", "benchmarks.bench_kernels"),
        "supernet": ("-m", "benchmarks.bench_supernet", "--device", "cuda", "--repeats", "15"),
        "train": ("-m", "benchmarks.bench_train", "--device", "cuda", "--repeats", "15"),
        "paper": ("-m", "modnas_fast", "bench", "paper", "--device", "cuda", "--data", *data, "-o", str(rows)),
    }


def run_stages(stages: Stages, out: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """Run, for so long, the stages that DIR/stages.json does not call passed; what became of each, in order.

    One that is cut off though it had more than half of the time counts as failed: no call would see its end.
    """
    deadline = time.perf_counter() + seconds
    out.mkdir(parents=True, exist_ok=True)
    state = out / "stages.json"
    known: dict[str, dict[str, Any]] = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    for name, arguments in stages.items():
        if known.get(name, {}).get("passed"):
            continue
        started = time.perf_counter()
        left = deadline - started
        if left <= 0:
            known[name] = {"passed": False, "status": CUT_OFF, "seconds": 0.0}
            continue
        print(f"{name} …", flush=True)
        with open(out / f"{name}.log", "wb") as log:
            try:
                command = [sys.executable, *arguments]
                status: int | str = subprocess.run(
                    command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, timeout=left
                ).returncode
            except subprocess.TimeoutExpired:
                status = "too long for a call" if left > seconds / 2 and name != "paper" else CUT_OFF
        known[name] = {"passed": status == 0, "status": status, "seconds": round(time.perf_counter() - started, 1)}
        partial = state.with_suffix(".partial")
        partial.write_text(json.dumps(known, indent=2), encoding="utf-8")
        partial.replace(state)
    return {name: known[name] for name in stages}


def table(done: Mapping[str, Mapping[str, Any]], out: Path) -> str:
    """A line a stage, and the last lines of each log."""
    lines = []
    for name, result in done.items():
        status = result["status"]
        verdict = "passed" if result["passed"] else status if isinstance(status, str) else f"FAILED ({status})"
        lines.append(f"{name:14} {result['seconds']:7.1f} s  {verdict}")
        if not (out / f"{name}.log").exists():
            continue
        tail = (out / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()[-24:]
        lines += [f"    {line}" for line in tail]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    names = [*stages_of(Path(), [])]
    parser.add_argument("--only", nargs="+", choices=names, metavar="STAGE", help=f"of {', '.join(names)}")
    parser.add_argument("--data", nargs="+", default=[], metavar="DIR", help="for the paper's tables")
    parser.add_argument("--minutes", type=float, default=9.5, help="after which this call ends")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is visible to torch: on a machine without one, make test is the command")
    print(torch.cuda.get_device_name())
    os.environ["MODNAS_FAST_CUDA"] = "native"  # the build fails if it leaves the engine's CUDA half out
    everything = stages_of(arguments.out.resolve(), [str(Path(folder).resolve()) for folder in arguments.data])
    stages = {name: everything[name] for name in arguments.only or everything}
    done = run_stages(stages, arguments.out, 60 * arguments.minutes)
    summary = table(done, arguments.out)
    (arguments.out / "table.txt").write_text(summary, encoding="utf-8")
    rows = RESULTS / f"{machine_name()}.json"
    if rows.exists():
        shutil.copy(rows, arguments.out / "rows.json")
    print(summary)
    return 0 if all(result["passed"] for result in done.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
