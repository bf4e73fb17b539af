"""The search report: what one or several searches did, as one HTML page that needs nothing else, not even scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modnas_fast.atomic import write_atomically
from modnas_fast.errors import ModnasError
from modnas_fast.search.history import read_history
from modnas_fast.search.latency import LATENCY_FILE, LatencyTable
from modnas_fast.search.report_figures import Run
from modnas_fast.search.report_page import GENERATOR, render_report


def write_report(folders: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]) -> None:
    """Write the report of one run, or of several side by side; atomic, and the same runs give the same bytes.

    Args:
        folders: each holds a search's `history.jsonl` and `config.json`; one of them is enough, so that a run that has
            just begun has a page as well.
        path: the page. An earlier report is replaced, any other file is not.

    Raises:
        ModnasError: a folder is no run, a file is broken, `path` is not ours to replace, or matplotlib is missing.
    """
    write_page(path, render_report([_load_run(Path(folder)) for folder in folders]))


def write_page(path: str | os.PathLike[str], page: str) -> None:
    """Write a report where there is none, or an earlier one.

    Raises:
        ModnasError: `path` is not ours to replace, or cannot be written.
    """
    target = Path(path)
    _check_replaceable(target)
    try:
        write_atomically(target, page)
    except OSError as error:
        raise ModnasError(f"{target}: cannot be written: {error.strerror}") from None


def _load_run(folder: Path) -> Run:
    history, config = folder / "history.jsonl", folder / "config.json"
    if not history.exists() and not config.exists():
        raise ModnasError(f"{folder}: not a search's run folder; it has neither {history.name} nor {config.name}")
    latency = LatencyTable.load(folder / LATENCY_FILE) if (folder / LATENCY_FILE).exists() else None
    return Run(
        folder.resolve().name, read_history(history), read_run_config(config) if config.exists() else {}, latency
    )


def read_run_config(path: Path) -> Mapping[str, Any]:
    """A run folder's `config.json`.

    Raises:
        ModnasError: it cannot be read, or is no configuration.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModnasError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not JSON'}") from None
    if not isinstance(entries, dict):
        raise ModnasError(f"{path}: a configuration is a JSON object")
    return entries


def _check_replaceable(target: Path) -> None:
    try:
        if target.exists() and GENERATOR not in target.read_text(encoding="utf-8", errors="replace")[:1000]:
            raise ModnasError(f"{target}: exists and is no report of ours; give another name with -o")
    except OSError as error:
        raise ModnasError(f"{target}: cannot be replaced: {error.strerror}") from None
