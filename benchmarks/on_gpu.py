"""Everything that a GPU machine is for, by one command: build, tests, parity, benchmarks, the paper's tables.

python -m benchmarks.on_gpu --out DIR [--only STAGE ...] [--data DIR/Urban100] [--minutes 9]

Needs no network and no installation. Stages run one after the other, the most telling first, each in a process of its
own with its log in DIR/STAGE.log; what is done is in DIR/stages.state, so that the same command goes on after an
interruption, and starts anew where the source has changed since. What was not tried yet comes before what failed or
was too long, which is tried again. A call ends within its minutes: a stage that they cut off starts anew in the next
call, but for the paper's tables, which go on where they were. The build is repeated where it is gone. Rows go to
benchmarks/results/ and, as they come, to DIR/rows.json, the paper's to a file of their source's own, DIR/paper-….json:
`modnas-fast bench report DIR` makes a page of them. What is printed at the end, a line a stage and the tables of the
rows, is in DIR/table.txt. Without --data the paper's tables and the times of a set are left out, and where its images
cannot be read: PNG files need imagecodecs, .npy files do not.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import RESULTS, machine_name
from modnas_fast.bench.report import load_results, render_markdown
from modnas_fast.bench.rows import circumstances, read_rows, write_rows
from modnas_fast.errors import ModnasError
from modnas_fast.images.evaluation import read_clean_image
from modnas_fast.images.files import list_images

ROOT = Path(__file__).parents[1]
SOURCE = ("setup.py", "csrc/**/*.*", *(f"{room}/**/*.py" for room in ("modnas_fast", "kernels", "benchmarks", "tests")))
CUT_OFF = "cut off: the same command goes on with it"
_TAIL = 12  # lines of the log of what did not pass

_ENVIRONMENT = """
import importlib.util as u, os, platform, shutil, torch
print(platform.python_version(), torch.__version__, os.cpu_count(), "processors")
print(torch.cuda.get_device_properties(0))
print("nvcc:", shutil.which("nvcc") or "not on PATH")
names = "triton pytest xdist pybind11 imagecodecs tifffile safetensors hypothesis yaml tensorboard".split()
print("not installed:", ", ".join(n for n in names if u.find_spec(n) is None) or "nothing that is needed")
"""


@dataclass(frozen=True)
class Stage:
    """What Python runs.

    Args:
        arguments: of Python.
        environment: variables beside this process's.
        makes: files, of which one at least must be there for the stage to count as done.
        goes_on: whether it continues where it was cut off.
        tells: last lines of its log that are news though it passed.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    makes: str = ""
    goes_on: bool = False
    tells: int = 0

    @property
    def is_there(self) -> bool:
        return not self.makes or any(ROOT.glob(self.makes))


Stages = Mapping[str, Stage]


