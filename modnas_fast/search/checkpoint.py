"""A search's checkpoints: everything it needs to go on bit for bit, and the one before, should a file be damaged."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from modnas_fast.errors import ModnasError
from modnas_fast.networks.weights import read_safetensors, write_safetensors
from modnas_fast.runs.checkpoint import load_generator, load_optimizer, optimizer_tensors, with_prefix
from modnas_fast.runs.config import config_difference, config_from_mapping, config_to_json
from modnas_fast.search.config import SearchConfig
from modnas_fast.search.supernet import SuperNet

CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"

_FORMAT = "modnas_fast.search_checkpoint"

# Fields that may change between a run's parts: they leave the numbers alone.
RESUMABLE = frozenset({"validation", "checkpoint_every", "stop_on_collapse", "output"})


@dataclass
class Counters:
    """Where a search is.

    Args:
        step: pairs of W- and A-steps done, over all epochs.
        epoch_loss, epoch_seconds: sum of the W-steps' losses, and time, of the epoch under way.
        rate_scale: 1, halved by every rollback.
        rollbacks: how often a NaN or an infinity sent the search back.
    """

    step: int = 0
    epoch_loss: float = 0.0
    epoch_seconds: float = 0.0
    rate_scale: float = 1.0
    rollbacks: int = 0


@dataclass
class SearchState:
    """What a step changes."""

    net: SuperNet
    optimizers: dict[str, torch.optim.Adam]  # "weights" and "architecture"
    generators: dict[str, torch.Generator]  # the same, of the two halves' patches and noise
    counters: Counters


def save_search(folder: Path, state: SearchState, config: SearchConfig) -> None:
    """Write the state to `folder`; the file of the time before stays beside it."""
    tensors = {f"net.{name}": value for name, value in state.net.state_dict().items()}
    for key, optimizer in state.optimizers.items():
        slots = optimizer_tensors(optimizer, state.net.named_parameters())
        tensors |= {f"optimizer.{key}.{name}": value for name, value in slots.items()}
        tensors[f"generator.{key}"] = state.generators[key].get_state()
    if (folder / CHECKPOINT).exists():
        os.replace(folder / CHECKPOINT, folder / PREVIOUS)
    metadata = {"format": _FORMAT, "counters": json.dumps(asdict(state.counters)), "config": config_to_json(config)}
    write_safetensors(folder / CHECKPOINT, tensors, metadata)


def load_search(folder: Path, state: SearchState, config: SearchConfig) -> Path | None:
    """Restore the newest good checkpoint in `folder` into `state`; its path, or None where there is none.

    Raises:
        ModnasError: both files are damaged, or the run was started with another configuration or on another device.
    """
    damaged: ModnasError | None = None
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if path.exists():
            try:
                tensors, metadata = read_safetensors(path)
            except ModnasError as error:
                damaged = damaged or error
                continue
            _check_metadata(path, metadata, config)
            state.net.load_state_dict(with_prefix(tensors, "net."))
            for key, optimizer in state.optimizers.items():
                optimizer.state.clear()
                slots = with_prefix(tensors, f"optimizer.{key}.")
                load_optimizer(optimizer, state.net.named_parameters(), slots)
                load_generator(path, state.generators[key], tensors[f"generator.{key}"])
            state.counters = Counters(**json.loads(metadata["counters"]))
            return path
    if damaged is not None:
        raise damaged
    return None


def _check_metadata(path: Path, metadata: dict[str, str], config: SearchConfig) -> None:
    if metadata.get("format") != _FORMAT:
        raise ModnasError(f"{path}: not a search checkpoint")
    started = config_from_mapping(SearchConfig, json.loads(metadata["config"]))
    changed = config_difference(started, config, RESUMABLE)
    if changed:
        raise ModnasError(
            f"{path}: the search was started with another {', '.join(changed)}; restore it or choose another output"
        )
