"""Checkpoints: everything a run needs to go on bit for bit, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.networks.weights import read_safetensors, write_safetensors
from modnas_fast.runs.checkpoint import load_generator, load_optimizer, optimizer_tensors, with_prefix
from modnas_fast.runs.config import config_difference, config_from_mapping, config_to_json
from modnas_fast.training.config import TrainConfig

_FORMAT = "modnas_fast.training_checkpoint"

# Fields that may change between a run's parts: the first two move the schedule's end, the others leave the numbers
# alone.
RESUMABLE = frozenset(
    {"steps", "minutes", "validation", "validation_levels", "validate_every", "checkpoint_every", "output"}
)


@dataclass
class TrainState:
    """What a step changes. `ema` maps parameter names to averaged weights; `elapsed` is seconds of training time."""

    net: nn.Module
    optimizers: list[torch.optim.Optimizer]
    ema: dict[str, Tensor]
    generator: torch.Generator
    step: int = 0
    elapsed: float = 0.0


def save_checkpoint(path: Path, state: TrainState, config: TrainConfig) -> None:
    """Write the whole state, atomically."""
    tensors = {f"net.{name}": value for name, value in state.net.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.items()}
    tensors["generator"] = state.generator.get_state()
    for optimizer in state.optimizers:
        slots = optimizer_tensors(optimizer, state.net.named_parameters())
        tensors |= {f"optimizer.{name}": value for name, value in slots.items()}
    scalars = {"step": state.step, "elapsed": state.elapsed}
    write_safetensors(
        path, tensors, {"format": _FORMAT, "state": json.dumps(scalars), "config": config_to_json(config)}
    )


def load_checkpoint(path: Path, state: TrainState, config: TrainConfig) -> None:
    """Restore `save_checkpoint`'s file into `state`.

    Raises:
        ModnasError: broken file, or a run with another configuration or on another device.
    """
    tensors, metadata = read_safetensors(path)
    if metadata.get("format") != _FORMAT:
        raise ModnasError(f"{path}: not a training checkpoint")
    started = config_from_mapping(TrainConfig, json.loads(metadata["config"]))
    changed = config_difference(started, config, RESUMABLE)
    if changed:
        raise ModnasError(
            f"{path}: the run was started with another {', '.join(changed)}; restore the value or choose another output"
        )
    try:
        _restore(path, state, tensors)
    except (KeyError, RuntimeError):
        raise ModnasError(
            f"{path}: does not fit the network: restore the genotype file as it was, or choose another output"
        ) from None
    scalars = json.loads(metadata["state"])
    state.step, state.elapsed = scalars["step"], scalars["elapsed"]


def _restore(path: Path, state: TrainState, tensors: dict[str, Tensor]) -> None:
    state.net.load_state_dict(with_prefix(tensors, "net."))
    for name, value in with_prefix(tensors, "ema.").items():
        state.ema[name].copy_(value)
    load_generator(path, state.generator, tensors["generator"])
    for optimizer in state.optimizers:
        load_optimizer(optimizer, state.net.named_parameters(), with_prefix(tensors, "optimizer."))
