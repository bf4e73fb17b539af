"""A normal layer's mixture and depth relaxation in one pass, L^ℓ = Σ_{i<ℓ} pᵢ·L^i + p_ℓ·Σₖ ωₖ·βₖ ⊙ oₖ.

As `mixed_op` with ℓ more tensors; the mixture itself never reaches memory, in either direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from modnas_fast.kernels.dense_aggregate import dense_aggregate_shares
from modnas_fast.kernels.mixed_op import mixed_op_gates
from modnas_fast.kernels.tiles import WARPS, channels_of_chunk, cover, locate, softmax, sum_rows


@triton.jit(do_not_specialize=["tiles", "tiles_per_image"])
def _mixed_aggregate_fwd_kernel(
    history,
    candidates,
    alpha,
    beta,
    gamma,
    y,
    tiles,
    positions,
    tiles_per_image,
    DEPTH: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    c = channels_of_chunk(BLOCK_C)
    shares = dense_aggregate_shares(gamma, DEPTH, BLOCK_DEPTH)
    gates = mixed_op_gates(alpha, beta, c, K, BLOCK_K, C)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets, inside = locate(tile, c, positions, tiles_per_image, C, CHANNELS_LAST, BLOCK_P)
        mixture = tl.full([BLOCK_C, BLOCK_P], 0.0, tl.float32)
        for k in tl.static_range(K):
            mixture += gates[k] * tl.load(candidates[k] + offsets, mask=inside, other=0.0).to(tl.float32)
        aggregate = shares[DEPTH] * mixture
        for j in tl.static_range(DEPTH):
            aggregate += shares[j] * tl.load(history[j] + offsets, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + offsets, aggregate.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tiles", "tiles_per_image"])
def _mixed_aggregate_bwd_kernel(
    dy,
    history,
    candidates,
    alpha,
    beta,
    gamma,
    dhistory,
    dcandidates,
    sums,
    dots,
    tiles,
    positions,
    tiles_per_image,
    DEPTH: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NEED_FEATURES: tl.constexpr,
    NEED_PARAMETERS: tl.constexpr,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """dL^i = pᵢ·dy, doₖ = p_ℓ·ωₖ·βₖ ⊙ dy; of each program, over its positions and channels, sums[k, c] = Σ dy·oₖ and
    dots = (Σ_c βₖ·sums[k] for every k, Σ dy·L^i for every i).
    """
    c = channels_of_chunk(BLOCK_C)
    shares = dense_aggregate_shares(gamma, DEPTH, BLOCK_DEPTH)
    gates = mixed_op_gates(alpha, beta, c, K, BLOCK_K, C)
    totals = ()  # of dy·oₖ, then of dy·L^i
    for _ in tl.static_range(K + DEPTH):
        totals = totals + (tl.full([BLOCK_C, BLOCK_P], 0.0, tl.float32),)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets, inside = locate(tile, c, positions, tiles_per_image, C, CHANNELS_LAST, BLOCK_P)
        d = tl.load(dy + offsets, mask=inside, other=0.0).to(tl.float32)
        # Stores first, for they need d alone. With the loads before them Triton 3.7 and later spill registers on sm_75.
        if NEED_FEATURES:
            for k in tl.static_range(K):
                tl.store(dcandidates[k] + offsets, (shares[DEPTH] * gates[k] * d).to(dy.dtype.element_ty), mask=inside)
            for j in tl.static_range(DEPTH):
                tl.store(dhistory[j] + offsets, (shares[j] * d).to(dy.dtype.element_ty), mask=inside)
        if NEED_PARAMETERS:
            updated = ()
            for k in tl.static_range(K):
                candidate = tl.load(candidates[k] + offsets, mask=inside, other=0.0).to(tl.float32)
                updated = updated + (totals[k] + d * candidate,)
            for j in tl.static_range(DEPTH):
                feature = tl.load(history[j] + offsets, mask=inside, other=0.0).to(tl.float32)
                updated = updated + (totals[K + j] + d * feature,)
            totals = updated
    if NEED_PARAMETERS:
        split = tl.program_id(0)
        program_dots = dots + (split * tl.num_programs(1) + tl.program_id(1)) * (K + DEPTH)
        for k in tl.static_range(K):
            total = tl.sum(totals[k], axis=1, keep_dims=True)  # [BLOCK_C, 1]
            gate = tl.load(beta + k * C + c, mask=c < C, other=0.0).to(tl.float32)
            tl.store(sums + (split * K + k) * C + c, total, mask=c < C)
            tl.store(program_dots + k, tl.sum(total * gate))
        for j in tl.static_range(DEPTH):
            tl.store(program_dots + K + j, tl.sum(totals[K + j]))


@triton.jit(do_not_specialize=["splits", "programs"])
def _mixed_aggregate_parameters_kernel(
    alpha,
    gamma,
    sums,
    dots,
    dalpha,
    dbeta,
    dgamma,
    splits,
    programs,
    DEPTH: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    C: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program k adds up all programs' sums for αₖ and βₖ, program 0 for γ as well.

    dβₖ = p_ℓ·ωₖ·sums, dα = ω·(dω − ω·dω) with dω = p_ℓ·dots[:K], dγ = p·(dp − p·dp) with dp = (dots[K:], ω·dots[:K]).
    """
    program = tl.program_id(0)
    k = tl.arange(0, BLOCK_K)
    weights = softmax(alpha, K, BLOCK_K)
    dmixture = sum_rows(dots, programs, K + DEPTH, k, k < K, BLOCK_ROWS, BLOCK_K)
    mean = tl.sum(weights * dmixture)

    i = tl.arange(0, BLOCK_DEPTH)
    shares = softmax(gamma, DEPTH + 1, BLOCK_DEPTH)
    dshares = sum_rows(dots + K, programs, K + DEPTH, i, i < DEPTH, BLOCK_ROWS, BLOCK_DEPTH)
    dshares = tl.where(i == DEPTH, mean, dshares)
    dgammas = shares * (dshares - tl.sum(shares * dshares))
    if program == 0:
        tl.store(dgamma + i, dgammas.to(dgamma.dtype.element_ty), mask=i <= DEPTH)

    own = tl.sum(tl.where(i == DEPTH, shares, 0.0))
    dalphas = own * weights * (dmixture - mean)
    tl.store(dalpha + k, dalphas.to(dalpha.dtype.element_ty), mask=k == program)
    weight = own * tl.sum(tl.where(k == program, weights, 0.0))
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        dgate = sum_rows(sums + program * C, splits, K * C, c, c < C, BLOCK_ROWS, BLOCK_C)
        tl.store(dbeta + program * C + c, (weight * dgate).to(dbeta.dtype.element_ty), mask=c < C)


