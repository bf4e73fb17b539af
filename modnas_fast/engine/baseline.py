"""A baseline with its weights, called like a `Denoiser`."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from modnas_fast.errors import ModnasError
from modnas_fast.networks.baselines import BASELINES, load_baseline
from modnas_fast.networks.baselines.registry import find
from modnas_fast.networks.device import choose_device


class BaselineDenoiser:
    """A baseline for whole images: no tiling, and σ passed on where the network asks for it.

    Args:
        name: a key of `BASELINES`.
        weights: a published file; None for BM3D alone.
        sigma: the images' noise level on the 0–255 scale, where it is known.
        colour: take the version for RGB where there is one; otherwise the one for gray where there is one.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or a torch device.

    Raises:
        ModnasError: an unknown name, a missing or wrong file, or no σ for a network that needs it.
    """

    def __init__(
        self,
        name: str,
        weights: str | os.PathLike[str] | None,
        sigma: float | None,
        colour: bool = False,
        device: str | torch.device = "auto",
    ) -> None:
        channels = BASELINES[name].channels if name in BASELINES else (1,)
        wanted = 3 if colour else 1
        self.channels_in = wanted if wanted in channels else channels[0]
        baseline = find(name, self.channels_in)
        if (weights is None) != (name == "bm3d"):
            problem = "needs a file of weights: give --weights FILE" if weights is None else "has no weights"
            raise ModnasError(f"{name} {problem}")
        if baseline.noise == "sigma" and sigma is None:
            raise ModnasError(f"{name} needs a noise level")
        self.sigma = sigma if baseline.noise == "sigma" else None
        self.device = choose_device(device)
        self.name = name if weights is None else f"{name} {os.fspath(weights)}"
        if weights is None:
            self.net = baseline.build(self.channels_in)
        else:
            self.net = load_baseline(name, weights, self.channels_in, self.device)

    @torch.inference_mode()
    def __call__(self, y: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape; a gray network takes any C and runs every channel by itself."""
        if self.channels_in == 1 and y.ndim == 4 and y.shape[1] > 1:
            return self(y.reshape(-1, 1, *y.shape[2:])).reshape(y.shape)
        x = y.to(self.device)
        return (self.net(x) if self.sigma is None else self.net(x, self.sigma)).to(y)
