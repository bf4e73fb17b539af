"""Everything that a GPU machine is for, by one command: tests, parity, benchmarks.

python -m benchmarks.on_gpu --out DIR [--only STAGE ...]

Needs no network and no installation. Stages run one after the other, each in a process of its own with its log in
DIR/STAGE.log; what is done is in DIR/stages.json, so that the same command goes on after an interruption, and one that
failed is tried again. Rows go to benchmarks/results/ and, with the table that is printed at the end, to DIR.
"""

from __future__ import annotations

import argparse
import json
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
_LIMIT = 900.0  # seconds of a stage

STAGES: Mapping[str, Sequence[str]] = {
    "environment": ("-c", "import torch; print(torch.__version__, torch.cuda.get_device_properties(0))"),
    "gpu-tests": ("-m", "pytest", "-q", "-m", "gpu", "tests"),
    "kernels": ("-m", "benchmarks.bench_kernels"),
    "supernet": ("-m", "benchmarks.bench_supernet", "--device", "cuda", "--repeats", "15"),
}


def run_stages(stages: Mapping[str, Sequence[str]], out: Path, limit: float = _LIMIT) -> dict[str, dict[str, Any]]:
    """Run the stages that DIR/stages.json does not call passed; what became of each, in order."""
    out.mkdir(parents=True, exist_ok=True)
    state = out / "stages.json"
    known: dict[str, dict[str, Any]] = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    for name, arguments in stages.items():
        if known.get(name, {}).get("passed"):
            continue
        print(f"{name} …", flush=True)
        started = time.perf_counter()
        with open(out / f"{name}.log", "wb") as log:
            try:
                command = [sys.executable, *arguments]
                status = subprocess.run(
                    command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, timeout=limit
                ).returncode
            except subprocess.TimeoutExpired:
                status = -1
        known[name] = {"passed": status == 0, "status": status, "seconds": round(time.perf_counter() - started, 1)}
        partial = state.with_suffix(".partial")
        partial.write_text(json.dumps(known, indent=2), encoding="utf-8")
        partial.replace(state)
    return {name: known[name] for name in stages}


def table(done: Mapping[str, Mapping[str, Any]], out: Path) -> str:
    """A line a stage, and the last lines of each log."""
    lines = []
    for name, result in done.items():
        verdict = "passed" if result["passed"] else "too long" if result["status"] == -1 else "FAILED"
        lines.append(f"{name:14} {verdict:8} {result['seconds']:7.1f} s")
        tail = (out / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()[-24:]
        lines += [f"    {line}" for line in tail]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help=f"of {', '.join(STAGES)}")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is visible to torch: on a machine without one, make test is the command")
    print(torch.cuda.get_device_name())
    stages = {name: STAGES[name] for name in arguments.only or STAGES}
    done = run_stages(stages, arguments.out)
    summary = table(done, arguments.out)
    (arguments.out / "table.txt").write_text(summary, encoding="utf-8")
    rows = RESULTS / f"{machine_name()}.json"
    if rows.exists():
        shutil.copy(rows, arguments.out / "rows.json")
    print(summary)
    return 0 if all(result["passed"] for result in done.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
