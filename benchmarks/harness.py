"""What every benchmark shares: interleaved timing, peak memory, and rows that describe themselves."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate: median, 20th and 80th percentile over the repeats."""

    median: float
    low: float
    high: float

    def as_row(self) -> Row:
        return {"median_ms": 1e3 * self.median, "p20_ms": 1e3 * self.low, "p80_ms": 1e3 * self.high}


def interleave(
    candidates: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1, wait: Callable[[], None] = lambda: None
) -> dict[str, Timing]:
    """Time candidates in turn, A B C A B C …, so that a machine whose speed drifts treats them alike.

    Args:
        candidates: name → what is timed.
        repeats: timed calls of each.
        warmup: calls of each before.
        wait: ends a call, a device's synchronisation for instance.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + repeats):
        for name, run in candidates.items():
            started = time.perf_counter()
            run()
            wait()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(*(float(np.percentile(s, q)) for q in (50, 20, 80))) for name, s in seconds.items()}


def peak_memory(code: str, threads: int | None = None) -> float:
    """Peak resident memory, in MiB, of a fresh Python process that runs `code`; Linux only.

    VmHWM, since ru_maxrss of a child starts at what its parent held when it was forked.
    """
    program = code + "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=RESULTS.parents[1],
    )
    return int(done.stdout.split()[-1]) / 2**10


def machine_name() -> str:
    """A file name for this machine: its processor and number of cores, and its GPU if it has one."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE))
        processor = "-".join(fields[key] for key in ("model name", "cpu family", "model") if key in fields) or processor
    name = f"{processor}-{os.cpu_count()}cores"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        name += f"-{torch.cuda.get_device_name()}"
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def append_rows(rows: Iterable[Row]) -> Path:
    """Add rows to this machine's file, each with machine, threads, versions, commit and date; returns the file.

    What a row says itself comes first.
    The file is a JSON list, one row a line; what was measured before stays.
    """
    path = RESULTS / f"{machine_name()}.json"
    older = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    circumstances = _circumstances()
    lines = [json.dumps(row) for row in [*older, *({**circumstances, **row} for row in rows)]]
    partial = path.with_suffix(".partial")
    partial.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    partial.replace(path)
    return path


def _circumstances() -> Row:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=RESULTS.parent
    ).stdout.strip()
    versions = {"python": platform.python_version()}
    for package in ("modnas-fast", "torch", "triton", "numpy", "onnxruntime", "openvino", "ncnn", "pnnx", "mnn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "machine": machine_name(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "versions": versions,
        "commit": commit,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
