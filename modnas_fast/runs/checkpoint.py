"""Optimisers as named tensors, so that a checkpoint is one safetensors file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError

Named = Iterable[tuple[str, nn.Parameter]]


def optimizer_tensors(optimizer: torch.optim.Adam, named: Named) -> dict[str, Tensor]:
    """Adam's state: `<slot>.<parameter name>` → tensor; empty before the first step."""
    return {
        f"{slot}.{name}": value
        for name, parameter in named
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Adam, named: Named, tensors: Mapping[str, Tensor]) -> None:
    """Restore `optimizer_tensors`."""
    for name, parameter in named:
        if f"step.{name}" not in tensors:
            continue
        slots: dict[str, Any] = optimizer.state[parameter]
        for slot in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors[f"{slot}.{name}"]
            # Moments take the parameter's device and layout: another layout would be right, but not bit for bit.
            slots[slot] = value.to(parameter.device) if slot == "step" else torch.empty_like(parameter).copy_(value)


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
