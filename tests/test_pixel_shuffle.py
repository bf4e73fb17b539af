"""Pixel shuffles in channels_last, beside PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modnas_fast.ops.pixel_shuffle import _channels_last, pixel_shuffle
from tests.cases import DEVICE


def shuffled(shuffle: Callable[[Tensor, int], Tensor], x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """What comes out, and the gradient of a weighted sum of it."""
    x = x.detach().requires_grad_()
    y = shuffle(x, factor)
    weights = torch.arange(y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
    (gradient,) = torch.autograd.grad((y * weights.to(memory_format=torch.channels_last)).sum(), x)
    return y.detach(), gradient


@pytest.mark.parametrize(("factor", "height", "width"), [(2, 5, 7), (2, 8, 8), (3, 1, 4)])
@pytest.mark.parametrize("shuffle", [pixel_shuffle, _channels_last])
def test_equals_torchs_and_keeps_channels_last(
    shuffle: Callable[[Tensor, int], Tensor], factor: int, height: int, width: int
) -> None:
    x = torch.randn(2, 3 * factor**2, height, width, device=DEVICE).to(memory_format=torch.channels_last)
    for ours, torchs in zip(shuffled(shuffle, x, factor), shuffled(F.pixel_shuffle, x, factor), strict=True):
        assert torch.equal(ours, torchs)
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_contiguous_stays_contiguous() -> None:
    x = torch.randn(2, 8, 5, 6, device=DEVICE)
    assert torch.equal(pixel_shuffle(x, 2), F.pixel_shuffle(x, 2))
    assert pixel_shuffle(x, 2).is_contiguous()
