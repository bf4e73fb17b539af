"""Measured rows: JSON objects that describe themselves, one a line, in a file that only ever appears whole."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from modnas_fast.atomic import write_atomically
from modnas_fast.errors import ModnasError

Row = dict[str, Any]

_CHECKOUT = Path(__file__).parents[2]


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a results file.

    Raises:
        ModnasError: the file is unreadable or no list of JSON objects.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModnasError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not JSON'}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ModnasError(f"{path}: results are a JSON list of objects")
    return rows


def write_rows(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write a results file, one row a line; atomic."""
    write_atomically(path, "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")


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


def place_of(row: Row) -> str:
    """The row's machine, and the device where that is no CPU: times of one place stand beside each other."""
    device = row.get("device", "cpu")
    return str(row["machine"]) if device == "cpu" else f"{row['machine']}, {device}"


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=_CHECKOUT).stdout.strip()
    except OSError:  # there is no git
        return ""


def circumstances() -> Row:
    """Machine, threads, versions, commit (of a checkout; otherwise empty) and date: what every row has."""
    commit = ""
    if (_CHECKOUT / "setup.py").exists():
        commit = _git("describe", "--always")
        if commit and _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"):
            commit += "-dirty"  # by more than the rows that are being added
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
