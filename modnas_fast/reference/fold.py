"""Folding a mixed layer's candidates, one by one, in weight space.

Every candidate of a layer starts from the same x or ReLU(x) and ends in a convolution, and the gates are linear. So
Σₖ gₖ ⊙ (Wₖ * u + bₖ) = (Σₖ gₖ ⊙ Wₖ) * u + Σₖ gₖ ⊙ bₖ wherever two candidates convolve the same u. This is exact:
what it changes is that a layer convolves a few times instead of twelve, and stores as few results.

The tuples below are the folded layers. `reference/folded_*.py` says what each computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from modnas_fast.genotype import PRIMITIVES


class Separable(NamedTuple):
    """A separable candidate: pointwise2 · (depthwise2 * ReLU(pointwise1 · (depthwise1 * r) + bias1))."""

    depthwise1: Tensor
    pointwise1: Tensor
    bias1: Tensor
    depthwise2: Tensor
    pointwise2: Tensor


class FoldedNormal(NamedTuple):
    """A normal layer, what is left of seven candidates; from `ops.fold`, with a leading axis of layers."""

    dense: Tensor  # [C, C, 5, 5] on r = ReLU(x): conv_3x3, conv_5x5 and dil_conv_3x3
    shortcut: Tensor  # [C, C, 1, 1] on x
    bias: Tensor  # [C], of everything
    residual_in: Tensor  # [C, C, 3, 3] on r, and its bias: the residual block's first convolution
    residual_in_bias: Tensor  # [C]
    residual_out: Tensor  # [C, C, 3, 3], its second
    dil5_depthwise: Tensor  # [C, 1, 5, 5] on r, dilation 2
    dil5_pointwise: Tensor  # [C, C, 1, 1]
    sep3_depthwise1: Tensor  # [C, 1, 3, 3] on r
    sep3_pointwise1: Tensor  # [C, C, 1, 1]
    sep3_bias1: Tensor  # [C], pointwise1's with depthwise1's in it
    sep3_depthwise2: Tensor  # [C, 1, 3, 3]
    sep3_pointwise2: Tensor  # [C, C, 1, 1]
    sep5_depthwise1: Tensor  # [C, 1, 5, 5] on r
    sep5_pointwise1: Tensor  # [C, C, 1, 1]
    sep5_bias1: Tensor  # [C]
    sep5_depthwise2: Tensor  # [C, 1, 5, 5]
    sep5_pointwise2: Tensor  # [C, C, 1, 1]

    @property
    def sep3(self) -> Separable:
        """`sep_conv_3x3`."""
        return Separable(*self[8:13])

    @property
    def sep5(self) -> Separable:
        """`sep_conv_5x5`."""
        return Separable(*self[13:18])


class FoldedDown(NamedTuple):
    """A down-sampling layer: both convolutions have stride 2."""

    conv: Tensor  # [C, C, 3, 3] on ReLU(x)
    resize: Tensor  # [C, C, 2, 2] on x: bilinear, nearest and area
    bias: Tensor  # [C]


class FoldedUp(NamedTuple):
    """An up-sampling layer."""

    shuffled: Tensor  # [4·C, C, 3, 3] on ReLU(x), then pixel shuffle: deconv_3x3 and sub_pixel
    repeated: Tensor  # [C, C, 1, 1] on x, then each pixel twice both ways: nearest and area
    bilinear: Tensor  # [C, C, 1, 1] on x, then bilinear ×2
    bias: Tensor  # [4·C], of everything, added before the pixel shuffle


def fold_normal_ref(weights: Mapping[str, Tensor], gates: Tensor, carry: Tensor) -> FoldedNormal:
    """Fold one normal layer with its own share of the depth relaxation.

        Σₖ gₖ ⊙ oₖ(x) + carry·x

    With gₖ = p_ℓ·ωₖ·βₖ and carry = p_{ℓ−1} this is L^ℓ but for the terms of L⁰ … L^{ℓ−2}.

    Args:
        weights: every candidate's parameters, named as in a `MixedOp`'s state dict: "conv_3x3.conv.weight".
        gates: [7, C], in the order of `PRIMITIVES["normal"]`.
        carry: scalar.

    Returns:
        The layer as `folded_normal_ref` runs it; differentiable in all arguments.
    """
    gate = dict(zip(PRIMITIVES["normal"], gates, strict=True))
    w = weights

    dense = _scale(gate["conv_5x5"], w["conv_5x5.conv.weight"])
    dense = dense + F.pad(_scale(gate["conv_3x3"], w["conv_3x3.conv.weight"]), (1, 1, 1, 1))
    # The depthwise tap (i, j) of dilation 2 is tap (2i, 2j) of a 5×5 kernel, and the 1×1 spreads it over the outputs.
    dilated = w["dil_conv_3x3.pointwise.weight"] * w["dil_conv_3x3.depthwise.weight"].transpose(0, 1)  # [C, C, 3, 3]
    spread = torch.zeros_like(dense)
    spread[:, :, ::2, ::2] = _scale(gate["dil_conv_3x3"], dilated)

    identity = torch.eye(gates.shape[1], dtype=gates.dtype, device=gates.device)[:, :, None, None]
    shortcut = _scale(gate["res_block_3x3"], w["res_block_3x3.shortcut.weight"]) + carry * identity

    bias = gate["conv_3x3"] * w["conv_3x3.conv.bias"] + gate["conv_5x5"] * w["conv_5x5.conv.bias"]
    for op, depthwise, pointwise in (
        ("sep_conv_3x3", "depthwise2", "pointwise2"),
        ("sep_conv_5x5", "depthwise2", "pointwise2"),
        ("dil_conv_3x3", "depthwise", "pointwise"),
        ("dil_conv_5x5", "depthwise", "pointwise"),
    ):
        bias = bias + gate[op] * _bias_after(w, f"{op}.{depthwise}", f"{op}.{pointwise}")
    bias = bias + gate["res_block_3x3"] * (w["res_block_3x3.conv2.bias"] + w["res_block_3x3.shortcut.bias"])

    return FoldedNormal(
        dense=dense + spread,
        shortcut=shortcut,
        bias=bias,
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


def fold_down_ref(weights: Mapping[str, Tensor], gates: Tensor) -> FoldedDown:
    """Fold one down-sampling layer, Σₖ gₖ ⊙ oₖ(x); gates are [4, C], in the order of `PRIMITIVES["down"]`.

    At ×½ bilinear and area weigh each pixel of a 2×2 cell by ¼, and nearest takes the cell's first.
    """
    gate = dict(zip(PRIMITIVES["down"], gates, strict=True))
    gated = {op: _scale(gate[op], weights[f"{op}.pointwise.weight"]) for op in ("bilinear", "nearest", "area")}
    first = F.pad(gated["nearest"], (0, 1, 0, 1))  # tap (0, 0) of 2×2
    bias = gate["conv_3x3"] * weights["conv_3x3.conv.bias"]
    for op in gated:
        bias = bias + gate[op] * weights[f"{op}.pointwise.bias"]
    return FoldedDown(
        conv=_scale(gate["conv_3x3"], weights["conv_3x3.conv.weight"]),
        resize=(gated["bilinear"] + gated["area"]).expand(-1, -1, 2, 2) / 4 + first,
        bias=bias,
    )


def fold_up_ref(weights: Mapping[str, Tensor], gates: Tensor) -> FoldedUp:
    """Fold one up-sampling layer, Σₖ gₖ ⊙ oₖ(x); gates are [5, C], in the order of `PRIMITIVES["up"]`.

    Output pixel (2i + a, 2j + b) of the transposed convolution sees the inputs i and i + 1 only: through tap 1 of
    input i where a = 0, through tap 2 of i and tap 0 of i + 1 where a = 1. That is a 3×3 convolution for each phase
    (a, b).
    """
    gate = dict(zip(PRIMITIVES["up"], gates, strict=True))
    sub_pixel = weights["sub_pixel.conv.weight"].unflatten(0, (-1, 2, 2))  # [C, a, b, C_in, 3, 3]
    deconv = weights["deconv_3x3.conv.weight"].transpose(0, 1)  # [C, C_in, 3, 3]
    shuffled = gate["sub_pixel"][:, None, None, None, None, None] * sub_pixel
    phases = torch.zeros_like(shuffled)
    for a in (0, 1):
        for b in (0, 1):
            for row, tap_row in ((1, 1),) if a == 0 else ((1, 2), (2, 0)):
                for column, tap_column in ((1, 1),) if b == 0 else ((1, 2), (2, 0)):
                    phases[:, a, b, :, row, column] = deconv[:, :, tap_row, tap_column]
    shuffled = shuffled + gate["deconv_3x3"][:, None, None, None, None, None] * phases

    gated = {op: _scale(gate[op], weights[f"{op}.pointwise.weight"]) for op in ("bilinear", "nearest", "area")}
    bias = gate["deconv_3x3"] * weights["deconv_3x3.conv.bias"]
    for op in gated:
        bias = bias + gate[op] * weights[f"{op}.pointwise.bias"]
    sub_pixel_bias = gate["sub_pixel"][:, None] * weights["sub_pixel.conv.bias"].unflatten(0, (-1, 4))  # [C, 4]
    return FoldedUp(
        shuffled=shuffled.flatten(0, 2),
        repeated=gated["nearest"] + gated["area"],
        bilinear=gated["bilinear"],
        bias=(bias[:, None] + sub_pixel_bias).flatten(),
    )


def _scale(gate: Tensor, weight: Tensor) -> Tensor:
    """Gate [C] times the output channels of a kernel [C, …]."""
    return gate[:, None, None, None] * weight


def _bias_after(weights: Mapping[str, Tensor], depthwise: str, pointwise: str) -> Tensor:
    """The biases of a depthwise convolution and the 1×1 after it, as one: P·d + p. Exact: padding lies before both."""
    matrix = weights[f"{pointwise}.weight"].flatten(1)
    return matrix @ weights[f"{depthwise}.bias"] + weights[f"{pointwise}.bias"]
