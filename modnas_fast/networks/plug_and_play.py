"""A denoiser for plug-and-play algorithms, which call it with the level of every iteration."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.networks.conditioned import ConditionedNet
from modnas_fast.networks.weights import load


class PlugAndPlay(nn.Module):
    """`denoiser(x, sigma)` as deepinv, DPIR and unrolled algorithms call it: differentiable, on any device.

    Args:
        model: a network for every σ, the name of a shipped one, or its weight file.

    Raises:
        ModnasError: as `load`, or a network for a single σ.
    """

    def __init__(self, model: ConditionedNet | str | os.PathLike[str]) -> None:
        super().__init__()
        net = model if isinstance(model, nn.Module) else load(model)
        if not isinstance(net, ConditionedNet):
            raise ModnasError(f"model {model} is for one level of noise; plug-and-play needs one for every σ")
        self.net = net

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise a batch.

        Args:
            x: float [N, C, H, W], nominally in [0, 1]. A gray model takes any C and runs every channel by itself.
            sigma: the noise's standard deviation in x's unit (25/255, say; deepinv's convention): a number, or a tensor
                of one or of N elements.

        Returns:
            The estimates, of x's shape, not clipped.
        """
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1) * 255
        if self.net.channels_in > 1 or x.ndim != 4:
            return self.net(x, level)
        planes = x.reshape(-1, 1, *x.shape[2:])
        if level.numel() > 1:
            level = level.repeat_interleave(x.shape[1])
        return self.net(planes, level).reshape(x.shape)
