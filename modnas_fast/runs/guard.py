"""The guard against NaN, infinity and divergence in a run."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

_DIVERGED = 100.0  # as wrong as ten times the images' range: nothing that is still learning


def what_broke(loss: float, parameters: Iterable[Tensor]) -> str:
    """What is NaN or infinite, the mean squared error, of images in [0, 1], or (by a gradient that overflowed since) a
    weight, or that the error is 100 and more; "" where all is well.

    Waits for the device.
    """
    if not loss < _DIVERGED:
        return f"loss became {loss:.3g}"
    largest = torch.stack(torch._foreach_norm(list(parameters), math.inf))
    return "" if bool(largest.isfinite().all()) else "weights became NaN or infinite"
