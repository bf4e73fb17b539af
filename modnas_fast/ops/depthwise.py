"""Depthwise convolution, and gradients of it that do not take ten times as long: the engine's where it is built.

oneDNN has a fast weight gradient for 3×3 kernels of dilation 1 only; at 48 channels 5×5 or dilated ones take 20 times
as long, and in bfloat16 a dilated one can be wrong altogether. Its data gradients are uneven too: the forward
convolution with the kernel turned around takes their place.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modnas_fast.ops import native


def depthwise(x: Tensor, weight: Tensor, bias: Tensor, dilation: int = 1) -> Tensor:
    """Depthwise convolution, zero-padded to the same size.

    Args:
        x: [N, C, H, W]; its dtype is that of the result.
        weight: [C, 1, k, k], k 3 or 5. bias: [C]. Their dtype, x's or a wider one, is that of the computation.

    Returns:
        [N, C, H, W] in x's dtype, differentiable once.
    """
    with torch.autocast(x.device.type, enabled=False):
        return cast("Tensor", DepthwiseFunction.apply(x, weight, bias, dilation))  # type: ignore[no-untyped-call]


class DepthwiseFunction(torch.autograd.Function):
    """`depthwise`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return depthwise_fwd(x, weight, dilation).add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        with torch.autocast(dy.device.type, enabled=False):
            dy = dy.to(x.dtype)
            return (
                depthwise_dx(dy, weight, ctx.dilation) if need_x else None,
                depthwise_dweight(x, dy, weight.shape[-1], ctx.dilation) if need_weight else None,
                dy.sum((0, 2, 3)).to(weight.dtype) if need_bias else None,
                None,
            )


def runs(x: Tensor, weight: Tensor, dilation: int = 1) -> bool:
    """Whether `depthwise` of x is the engine's."""
    return weight.dtype == torch.float32 and native.runs(x, weight.shape[-1], x.shape[1], dilation=dilation)


def depthwise_fwd(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """`depthwise` without bias and autograd."""
    if runs(x, weight, dilation):
        return cast("Tensor", native.depthwise(x, weight[:, 0].permute(1, 2, 0), dilation))
    padding = dilation * (weight.shape[-1] // 2)
    y = F.conv2d(x.to(weight.dtype), weight, padding=padding, dilation=dilation, groups=x.shape[1])
    return y.to(x.dtype)


def depthwise_dx(dy: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Gradient of `depthwise` in x, [N, C, H, W], from that in its output, in whose dtype it is."""
    return depthwise_fwd(dy, weight.flip(2, 3), dilation)


def depthwise_dweight(x: Tensor, dy: Tensor, kernel: int, dilation: int = 1) -> Tensor:
    """Gradient of `depthwise` in its weight, [C, 1, kernel, kernel], from x and that in its output, of one dtype; on a
    CPU at least float32.
    """
    channels, padding = x.shape[1], dilation * (kernel // 2)
    if native.runs(x, kernel, channels, dilation=dilation):
        return cast("Tensor", native.depthwise_dweight(x, dy, kernel, dilation)).permute(2, 0, 1)[:, None]
    if x.device.type == "cpu" and x.dtype == torch.bfloat16:
        return depthwise_dweight(x.float(), dy.float(), kernel, dilation)
    weight = x.new_empty(channels, 1, kernel, kernel)  # its values do not matter
    square = [padding, padding], [dilation, dilation]
    return torch.ops.aten.convolution_backward(
        dy, x, weight, None, [1, 1], *square, False, [0, 0], channels, [False, True, False]
    )[1]