def mixed_aggregate_fwd(
    history: Sequence[Tensor], candidates: Sequence[Tensor], alpha: Tensor, beta: Tensor, gamma: Tensor
) -> Tensor:
    """L^ℓ, laid out as history and candidates, which are dense and alike; α [K], β [K, C], γ [ℓ + 1] are contiguous."""
    y = torch.empty_like(candidates[0])
    tiles = cover(y, loads=len(history) + len(alpha), stores=1)
    if tiles.count:
        with torch.cuda.device_of(y):
            _mixed_aggregate_fwd_kernel[tiles.grid](
                tuple(history),
                tuple(candidates),
                alpha,
                beta,
                gamma,
                y,
                tiles.count,
                DEPTH=len(history),
                BLOCK_DEPTH=triton.next_power_of_2(len(gamma)),
                K=len(alpha),
                BLOCK_K=triton.next_power_of_2(len(alpha)),
                num_warps=WARPS,
                **tiles.arguments,
            )
    return y


def mixed_aggregate_bwd(
    dy: Tensor,
    history: Sequence[Tensor],
    candidates: Sequence[Tensor],
    alpha: Tensor,
    beta: Tensor,
    gamma: Tensor,
    need_features: bool,
    need_parameters: bool,
) -> list[Tensor]:
    """The gradients wanted: those in the history and the candidates, then those in α, β and γ.

    History and candidates are read only for the parameters'; without, they may be empty.
    """
    K, depth = len(alpha), len(gamma) - 1
    tiles = cover(dy, loads=1 + (depth + K) * need_parameters, stores=(depth + K) * need_features)
    dfeatures = [torch.empty_like(dy) for _ in range(depth + K if need_features else 0)]
    programs = tiles.splits * tiles.chunks
    sums = dy.new_empty((tiles.splits, K, tiles.channels), dtype=torch.float32) if need_parameters else None
    dots = dy.new_empty((programs, K + depth), dtype=torch.float32) if need_parameters else None
    dparameters = [torch.empty_like(raw) for raw in (alpha, beta, gamma)] if need_parameters else []
    with torch.cuda.device_of(dy):
        if tiles.count:
            _mixed_aggregate_bwd_kernel[tiles.grid](
                dy,
                tuple(history) if need_parameters else (),
                tuple(candidates) if need_parameters else (),
                alpha,
                beta,
                gamma,
                tuple(dfeatures[:depth]),
                tuple(dfeatures[depth:]),
                sums,
                dots,
                tiles.count,
                DEPTH=depth,
                BLOCK_DEPTH=triton.next_power_of_2(len(gamma)),
                K=K,
                BLOCK_K=triton.next_power_of_2(K),
                NEED_FEATURES=need_features,
                NEED_PARAMETERS=need_parameters,
                num_warps=WARPS,
                **tiles.arguments,
            )
        if need_parameters:
            _mixed_aggregate_parameters_kernel[(K,)](
                alpha,
                gamma,
                sums,
                dots,
                *dparameters,
                tiles.splits,
                programs,
                DEPTH=depth,
                BLOCK_DEPTH=triton.next_power_of_2(len(gamma)),
                K=K,
                BLOCK_K=triton.next_power_of_2(K),
                C=tiles.channels,
                BLOCK_ROWS=64,
                BLOCK_C=64,
            )
    return dfeatures + dparameters
