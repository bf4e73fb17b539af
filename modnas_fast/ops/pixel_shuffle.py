"""Pixel shuffle that keeps a feature map's layout on a GPU too."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from modnas_fast.ops.features import is_channels_last


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """`F.pixel_shuffle`, [N, C·factor², H, W] to [N, C, factor·H, factor·W]; result and gradient are laid out as x is.

    PyTorch's own are contiguous on a GPU, whatever they are given, and the convolutions after it, or before it in the
    backward pass, would mix layouts.
    """
    return _channels_last(x, factor) if x.is_cuda and is_channels_last(x) else F.pixel_shuffle(x, factor)


def _channels_last(x: Tensor, factor: int) -> Tensor:
    N, C, H, W = x.shape
    tiles = x.permute(0, 2, 3, 1).unflatten(3, (C // factor**2, factor, factor))
    rows = tiles.permute(0, 1, 4, 2, 5, 3).reshape(N, H * factor, W * factor, C // factor**2)
    return rows.permute(0, 3, 1, 2)
