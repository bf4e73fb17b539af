"""Folding the candidates of M layers at once: `reference.fold` with a leading axis; launches do not grow with M."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from modnas_fast.genotype import PRIMITIVES
from modnas_fast.ops._backend import fold_obstacle
from modnas_fast.ops.features import KERNEL_DTYPES
from modnas_fast.ops.fold_weights import fold_weights
from modnas_fast.reference.fold import FoldedDown, FoldedNormal, FoldedUp

_INTERPOLATIONS = ("bilinear", "nearest", "area")


def fold_normal(weights: Mapping[str, Tensor], gates: Tensor, carry: Tensor) -> FoldedNormal:
    """Fold M normal layers; see `fold_normal_ref`.

    Args:
        weights: the candidates' parameters, named as in a `MixedOp`'s state dict, each [M, …].
        gates: [M, 7, C], p_ℓ·ω·β.
        carry: [M], p_{ℓ−1}.

    Returns:
        Every tensor [M, …], in the arguments' dtype: call it outside autocast, since biases are summed here. On a GPU
        with Triton it is `fold_weights`, unless the dtype is none of its kernels'.
    """
    if gates.dtype in KERNEL_DTYPES and not fold_obstacle(gates.device.type):
        return fold_weights(weights, gates, carry)
    w = weights
    gate = dict(zip(PRIMITIVES["normal"], gates.unbind(1), strict=True))  # [M, C] each

    dense = _scale(gate["conv_5x5"], w["conv_5x5.conv.weight"])  # [M, C, C, 5, 5]
    dense[..., 1:4, 1:4] += _scale(gate["conv_3x3"], w["conv_3x3.conv.weight"])
    spread = _scale(gate["dil_conv_3x3"], w["dil_conv_3x3.pointwise.weight"])
    dense[..., ::2, ::2] += spread * w["dil_conv_3x3.depthwise.weight"].transpose(1, 2)

    identity = torch.eye(gates.shape[-1], dtype=gates.dtype, device=gates.device)[:, :, None, None]
    shortcut = _scale(gate["res_block_3x3"], w["res_block_3x3.shortcut.weight"])
    shortcut = shortcut + carry[:, None, None, None, None] * identity

    biases = (
        w["conv_3x3.conv.bias"],
        w["conv_5x5.conv.bias"],
        _bias_after(w, "sep_conv_3x3.depthwise2", "sep_conv_3x3.pointwise2"),
        _bias_after(w, "sep_conv_5x5.depthwise2", "sep_conv_5x5.pointwise2"),
        _bias_after(w, "dil_conv_3x3.depthwise", "dil_conv_3x3.pointwise"),
        _bias_after(w, "dil_conv_5x5.depthwise", "dil_conv_5x5.pointwise"),
        w["res_block_3x3.conv2.bias"] + w["res_block_3x3.shortcut.bias"],
    )
    return FoldedNormal(
        dense=dense,
        shortcut=shortcut,
        bias=(gates * torch.stack(biases, dim=1)).sum(1),
        residual_in=w["res_block_3x3.conv1.weight"],
        residual_in_bias=w["res_block_3x3.conv1.bias"],
        residual_out=_scale(gate["res_block_3x3"], w["res_block_3x3.conv2.weight"]),
        dil5_depthwise=w["dil_conv_5x5.depthwise.weight"],
        dil5_pointwise=_scale(gate["dil_conv_5x5"], w["dil_conv_5x5.pointwise.weight"]),
        sep3_depthwise1=w["sep_conv_3x3.depthwise1.weight"],
        sep3_pointwise1=w["sep_conv_3x3.pointwise1.weight"],
        sep3_bias1=_bias_after(w, "sep_conv_3x3.depthwise1", "sep_conv_3x3.pointwise1"),
        sep3_depthwise2=w["sep_conv_3x3.depthwise2.weight"],
        sep3_pointwise2=_scale(gate["sep_conv_3x3"], w["sep_conv_3x3.pointwise2.weight"]),
        sep5_depthwise1=w["sep_conv_5x5.depthwise1.weight"],
        sep5_pointwise1=w["sep_conv_5x5.pointwise1.weight"],
        sep5_bias1=_bias_after(w, "sep_conv_5x5.depthwise1", "sep_conv_5x5.pointwise1"),
        sep5_depthwise2=w["sep_conv_5x5.depthwise2.weight"],
        sep5_pointwise2=_scale(gate["sep_conv_5x5"], w["sep_conv_5x5.pointwise2.weight"]),
    )


def fold_down(weights: Mapping[str, Tensor], gates: Tensor) -> FoldedDown:
    """Fold M down-sampling layers, weights [M, …] and gates [M, 4, C]; see `fold_down_ref`."""
    gate = dict(zip(PRIMITIVES["down"], gates.unbind(1), strict=True))
    gated = {op: _scale(gate[op], weights[f"{op}.pointwise.weight"]) for op in _INTERPOLATIONS}
    mean = (gated["bilinear"] + gated["area"]) / 4
    biases = [weights["conv_3x3.conv.bias"], *(weights[f"{op}.pointwise.bias"] for op in _INTERPOLATIONS)]
    return FoldedDown(
        conv=_scale(gate["conv_3x3"], weights["conv_3x3.conv.weight"]),
        resize=mean.expand(-1, -1, -1, 2, 2) + F.pad(gated["nearest"], (0, 1, 0, 1)),
        bias=(gates * torch.stack(biases, dim=1)).sum(1),
    )


def fold_up(weights: Mapping[str, Tensor], gates: Tensor) -> FoldedUp:
    """Fold M up-sampling layers, weights [M, …] and gates [M, 5, C]; see `fold_up_ref`."""
    gate = dict(zip(PRIMITIVES["up"], gates.unbind(1), strict=True))
    sub_pixel = weights["sub_pixel.conv.weight"].unflatten(1, (-1, 4))  # [M, C, 4, C_in, 3, 3]
    deconv = _phases(_phases(weights["deconv_3x3.conv.weight"], -2), -2)  # [M, C_in, C, 3, 3, 2, 2]
    deconv = deconv.flatten(-2).movedim(1, 2).movedim(-1, 2)  # [M, C, 4, C_in, 3, 3]
    shuffled = _scale(gate["sub_pixel"], sub_pixel) + _scale(gate["deconv_3x3"], deconv)
    gated = {op: _scale(gate[op], weights[f"{op}.pointwise.weight"]) for op in _INTERPOLATIONS}
    biases = [weights["deconv_3x3.conv.bias"], *(weights[f"{op}.pointwise.bias"] for op in _INTERPOLATIONS)]
    bias = (gates[:, :4] * torch.stack(biases, dim=1)).sum(1)  # [M, C]
    sub_pixel_bias = _scale(gate["sub_pixel"], weights["sub_pixel.conv.bias"].unflatten(1, (-1, 4)))
    return FoldedUp(
        shuffled=shuffled.flatten(1, 2),
        repeated=gated["nearest"] + gated["area"],
        bilinear=gated["bilinear"],
        bias=(bias[:, :, None] + sub_pixel_bias).flatten(1),
    )


def _scale(gate: Tensor, weight: Tensor) -> Tensor:
    """Gates [M, C] times the output channels of M kernels [M, C, …]."""
    return gate.reshape(*gate.shape, *(1,) * (weight.ndim - 2)) * weight


def _bias_after(weights: Mapping[str, Tensor], depthwise: str, pointwise: str) -> Tensor:
    """The biases of M depthwise convolutions and the 1×1 after each, as one: P·d + p, [M, C]."""
    matrix = weights[f"{pointwise}.weight"].flatten(2)  # [M, C, C]
    return (matrix @ weights[f"{depthwise}.bias"].unsqueeze(2)).squeeze(2) + weights[f"{pointwise}.bias"]


def _phases(kernel: Tensor, dim: int) -> Tensor:
    """The two 3-tap kernels, on a new last axis, whose outputs a transposed convolution interleaves along `dim`."""
    first, second, third = kernel.unbind(dim)
    zero = torch.zeros_like(first)
    even = torch.stack((zero, second, zero), dim)
    odd = torch.stack((zero, third, first), dim)
    return torch.stack((even, odd), -1)
