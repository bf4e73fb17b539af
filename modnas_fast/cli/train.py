"""Train a network from a YAML configuration.

`--keys` lists the keys; `key=value` overrides the file's. An interrupted run goes on, bit for bit, with the same
command. Several GPUs or processes: torchrun --nproc-per-node N -m modnas_fast train CONFIG.yaml
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, _config_kind)


def add_config_arguments(parser: argparse.ArgumentParser, kind: Callable[[], type[Any]]) -> None:
    """The arguments of verbs with a configuration; `kind` imports and gives its class, once `--keys` asks for it."""

    class ListKeys(argparse.Action):
        def __call__(self, *_: object) -> None:
            from modnas_fast.runs.config import describe_keys

            print(describe_keys(kind()))
            parser.exit()

    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--keys", action=ListKeys, nargs=0, help="list the keys, what they mean and their defaults")


def _config_kind() -> type[Any]:
    from modnas_fast.training import TrainConfig

    return TrainConfig


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.cli.progress import ProgressLine
    from modnas_fast.runs.config import load_config
    from modnas_fast.runs.processes import Interrupted
    from modnas_fast.training import TrainConfig
    from modnas_fast.training.loop import train

    config = load_config(TrainConfig, arguments.config, arguments.overrides)
    progress = ProgressLine()

    def report(step: int, share: float, decibel: float, seconds_left: float) -> None:
        progress.update(share, f"step {step} {decibel:.2f} dB", seconds_left)

    try:
        weights = train(config, report, progress.say)
    except Interrupted:
        progress.say("interrupted; the checkpoint is written, and the same command goes on from it")
        return 130
    progress.clear()
    if os.environ.get("RANK", "0") == "0":  # once, where torchrun runs several of us
        print(weights)
    return 0
