"""Folding M normal layers' candidates in weight space: one launch forward, two backward.

A program has one output channel of one layer, that is a row of every kernel, and so all of its gates' gradients. What
backward sums over output channels, a second launch does by input channels: gradients of depthwise taps and biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_LARGEST_BLOCK = 512  # four elements a thread


class Convolutions(NamedTuple):
    """Kernels and biases of candidates 0 and 1, and of 6, its second convolution and its shortcut."""

    conv3: Tensor  # [M, C, C, 3, 3]
    conv3_bias: Tensor  # [M, C], as all biases
    conv5: Tensor  # [M, C, C, 5, 5]
    conv5_bias: Tensor
    residual: Tensor  # [M, C, C, 3, 3]
    residual_bias: Tensor
    shortcut: Tensor  # [M, C, C, 1, 1]
    shortcut_bias: Tensor


class Pointwise(NamedTuple):
    """A 1×1 convolution after a depthwise one with a bias, which it makes its own: weight·depthwise_bias + bias."""

    weight: Tensor  # [M, C, C, 1, 1]
    depthwise_bias: Tensor  # [M, C]
    bias: Tensor  # [M, C]


class Folded(NamedTuple):
    """What is folded, or its gradients."""

    dense: Tensor  # [M, C, C, 5, 5]
    shortcut: Tensor  # [M, C, C, 1, 1]
    bias: Tensor  # [M, C]
    residual_out: Tensor  # [M, C, C, 3, 3]
    dil5_pointwise: Tensor  # as all 1×1 kernels
    sep3_bias1: Tensor  # as all biases
    sep3_pointwise2: Tensor
    sep5_bias1: Tensor
    sep5_pointwise2: Tensor


@triton.jit
def _middle(e):
    """Elements e of a row [C, 5, 5]: where each is in a row [C, 3, 3], its middle, and which are."""
    y, x = e % 25 // 5, e % 25 % 5
    return e // 25 * 9 + 3 * y + x - 4, (y % 4 > 0) & (x % 4 > 0)


@triton.jit
def _gates_of(gates, m, o, C: tl.constexpr):
    """The seven gates of a row; in float32, as is then what they are multiplied by."""
    row = ()
    for k in tl.static_range(7):
        row = row + (tl.load(gates + (m * 7 + k) * C + o).to(tl.float32),)
    return row


@triton.jit
def _fold_weights_fwd_kernel(
    convolutions,
    pointwises,
    depthwise,
    gates,
    carry,
    folded,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    o, m = tl.program_id(0), tl.cast(tl.program_id(1), tl.int64)
    row = m * C + o
    gate = _gates_of(gates, m, o, C)
    for first in range(0, 25 * C, BLOCK):
        e = first + tl.arange(0, BLOCK)
        inside = e < 25 * C
        tap, middle = _middle(e)
        kernel = gate[1] * tl.load(convolutions.conv5 + row * 25 * C + e, mask=inside, other=0.0)
        kernel += gate[0] * tl.load(convolutions.conv3 + row * 9 * C + tap, mask=inside & middle, other=0.0)
        i, y, x = e // 25, e % 25 // 5, e % 25 % 5
        even = inside & (y % 2 == 0) & (x % 2 == 0)
        spread = gate[4] * tl.load(pointwises[2].weight + row * C + i, mask=even, other=0.0)
        kernel += spread * tl.load(depthwise + (m * C + i) * 9 + y // 2 * 3 + x // 2, mask=even, other=0.0)
        tl.store(folded.dense + row * 25 * C + e, kernel, mask=inside)

    for first in range(0, 9 * C, BLOCK):
        e = first + tl.arange(0, BLOCK)
        kernel = gate[6] * tl.load(convolutions.residual + row * 9 * C + e, mask=e < 9 * C, other=0.0)
        tl.store(folded.residual_out + row * 9 * C + e, kernel, mask=e < 9 * C)

    own = tl.load(carry + m).to(tl.float32)
    for first in range(0, C, BLOCK_C):
        i = first + tl.arange(0, BLOCK_C)
        kernel = gate[6] * tl.load(convolutions.shortcut + row * C + i, mask=i < C, other=0.0)
        tl.store(folded.shortcut + row * C + i, kernel + tl.where(i == o, own, 0.0), mask=i < C)

    bias = gate[0] * tl.load(convolutions.conv3_bias + row) + gate[1] * tl.load(convolutions.conv5_bias + row)
    bias += gate[6] * tl.load(convolutions.residual_bias + row) + gate[6] * tl.load(convolutions.shortcut_bias + row)
    scaled = (folded.sep3_pointwise2, folded.sep5_pointwise2, None, folded.dil5_pointwise)
    biases = (folded.sep3_bias1, folded.sep5_bias1)
    for j in tl.static_range(6):
        after = tl.load(pointwises[j].bias + row).to(tl.float32)
        for first in range(0, C, BLOCK_C):
            i = first + tl.arange(0, BLOCK_C)
            weight = tl.load(pointwises[j].weight + row * C + i, mask=i < C, other=0.0).to(tl.float32)
            after += tl.sum(weight * tl.load(pointwises[j].depthwise_bias + m * C + i, mask=i < C, other=0.0))
            if j < 4 and j != 2:
                tl.store(scaled[j] + row * C + i, gate[2 + j] * weight, mask=i < C)
        if j < 4:
            bias += gate[2 + j] * after
        else:
            tl.store(biases[j - 4] + row, after)
    tl.store(folded.bias + row, bias)


@triton.jit
def _fold_weights_rows_kernel(
    dfolded,
    convolutions,
    pointwises,
    depthwise,
    gates,
    dgates,
    dcarry,
    dweights,
    NEED_GATES: tl.constexpr,
    NEED_WEIGHTS: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The gradients of gates and carry, and the first eleven of `fold_weights_bwd`'s of weights."""
    o, m = tl.program_id(0), tl.cast(tl.program_id(1), tl.int64)
    row = m * C + o
    dbias = tl.load(dfolded.bias + row).to(tl.float32)
    gate = _gates_of(gates, m, o, C)
    dgate0, dgate1, dgate6 = 0.0, 0.0, 0.0
    for first in range(0, 25 * C, BLOCK):
        e = first + tl.arange(0, BLOCK)
        inside = e < 25 * C
        tap, middle = _middle(e)
        d = tl.load(dfolded.dense + row * 25 * C + e, mask=inside, other=0.0).to(tl.float32)
        if NEED_GATES:
            dgate0 += tl.sum(d * tl.load(convolutions.conv3 + row * 9 * C + tap, mask=inside & middle, other=0.0))
            dgate1 += tl.sum(d * tl.load(convolutions.conv5 + row * 25 * C + e, mask=inside, other=0.0))
        if NEED_WEIGHTS:
            tl.store(dweights[0] + row * 9 * C + tap, gate[0] * d, mask=inside & middle)
            tl.store(dweights[1] + row * 25 * C + e, gate[1] * d, mask=inside)

    for first in range(0, 9 * C, BLOCK):
        e = first + tl.arange(0, BLOCK)
        d = tl.load(dfolded.residual_out + row * 9 * C + e, mask=e < 9 * C, other=0.0).to(tl.float32)
        if NEED_GATES:
            dgate6 += tl.sum(d * tl.load(convolutions.residual + row * 9 * C + e, mask=e < 9 * C, other=0.0))
        if NEED_WEIGHTS:
            tl.store(dweights[2] + row * 9 * C + e, gate[6] * d, mask=e < 9 * C)

    own = 0.0
    channels_of_carry = tl.where(o == 0, C, 0)  # one program sums them all
    dbiases = (dfolded.sep3_bias1, dfolded.sep5_bias1)
    for first in range(0, C, BLOCK_C):
        i = first + tl.arange(0, BLOCK_C)
        d = tl.load(dfolded.shortcut + row * C + i, mask=i < C, other=0.0).to(tl.float32)
        if NEED_GATES:
            dgate6 += tl.sum(d * tl.load(convolutions.shortcut + row * C + i, mask=i < C, other=0.0))
            diagonal = dfolded.shortcut + (m * C + i) * C + i
            own += tl.sum(tl.load(diagonal, mask=i < channels_of_carry, other=0.0).to(tl.float32))
        if NEED_WEIGHTS:
            tl.store(dweights[3] + row * C + i, gate[6] * d, mask=i < C)
            for j in tl.static_range(2):
                d = tl.load(dbiases[j] + row).to(tl.float32)
                d *= tl.load(pointwises[4 + j].depthwise_bias + m * C + i, mask=i < C, other=0.0)
                tl.store(dweights[9 + j] + row * C + i, d, mask=i < C)

    scaled = (dfolded.sep3_pointwise2, dfolded.sep5_pointwise2, dfolded.dense, dfolded.dil5_pointwise)
    for j in tl.static_range(4):
        total = 0.0
        for first in range(0, C, BLOCK_C):
            i = first + tl.arange(0, BLOCK_C)
            if j == 2:
                t = tl.arange(0, 16)[None, :]
                has_tap = (i[:, None] < C) & (t < 9)
                at = (row * C + i[:, None]) * 25 + t // 3 * 10 + t % 3 * 2
                taps = tl.load(scaled[j] + at, mask=has_tap, other=0.0).to(tl.float32)
                taps *= tl.load(depthwise + (m * C + i[:, None]) * 9 + t, mask=has_tap, other=0.0)
                d = tl.sum(taps, axis=1)
            else:
                d = tl.load(scaled[j] + row * C + i, mask=i < C, other=0.0).to(tl.float32)
            d += dbias * tl.load(pointwises[j].depthwise_bias + m * C + i, mask=i < C, other=0.0)
            if NEED_GATES:
                total += tl.sum(d * tl.load(pointwises[j].weight + row * C + i, mask=i < C, other=0.0))
            if NEED_WEIGHTS:
                tl.store(dweights[5 + j] + row * C + i, gate[2 + j] * d, mask=i < C)
        if NEED_GATES:
            total += dbias * tl.load(pointwises[j].bias + row)
            tl.store(dgates + (m * 7 + 2 + j) * C + o, total)

    if NEED_WEIGHTS:
        for k in tl.static_range(7):
            tl.store(dweights[4] + (m * 7 + k) * C + o, gate[k] * dbias)
    if NEED_GATES:
        dgate0 += dbias * tl.load(convolutions.conv3_bias + row)
        dgate1 += dbias * tl.load(convolutions.conv5_bias + row)
        dgate6 += dbias * tl.load(convolutions.residual_bias + row) + dbias * tl.load(convolutions.shortcut_bias + row)
        tl.store(dgates + m * 7 * C + o, dgate0)
        tl.store(dgates + (m * 7 + 1) * C + o, dgate1)
        tl.store(dgates + (m * 7 + 6) * C + o, dgate6)
        tl.store(dcarry + m, own, mask=o == 0)


