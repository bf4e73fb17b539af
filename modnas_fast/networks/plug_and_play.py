"""A denoiser for plug-and-play algorithms, which call it with the level of every iteration."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.images.degradations import as_level
from modnas_fast.networks.conditioned import ConditionedNet
from modnas_fast.networks.levels import suggestion
from modnas_fast.networks.weights import load


class PlugAndPlay(nn.Module):
    """`denoiser(x, sigma)` as deepinv, DPIR and unrolled algorithms call it: differentiable, on any device.

    Args:
        model: a network for every σ, the name of a shipped one, or its weight file. The shipped ones were trained for
            σ from 0 to 55/255.

    Raises:
        ModnasError: as `load`, or a network that is not told σ.
    """

    def __init__(self, model: ConditionedNet | str | os.PathLike[str]) -> None:
        super().__init__()
        net = model if isinstance(model, nn.Module) else load(model)
        if not isinstance(net, ConditionedNet):
            name = type(model).__name__ if isinstance(model, nn.Module) else os.fspath(model)
            raise ModnasError(f"model {name} is not told σ; plug-and-play needs one for every σ: {suggestion(None)}")
        self.net = net

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise a batch.

        Args:
            x: float [N, C, H, W], nominally in [0, 1]. A gray model takes any C and runs every channel by itself.
            sigma: the noise's standard deviation in x's unit (25/255, say; deepinv's convention): a number, or a tensor
                (array, list) of one or of N elements, whose values are not looked at.

        Returns:
            The estimates, of x's shape and dtype, not clipped; the network computes in its own dtype (see `.double()`).

        Raises:
            ModnasError: x is no float tensor of this shape, or sigma is no number from 0 to 1 and no such tensor.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ModnasError(f"x is {kind}; give a float tensor [N, C, H, W] in [0, 1]")
        if not isinstance(sigma, Tensor) and np.ndim(sigma) == 0:
            sigma = as_level(sigma, "in x's unit")
            if sigma > 1:
                raise ModnasError(f"sigma is {sigma:g}; σ is in x's unit: divide by 255")
        y = x.to(self.net.dtype)
        level = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).reshape(-1) * 255
        if y.ndim == 4 and level.numel() not in (1, len(y)):
            raise ModnasError(f"sigma holds {level.numel()} levels for {len(y)} images; give one, or one an image")
        if self.net.channels_in == 1 and y.ndim == 4:
            y = y.reshape(-1, 1, *y.shape[2:])
            if level.numel() > 1:
                level = level.repeat_interleave(x.shape[1])
        return self.net(y, level).reshape(x.shape).to(x.dtype)
