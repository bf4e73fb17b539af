"""The guard against NaN and infinity in a run."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def what_broke(loss: float, parameters: Iterable[Tensor]) -> str:
    """What is NaN or infinite, the loss or (by a gradient that overflowed since) a weight; "" where all is well.

    Waits for the device.
    """
    if not math.isfinite(loss):
        return f"loss became {loss}"
    largest = torch.stack(torch._foreach_norm(list(parameters), math.inf))
    return "" if bool(largest.isfinite().all()) else "weights became NaN or infinite"