@triton.jit
def _fold_weights_columns_kernel(dfolded, pointwises, gates, dweights, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """The other seven, of depthwise convolutions, sums over output channels; a program has one input channel."""
    i, m = tl.program_id(0), tl.cast(tl.program_id(1), tl.int64)
    bias = dfolded.bias
    dbiases = (bias, bias, bias, bias, dfolded.sep3_bias1, dfolded.sep5_bias1)
    t = tl.arange(0, 16)[None, :]
    taps = tl.full([BLOCK_C, 16], 0.0, tl.float32)
    for j in tl.static_range(6):
        total = tl.full([BLOCK_C], 0.0, tl.float32)
        for first in range(0, C, BLOCK_C):
            o = first + tl.arange(0, BLOCK_C)
            weight = tl.load(pointwises[j].weight + (m * C + o) * C + i, mask=o < C, other=0.0).to(tl.float32)
            if j < 4:
                weight *= tl.load(gates + (m * 7 + 2 + j) * C + o, mask=o < C, other=0.0)
            total += weight * tl.load(dbiases[j] + m * C + o, mask=o < C, other=0.0)
            if j == 2:
                at = ((m * C + o[:, None]) * C + i) * 25 + t // 3 * 10 + t % 3 * 2
                taps += weight[:, None] * tl.load(dfolded.dense + at, mask=(o[:, None] < C) & (t < 9), other=0.0)
        tl.store(dweights[1 + j] + m * C + i, tl.sum(total))
    t = tl.arange(0, 16)
    tl.store(dweights[0] + (m * C + i) * 9 + t, tl.sum(taps, axis=0), mask=t < 9)


def fold_weights_fwd(
    convolutions: Sequence[Tensor],
    pointwises: Sequence[Tensor],
    depthwise: Tensor,
    gates: Tensor,
    carry: Tensor,
    folded: Sequence[Tensor],
) -> None:
    """Write the nine of `Folded`, from the eight of `Convolutions` and six times the three of `Pointwise`.

    Those are the last of candidates 2 to 5, then the first of 2 and 3; `depthwise` is candidate 4's. Everything is
    contiguous.
    """
    M, _, C = gates.shape
    weights = Convolutions(*convolutions), _pointwises(pointwises), depthwise
    with torch.cuda.device_of(gates):
        _fold_weights_fwd_kernel[(C, M)](*weights, gates, carry, Folded(*folded), C=C, **blocks_of(C))


def fold_weights_bwd(
    dfolded: Sequence[Tensor],
    convolutions: Sequence[Tensor],
    pointwises: Sequence[Tensor],
    depthwise: Tensor,
    gates: Tensor,
    dgates: Sequence[Tensor],
    dweights: Sequence[Tensor],
) -> None:
    """Write `dgates`, the gates' and carry's, and `dweights`; either may be empty.

    Those are of `Convolutions`' four kernels, of every candidate's last bias [M, 7, C], of six 1×1 kernels, of the
    depthwise kernel and of six depthwise biases. `convolutions` are read only for `dgates`, and may be empty too.
    """
    M, _, C = gates.shape
    gradients, points, blocks = Folded(*dfolded), _pointwises(pointwises), blocks_of(C)
    scaled = Convolutions(*convolutions) if dgates else ()
    tensors = (gradients, scaled, points, depthwise, gates, *(dgates or (None, None)), tuple(dweights[:11]))
    needs = {"NEED_GATES": bool(dgates), "NEED_WEIGHTS": bool(dweights)}
    with torch.cuda.device_of(gates):
        _fold_weights_rows_kernel[(C, M)](*tensors, C=C, **needs, **blocks)
        if dweights:
            tensors = (gradients, points, gates, tuple(dweights[11:]))
            _fold_weights_columns_kernel[(C, M)](*tensors, C=C, BLOCK_C=blocks["BLOCK_C"])


def _pointwises(tensors: Sequence[Tensor]) -> tuple[Pointwise, ...]:
    return tuple(Pointwise(*tensors[first : first + 3]) for first in range(0, len(tensors), 3))


def blocks_of(C: int) -> dict[str, int]:
    """Elements at a time of rows of 25·C or 9·C; and of C, where each may stand for the 16 of a padded 3×3 kernel."""
    sizes = {"BLOCK": (25 * C, _LARGEST_BLOCK), "BLOCK_C": (C, _LARGEST_BLOCK // 16)}
    return {name: min(triton.next_power_of_2(size), largest) for name, (size, largest) in sizes.items()}
