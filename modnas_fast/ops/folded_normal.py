"""A folded normal layer with a backward pass of its own.

Autograd would keep eleven activations of the layer. This keeps x and the residual block's middle, and recomputes the
rest: ReLUs, depthwise convolutions and two 1×1, next to nothing beside the dense ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modnas_fast.ops.convolution import convolution_dweight, convolution_dx, convolution_fwd, relu_backward
from modnas_fast.ops.depthwise import depthwise_dweight, depthwise_dx, depthwise_fwd
from modnas_fast.reference.fold import FoldedNormal

_IMAGES = 4  # of a batch, computed at a time in a wider precision than they are kept in


def folded_normal(x: Tensor, layer: FoldedNormal) -> Tensor:
    """What a folded normal layer makes of its input; see `folded_normal_ref` for the equation.

    Args:
        x: [N, C, H, W]; its dtype is that of the result and of what is kept for the backward pass.
        layer: one layer of a fold, all of one dtype, in which it is computed: x's, or a wider one.

    Returns:
        [N, C, H, W] in x's dtype; differentiable once, in x and every tensor of `layer`.
    """
    with torch.autocast(x.device.type, enabled=False):  # the layer's dtype is the choice
        y = FoldedNormalFunction.apply(x, *layer)  # type: ignore[no-untyped-call]
    return cast("Tensor", y)


class FoldedNormalFunction(torch.autograd.Function):
    """`folded_normal` of x and the tensors of a `FoldedNormal`, in their order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *tensors: Tensor) -> Tensor:
        w = FoldedNormal(*tensors)
        parts = [_forward(part.to(w.dense.dtype), w) for part in _parts(x, w)]
        y, residual = (_joined([result.to(x.dtype) for result in results]) for results in zip(*parts, strict=True))
        ctx.save_for_backward(x, residual, *tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        saved_x, saved_residual, *tensors = ctx.saved_tensors
        w = FoldedNormal(*tensors)
        back = _Backward(w, ctx.needs_input_grad[1:])
        with torch.autocast(dy.device.type, enabled=False):
            parts = zip(*(_parts(tensor, w) for tensor in (saved_x, saved_residual, dy)), strict=True)
            dx = [back.layer(*(part.to(w.dense.dtype) for part in images)).to(saved_x.dtype) for images in parts]
        return _joined(dx), *(back.gradients.get(field) for field in FoldedNormal._fields)


def _parts(x: Tensor, w: FoldedNormal) -> Sequence[Tensor]:
    """A few images at a time where the layer is wider than x: wide results are many, and gone when it ends."""
    return x.split(max(len(x), 1) if x.dtype == w.dense.dtype else _IMAGES)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _forward(x: Tensor, w: FoldedNormal) -> tuple[Tensor, Tensor]:
    """The layer's output and the residual block's middle."""
    r = F.relu(x)
    y = convolution_fwd(r, w.dense, w.bias)
    y += F.conv2d(x, w.shortcut)
    residual = convolution_fwd(r, w.residual_in, w.residual_in_bias).relu_()
    y += convolution_fwd(residual, w.residual_out)
    y += F.conv2d(depthwise_fwd(r, w.dil5_depthwise, dilation=2), w.dil5_pointwise)
    for sep in (w.sep3, w.sep5):
        middle = F.conv2d(depthwise_fwd(r, sep.depthwise1), sep.pointwise1, sep.bias1).relu_()
        y += F.conv2d(depthwise_fwd(middle, sep.depthwise2), sep.pointwise2)
    return y, residual


class _Backward:
    """Backward steps of a layer: each returns the gradient in its input and adds up those needed in its parameters."""

    def __init__(self, w: FoldedNormal, needed: Iterable[bool]) -> None:
        self.w = w
        self.needed = dict(zip(FoldedNormal._fields, needed, strict=True))
        self.gradients: dict[str, Tensor] = {}

    def layer(self, x: Tensor, residual: Tensor, dy: Tensor) -> Tensor:
        """Of the whole layer."""
        w, r = self.w, F.relu(x)
        dr = self.conv("dense", dy, r, bias="bias")
        dx = self.conv("shortcut", dy, x)
        d_residual = self.conv("residual_out", dy, residual, rectified=residual)
        dr += self.conv("residual_in", d_residual, r, bias="residual_in_bias")
        d_dilated = self.conv("dil5_pointwise", dy, depthwise_fwd(r, w.dil5_depthwise, dilation=2))
        dr += self.depthwise("dil5_depthwise", d_dilated, r, dilation=2)
        for name, sep in (("sep3", w.sep3), ("sep5", w.sep5)):
            first = depthwise_fwd(r, sep.depthwise1)
            middle = F.conv2d(first, sep.pointwise1, sep.bias1).relu_()
            d = self.conv(f"{name}_pointwise2", dy, depthwise_fwd(middle, sep.depthwise2))
            d = relu_backward(self.depthwise(f"{name}_depthwise2", d, middle), middle)
            d = self.conv(f"{name}_pointwise1", d, first, bias=f"{name}_bias1")
            dr += self.depthwise(f"{name}_depthwise1", d, r)
        dx += relu_backward(dr, r)
        return dx

    def add(self, name: str, gradient: Tensor) -> None:
        self.gradients[name] = gradient if name not in self.gradients else self.gradients[name] + gradient

    def conv(self, name: str, dy: Tensor, x: Tensor, bias: str = "", rectified: Tensor | None = None) -> Tensor:
        """Of a same-size convolution, or of that and the ReLU before it; see `convolution_dx`."""
        weight: Tensor = getattr(self.w, name)
        need_bias = bool(self.needed.get(bias))
        if self.needed[name] or need_bias:
            dweight, dbias = convolution_dweight(x, dy, weight, need_bias)
            self.add(name, dweight)
            if dbias is not None:
                self.add(bias, dbias)
        return convolution_dx(dy, weight, rectified)

    def depthwise(self, name: str, dy: Tensor, x: Tensor, dilation: int = 1) -> Tensor:
        """Of a depthwise convolution."""
        weight: Tensor = getattr(self.w, name)
        if self.needed[name]:
            self.add(name, depthwise_dweight(x, dy, weight.shape[-1], dilation))
        return depthwise_dx(dy, weight, dilation)
