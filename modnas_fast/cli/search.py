"""Search an architecture as a YAML configuration says.

`--keys` lists the keys; `key=value` overrides the file's. An interrupted search goes on, bit for bit, with the same
command. Several GPUs or processes: torchrun --nproc-per-node N -m modnas_fast search CONFIG.yaml
"""

from __future__ import annotations

import argparse
from typing import Any

from modnas_fast.cli.train import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, _config_kind)


def _config_kind() -> type[Any]:
    from modnas_fast.search.config import SearchConfig

    return SearchConfig


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.cli.progress import ProgressLine
    from modnas_fast.runs.config import load_config
    from modnas_fast.runs.processes import Interrupted
    from modnas_fast.search.config import SearchConfig
    from modnas_fast.search.loop import search

    config = load_config(SearchConfig, arguments.config, arguments.overrides)
    progress = ProgressLine()

    def report(epoch: int, share: float, decibel: float, seconds_left: float) -> None:
        progress.update(share, f"epoch {epoch} {decibel:.2f} dB", seconds_left)

    try:
        folder = search(config, report, progress.say)
    except Interrupted:
        progress.say("interrupted; the checkpoint is written, and the same command goes on from it")
        return 130
    progress.say(f"done: modnas-fast report {folder}, modnas-fast derive {folder} -o genotype.json")
    return 0
