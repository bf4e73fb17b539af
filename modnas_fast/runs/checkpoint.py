"""Optimisers as named tensors, so that a checkpoint is one safetensors file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError

Named = Iterable[tuple[str, nn.Parameter]]


def optimizer_tensors(optimizer: torch.optim.Optimizer, named: Named) -> dict[str, Tensor]:
    """Its state: `<slot>.<parameter name>` → tensor; empty before the first step."""
    return {
        f"{slot}.{name}": value
        for name, parameter in named
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, named: Named, tensors: Mapping[str, Tensor]) -> None:
    """Restore `optimizer_tensors`; of several optimisers' tensors, each takes those of its own parameters.

    Raises:
        KeyError: a parameter lacks a slot that others have.
    """
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    own = {name: parameter for name, parameter in named if parameter in trained}
    saved = [(slot, name) for slot, _, name in (key.partition(".") for key in tensors) if name in own]
    slots = dict.fromkeys(slot for slot, _ in saved)
    for name in dict.fromkeys(name for _, name in saved):
        for slot in slots:
            value = tensors[f"{slot}.{name}"]
            # Moments take the parameter's device and layout: another layout would be right, but not bit for bit.
            copied = value.to(own[name].device) if slot == "step" else torch.empty_like(own[name]).copy_(value)
            optimizer.state[own[name]][slot] = copied


def load_generator(path: Path, generator: torch.Generator, state: Tensor) -> None:
    """Restore a generator's state.

    Raises:
        ModnasError: it is of a generator on another kind of device, which draws other numbers.
    """
    try:
        generator.set_state(state)
    except RuntimeError:
        raise ModnasError(
            f"{path}: the run was started on another device than {generator.device.type}, where random numbers are "
            "others; set device as it was, or choose another output"
        ) from None


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, named without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
