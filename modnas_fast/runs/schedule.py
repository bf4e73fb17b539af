"""Learning rates and running figures of a training loop."""

from __future__ import annotations

import math

from torch import Tensor


def cosine(high: float, low: float, share: float) -> float:
    """low + ½·(high − low)·(1 + cos(π·share)): from `high` at share 0 to `low` at share 1."""
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * share))


def decibel(mse: float) -> float:
    """PSNR in dB of a mean squared error on [0, 1]."""
    return -10 * math.log10(max(mse, 1e-12))


class RunningMean:
    """Exponential mean of losses over about 100 steps, kept on the device so that no step waits for it."""

    def __init__(self) -> None:
        self._mean: Tensor | None = None

    def add(self, loss: Tensor) -> None:
        self._mean = loss.clone() if self._mean is None else self._mean.lerp_(loss, 0.01)

    def value(self) -> float:
        """The mean, 1 before the first loss; waits for the device."""
        return 1.0 if self._mean is None else float(self._mean)
