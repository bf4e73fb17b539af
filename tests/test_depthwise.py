"""Depthwise gradients against autograd in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modnas_fast.ops import depthwise
from modnas_fast.ops.depthwise import depthwise_dweight, depthwise_dx, depthwise_fwd
from tests.parity import assert_parity

KERNELS = [(3, 1), (5, 1), (3, 2), (5, 2)]
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (3, 2, 4, 6),
    (1, 4, 1, 9),
    (2, 16, 13, 2),
    (2, 28, 9, 11),
    (2, 5, 16, 16),
    (1, 24, 1, 17),
    (2, 8, 33, 32),
]


def gradients_by_autograd(dilation: int, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    reach = dilation * (weight.shape[-1] // 2)
    padded = F.pad(x, (reach,) * 4)
    y = torch.zeros_like(x)
    for i in range(weight.shape[-1]):
        for j in range(weight.shape[-1]):
            tap = padded[..., i * dilation :, j * dilation :][..., : x.shape[2], : x.shape[3]]
            y = y + weight[None, :, 0, i, j, None, None] * tap
    return y.detach(), *torch.autograd.grad(y, (x, weight), dy)


def images(dilation: int, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    return depthwise_fwd(x, weight, dilation), depthwise_dx(dy, weight, dilation)


def check(shape: tuple[int, int, int, int], kernel: int, dilation: int, dtype: torch.dtype, layout) -> None:
    torch.manual_seed(0)
    x, dy = (torch.randn(shape).to(dtype).contiguous(memory_format=layout) for _ in range(2))
    weight = torch.randn(shape[1], 1, kernel, kernel).to(dtype)
    N, _, H, W = shape
    sums = {"reduction": max(N * H * W, kernel**2), "depth": 2, "gradients": False}  # of taps, then of threads' parts
    assert_parity(
        lambda *t: images(dilation, *t), lambda *t: gradients_by_autograd(dilation, *t)[:2], x, weight, dy, **sums
    )
    at_least = torch.promote_types(dtype, torch.float32)
    assert_parity(
        lambda x, weight, dy: depthwise_dweight(x, dy, kernel, dilation),
        lambda *t: gradients_by_autograd(dilation, *t)[2],
        *(x, weight, dy),
        precision=at_least,
        output_dtype=at_least,
        **sums,
    )


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kernel", "dilation"), KERNELS)
def test_gradients(kernel: int, dilation: int, shape: tuple[int, int, int, int], layout) -> None:
    check(shape, kernel, dilation, torch.float64, layout)
    check(shape, kernel, dilation, torch.float32, layout)


@pytest.mark.parametrize(("kernel", "dilation"), KERNELS)
def test_bfloat16_gradients_at_the_paper_s_size(kernel: int, dilation: int) -> None:
    """oneDNN 3.12's own dilated weight gradient is garbage here, without a warning."""
    check((12, 48, 64, 64), kernel, dilation, torch.bfloat16, torch.channels_last)


def test_strided_inputs() -> None:
    torch.manual_seed(0)
    x, dy = torch.randn(2, 8, 12, 7)[:, ::2, 1::2], torch.randn(2, 12, 6, 7)[:, 3:7]
    for kernel, dilation in KERNELS:
        mine = depthwise_dweight(x, dy, kernel, dilation)
        torch.testing.assert_close(mine, depthwise_dweight(x.contiguous(), dy.contiguous(), kernel, dilation))


@pytest.mark.parametrize("channels", [5, 16])
def test_the_differentiable_function(channels: int) -> None:
    def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=4, dilation=2, groups=channels)

    torch.manual_seed(0)
    x = torch.randn(2, channels, 9, 14).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.randn(channels, 1, 5, 5).requires_grad_(), torch.randn(channels).requires_grad_()
    assert_parity(lambda *t: depthwise(*t, 2), reference, x, weight, bias, reduction=2 * 9 * 14, depth=2)
