"""The depth relaxation, L^ℓ = Σ_{i<ℓ} pᵢ·L^i + p_ℓ·z with p = softmax(γ), each tensor read or written once.

No channel differs from another, so memory is one row. `features` are L⁰ … L^{ℓ−1}, z.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from modnas_fast.kernels.tiles import ELEMENTS, WARPS, share, softmax, sum_rows


@triton.jit
def dense_aggregate_shares(gamma, DEPTH: tl.constexpr, BLOCK_DEPTH: tl.constexpr):
    """p₀ … p_ℓ as scalars."""
    weights = softmax(gamma, DEPTH + 1, BLOCK_DEPTH)
    shares = ()
    for i in tl.static_range(DEPTH + 1):
        shares = shares + (tl.sum(tl.where(tl.arange(0, BLOCK_DEPTH) == i, weights, 0.0)),)
    return shares


@triton.jit(do_not_specialize=["tiles"])
def _dense_aggregate_fwd_kernel(
    features, gamma, y, tiles, numel, DEPTH: tl.constexpr, BLOCK_DEPTH: tl.constexpr, BLOCK: tl.constexpr
):
    shares = dense_aggregate_shares(gamma, DEPTH, BLOCK_DEPTH)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets = tl.cast(tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = offsets < numel
        aggregate = tl.full([BLOCK], 0.0, tl.float32)
        for i in tl.static_range(DEPTH + 1):
            aggregate += shares[i] * tl.load(features[i] + offsets, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + offsets, aggregate.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tiles"])
def _dense_aggregate_bwd_kernel(
    dy,
    features,
    gamma,
    dfeatures,
    dots,
    tiles,
    numel,
    DEPTH: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    NEED_FEATURES: tl.constexpr,
    NEED_GAMMA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dfeatures = pᵢ·dy; of each program, dots[i] = Σ dy·features[i] over its elements."""
    shares = dense_aggregate_shares(gamma, DEPTH, BLOCK_DEPTH)
    totals = ()
    for _ in tl.static_range(DEPTH + 1):
        totals = totals + (tl.full([BLOCK], 0.0, tl.float32),)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets = tl.cast(tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = offsets < numel
        d = tl.load(dy + offsets, mask=inside, other=0.0).to(tl.float32)
        # All loads stand before the first store: the compiler cannot know that they never meet, and keeps the order.
        if NEED_GAMMA:
            updated = ()
            for i in tl.static_range(DEPTH + 1):
                feature = tl.load(features[i] + offsets, mask=inside, other=0.0).to(tl.float32)
                updated = updated + (totals[i] + d * feature,)
            totals = updated
        if NEED_FEATURES:
            for i in tl.static_range(DEPTH + 1):
                tl.store(dfeatures[i] + offsets, (shares[i] * d).to(dy.dtype.element_ty), mask=inside)
    if NEED_GAMMA:
        for i in tl.static_range(DEPTH + 1):
            tl.store(dots + tl.program_id(0) * (DEPTH + 1) + i, tl.sum(totals[i]))


@triton.jit(do_not_specialize=["programs"])
def _dense_aggregate_gamma_kernel(
    gamma, dots, dgamma, programs, DEPTH: tl.constexpr, BLOCK_DEPTH: tl.constexpr, BLOCK_ROWS: tl.constexpr
):
    """dγ = p·(dp − p·dp) with dp the programs' sum of dots."""
    i = tl.arange(0, BLOCK_DEPTH)
    shares = softmax(gamma, DEPTH + 1, BLOCK_DEPTH)
    dshares = sum_rows(dots, programs, DEPTH + 1, i, i <= DEPTH, BLOCK_ROWS, BLOCK_DEPTH)
    dgammas = shares * (dshares - tl.sum(shares * dshares))
    tl.store(dgamma + i, dgammas.to(dgamma.dtype.element_ty), mask=i <= DEPTH)


def dense_aggregate_fwd(features: Sequence[Tensor], gamma: Tensor) -> Tensor:
    """L^ℓ, laid out as the features, which are dense and alike; γ [ℓ + 1] is contiguous."""
    y = torch.empty_like(features[0])
    tiles = triton.cdiv(y.numel(), ELEMENTS)
    if tiles:
        with torch.cuda.device_of(y):
            _dense_aggregate_fwd_kernel[(share(tiles, y.device, loads=len(gamma), stores=1),)](
                tuple(features),
                gamma,
                y,
                tiles,
                y.numel(),
                DEPTH=len(gamma) - 1,
                BLOCK_DEPTH=triton.next_power_of_2(len(gamma)),
                BLOCK=ELEMENTS,
                num_warps=WARPS,
            )
    return y


def dense_aggregate_bwd(
    dy: Tensor, features: Sequence[Tensor], gamma: Tensor, need_features: bool, need_gamma: bool
) -> list[Tensor]:
    """The gradients wanted: those in the features, then γ's. Without the latter, `features` may be empty."""
    depth, tiles = len(gamma) - 1, triton.cdiv(dy.numel(), ELEMENTS)
    programs = share(tiles, dy.device, 1 + (depth + 1) * need_gamma, (depth + 1) * need_features)
    dfeatures = [torch.empty_like(dy) for _ in range(depth + 1 if need_features else 0)]
    dots = dy.new_empty((programs, depth + 1), dtype=torch.float32) if need_gamma else None
    dgamma = [torch.empty_like(gamma)] if need_gamma else []
    constants = {"DEPTH": depth, "BLOCK_DEPTH": triton.next_power_of_2(depth + 1)}
    with torch.cuda.device_of(dy):
        if tiles:
            _dense_aggregate_bwd_kernel[(programs,)](
                dy,
                tuple(features) if need_gamma else (),
                gamma,
                tuple(dfeatures),
                dots,
                tiles,
                dy.numel(),
                NEED_FEATURES=need_features,
                NEED_GAMMA=need_gamma,
                BLOCK=ELEMENTS,
                num_warps=WARPS,
                **constants,
            )
        if need_gamma:
            _dense_aggregate_gamma_kernel[(1,)](gamma, dots, *dgamma, programs, BLOCK_ROWS=64, **constants)
    return dfeatures + dgamma
