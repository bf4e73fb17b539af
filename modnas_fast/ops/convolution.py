"""Convolution of stride 1 to the same size, and its gradients: the engine's on CPUs that it is built for.

By Winograd's minimal filtering, F(4×4, 3×3) and F(4×4, 5×5): 2.25 products an output instead of 9, or 4 instead of
25, in the forward pass and in both gradients. Relative errors are 5e-7 and 2e-6 instead of 3e-7.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modnas_fast.ops import native
from modnas_fast.ops.features import is_channels_last

_FEW_CHANNELS = 16  # below, transforms cost what the products save
_TILE = 4  # outputs each way: most of the work on smaller images would be in vain


def convolution(x: Tensor, weight: Tensor, bias: Tensor, rectified: Tensor | None = None) -> Tensor:
    """Convolution of stride 1, zero-padded to the same size; of x, or of max(x, 0), where that is given.

    Args:
        x: [N, C_in, H, W]; its dtype is that of the result, of its gradient and of what is kept for the backward pass.
        weight: [C_out, C_in, k, k], k odd. bias: [C_out]. Their dtype, x's or a wider one, is that of the computation.
        rectified: max(x, 0), to be convolved in place of x. The gradient in x passes the ReLU where it is written.

    Returns:
        [N, C_out, H, W] in x's dtype, differentiable once.
    """
    with torch.autocast(x.device.type, enabled=False):  # the weight's dtype is the choice
        return cast("Tensor", ConvolutionFunction.apply(x, weight, bias, rectified))  # type: ignore[no-untyped-call]


class ConvolutionFunction(torch.autograd.Function):
    """`convolution`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, rectified: Tensor | None) -> Tensor:
        operand = x if rectified is None else rectified
        ctx.save_for_backward(operand, weight)
        ctx.rectifies = rectified is not None
        return convolution_fwd(operand, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        with torch.autocast(dy.device.type, enabled=False):
            dy = dy.to(x.dtype).contiguous(memory_format=_layout(x))  # once, for both gradients
            dx = convolution_dx(dy, weight, x if ctx.rectifies else None) if need_x else None
            dweight, dbias = convolution_dweight(x, dy, weight, need_bias) if need_weight or need_bias else (None, None)
        return dx, dweight, dbias, None


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolution` of x is the engine's."""
    channels_out, channels_in, kernel, _ = weight.shape
    worth = min(channels_out, channels_in) >= _FEW_CHANNELS and min(x.shape[2:]) >= _TILE
    return worth and weight.dtype == torch.float32 and native.runs(x, kernel, channels_out, channels_in)


def convolution_fwd(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`convolution` without autograd."""
    if pays(x, weight):
        return cast("Tensor", native.convolution(x, weight.permute(2, 3, 1, 0), bias, None))
    return F.conv2d(x.to(weight.dtype), weight, bias, padding=weight.shape[-1] // 2).to(x.dtype)


def convolution_dx(dy: Tensor, weight: Tensor, rectified: Tensor | None = None) -> Tensor:
    """Gradient of `convolution` in x, [N, C_in, H, W], from that in its output, in whose dtype it is; `rectified` is
    what `convolution` was given.
    """
    if pays(dy, weight):
        return cast("Tensor", native.convolution(dy, weight.flip(2, 3).permute(2, 3, 0, 1), None, rectified))
    wide = dy.to(weight.dtype)
    # Its values do not matter, but its layout is the one that cuDNN works in and gives back.
    shape = len(dy), weight.shape[1], *dy.shape[2:]
    x = torch.empty(shape, dtype=wide.dtype, device=wide.device, memory_format=_layout(dy))
    dx = _backward(wide, x, weight, [True, False, False])[0].to(dy.dtype)
    return dx if rectified is None else relu_backward(dx, rectified)


def relu_backward(dy: Tensor, output: Tensor) -> Tensor:
    """Gradient in a ReLU's input, from that in its output, and the output."""
    return cast("Tensor", torch.ops.aten.threshold_backward(dy, output, 0))


def convolution_dweight(x: Tensor, dy: Tensor, weight: Tensor, need_bias: bool) -> tuple[Tensor, Tensor | None]:
    """Gradients of `convolution` in its weight, [C_out, C_in, k, k], and, where needed, its bias, [C_out], from what it
    convolved and from that in its output, of one dtype.
    """
    if pays(x, weight):
        dweight, dbias = native.convolution_dweight(x, dy, weight.shape[-1])
        return dweight.permute(3, 2, 0, 1), dbias if need_bias else None
    return _backward(dy.to(weight.dtype), x.to(weight.dtype), weight, [False, True, need_bias])[1:]


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def _backward(dy: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor | None]:
    sizes, padding = [len(weight)], [weight.shape[-1] // 2] * 2
    return torch.ops.aten.convolution_backward(dy, x, weight, sizes, [1, 1], padding, [1, 1], False, [0, 0], 1, wanted)