def stages_of(out: Path, data: Sequence[str]) -> Stages:
    """By name, the most telling first."""
    folder = ("--data", data[0]) if data else ()
    workers = ("-n", str(min((os.cpu_count() or 2) // 2, 8))) if importlib.util.find_spec("xdist") else ()
    # The tests of image files need a decoder that such machines may lack, and no GPU.
    files = () if importlib.util.find_spec("imagecodecs") else ("--ignore-glob=tests/test_image_*",)
    tests = ("-m", "pytest", "-q", "-m", "gpu", "tests", *files, "--durations=10", *workers)
    engine = ("-m", "benchmarks.bench_engine", "--device", "cuda", "--rivals")
    uncompiled = ("engine", "torch eager", "torch half", "torch graph")
    compiled = ("engine", "torch.compile", "--stages", "1", "--sizes", "256", "1024", "--batches", "1")
    supernet = ("-m", "benchmarks.bench_supernet", "--device", "cuda", "--repeats", "9", "--rivals")
    cuda = ("--device", "cuda")
    stages = {
        "environment": Stage(("-c", _ENVIRONMENT), tells=4),
        # The build fails if it leaves the engine's CUDA half out.
        "build": Stage(
            ("setup.py", "build_ext", "--inplace"), {"MODNAS_FAST_CUDA": "native"}, makes="modnas_fast/_engine_cuda*.so"
        ),
        "gpu-tests": Stage(tests, {"OMP_NUM_THREADS": "2"}, tells=1),
        "doctor": Stage(("-m", "modnas_fast", "doctor"), tells=12),
        "engine": Stage((*engine, *uncompiled, "--stages", "1", *folder)),
        "supernet": Stage((*supernet, "folded", "fused")),
        "kernels": Stage(("-m", "benchmarks.bench_kernels")),
        "search": Stage(("-m", "benchmarks.bench_search", *cuda, "--steps", "100")),
        "train": Stage(("-m", "benchmarks.bench_train", *cuda, "--repeats", "7")),
        "engine-tools": Stage(("-m", "benchmarks.check_cuda"), tells=4),
        "engine-deeper": Stage((*engine, *uncompiled, "--stages", "3", "6", *folder)),
        "engine-compiled": Stage((*engine, *compiled)),
        "supernet-compiled": Stage((*supernet, "compiled")),
    }
    if data:
        paper = ("-m", "modnas_fast", "bench", "paper", *cuda, "--data", *data, "-o", str(_paper_of(out)))
        stages["paper"] = Stage(paper, goes_on=True)
    return stages


def _paper_of(out: Path) -> Path:
    """A file of rows has one commit; another source begins another."""
    return out / f"paper-{circumstances()['commit'] or 'source'}-{source_digest()[:8]}.json"


def run_stages(stages: Stages, out: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """Run, for so long, the stages that DIR/stages.state does not call passed; what became of each, in order.

    What another source did does not count. One that is cut off though it had more than half of the time counts as
    failed: no call would see its end.
    """
    deadline = time.perf_counter() + seconds
    out.mkdir(parents=True, exist_ok=True)
    state, source = out / "stages.state", source_digest()
    earlier: dict[str, dict[str, Any]] = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    known = {name: result for name, result in earlier.items() if result.get("source") == source}
    kept = _Rows(out / "rows.json")

    def tries(name: str) -> int:
        # What others stand on comes first all the same.
        return 0 if stages[name].makes else int(known.get(name, {}).get("tries", 0))

    for name in sorted(stages, key=tries):
        stage = stages[name]
        if known.get(name, {}).get("passed") and stage.is_there:
            continue
        started = time.perf_counter()
        left = deadline - started
        before = int(known.get(name, {}).get("tries", 0))
        if left <= 0:
            known.setdefault(name, {"passed": False, "status": CUT_OFF, "seconds": 0.0, "tries": 0})
            continue
        print(f"{name} …", flush=True)
        ended = _run(stage, out / f"{name}.log", left)
        cut = ended is None and (left <= seconds / 2 or stage.goes_on)
        status = ended if ended is not None else CUT_OFF if cut else "too long for a call"
        known[name] = {
            "passed": status == 0 and stage.is_there,
            "status": status,
            "seconds": round(time.perf_counter() - started, 1),
            "tries": before + (not cut),
            "source": source,
        }
        partial = state.with_suffix(".partial")
        partial.write_text(json.dumps(known, indent=2), encoding="utf-8")
        partial.replace(state)
        kept.keep()
    return {name: known[name] for name in stages}


def source_digest() -> str:
    """SHA-256 of what stages run: a copy without git has no commit, and one with changes none of its own."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SOURCE for path in ROOT.glob(pattern) if path.is_file()}):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _run(stage: Stage, log: Path, seconds: float) -> int | None:
    """The exit status; None where the time was too short. Nothing that the stage started is left running."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, *stage.arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **stage.environment},
            preexec_fn=os.setpgrp,  # compilers and tools that it started end with it
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Rows:
    """The rows that stages measure, kept in DIR too; with those of earlier calls, perhaps on another machine."""

    def __init__(self, path: Path) -> None:
        self._path, self._source = path, RESULTS / f"{machine_name()}.json"
        self._earlier = read_rows(path) if path.exists() else []
        self._skipped = len(read_rows(self._source)) if self._source.exists() else 0

    def keep(self) -> None:
        measured = read_rows(self._source)[self._skipped :] if self._source.exists() else []
        if measured:
            write_rows(self._path, [*self._earlier, *measured])


def table(done: Mapping[str, Mapping[str, Any]], stages: Stages, out: Path) -> str:
    """A line a stage, the last lines of the logs that tell something, and the tables of all rows."""
    lines = []
    for name, result in done.items():
        status = result["status"]
        verdict = "passed" if result["passed"] else status if isinstance(status, str) else f"FAILED ({status})"
        lines.append(f"{name:18} {result['seconds']:7.1f} s  {verdict}")
        told = stages[name].tells if result["passed"] else _TAIL
        if told and (out / f"{name}.log").exists():
            log = (out / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
            lines += [f"    {line}" for line in log[-told:]]
    measured = [*out.glob("rows.json"), *sorted(out.glob("paper-*.json"))]
    tables = render_markdown(load_results(measured)) if measured else "No rows yet."
    return "\n".join(lines) + f"\n\n{tables}\n"


def readable(folders: Sequence[str]) -> list[str]:
    """Those of the folders whose images can be read; says why others cannot."""
    found = []
    for folder in folders:
        try:
            read_clean_image(list_images([folder])[0][0], 1, "awgn")
        except (ModnasError, ImportError) as error:
            print(f"--data {folder} is left out: {error}")
        else:
            found.append(str(Path(folder).resolve()))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    names = [*stages_of(Path(), ["."])]
    parser.add_argument("--only", nargs="+", choices=names, metavar="STAGE", help=f"of {', '.join(names)}")
    parser.add_argument("--data", nargs="+", default=[], metavar="DIR", help="for the paper's tables")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which this call ends")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is visible to torch: on a machine without one, make test is the command")
    print(torch.cuda.get_device_name())
    everything = stages_of(arguments.out.resolve(), readable(arguments.data))
    if arguments.only and not set(arguments.only) <= set(everything):
        parser.error("paper needs --data with images that can be read")
    stages = {name: everything[name] for name in arguments.only or everything}
    done = run_stages(stages, arguments.out, 60 * arguments.minutes)
    summary = table(done, stages, arguments.out)
    (arguments.out / "table.txt").write_text(summary, encoding="utf-8")
    print(summary)
    return 0 if all(result["passed"] for result in done.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
