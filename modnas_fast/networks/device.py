"""Which device a network runs on."""

from __future__ import annotations

from collections.abc import Collection

import torch

from modnas_fast.errors import ModnasError


def choose_device(device: str | torch.device, kinds: Collection[str] = ("cpu", "cuda")) -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:1", …

    Args:
        device: by name, or as torch has it.
        kinds: that may be chosen.

    Raises:
        ModnasError: an unknown device, or CUDA where torch sees none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = str(device)
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ModnasError(f"device is {name!r}; choose auto, cpu or cuda") from None
    if chosen.type not in kinds:
        raise ModnasError(f"device is {name!r}; choose auto, cpu or cuda")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModnasError(f"device is {name!r}, but torch sees no CUDA device; choose auto or cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModnasError(f"device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices, from cuda:0")
    return chosen
