"""The mixture of a layer's candidates, z = Σₖ ωₖ·βₖ ⊙ oₖ with ω = softmax(α), each tensor read or written once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from modnas_fast.kernels.tiles import WARPS, channels_of_chunk, cover, locate, softmax, sum_rows


@triton.jit
def mixed_op_gates(alpha, beta, c, K: tl.constexpr, BLOCK_K: tl.constexpr, C: tl.constexpr):
    """ωₖ·βₖ of the channels c, K times [BLOCK_C, 1]."""
    weights = softmax(alpha, K, BLOCK_K)
    gates = ()
    for k in tl.static_range(K):
        weight = tl.sum(tl.where(tl.arange(0, BLOCK_K) == k, weights, 0.0))
        gates = gates + (weight * tl.load(beta + k * C + c, mask=c < C, other=0.0).to(tl.float32),)
    return gates


@triton.jit(do_not_specialize=["tiles", "tiles_per_image"])
def _mixed_op_fwd_kernel(
    candidates,
    alpha,
    beta,
    z,
    tiles,
    positions,
    tiles_per_image,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    c = channels_of_chunk(BLOCK_C)
    gates = mixed_op_gates(alpha, beta, c, K, BLOCK_K, C)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets, inside = locate(tile, c, positions, tiles_per_image, C, CHANNELS_LAST, BLOCK_P)
        mixture = tl.full([BLOCK_C, BLOCK_P], 0.0, tl.float32)
        for k in tl.static_range(K):
            mixture += gates[k] * tl.load(candidates[k] + offsets, mask=inside, other=0.0).to(tl.float32)
        tl.store(z + offsets, mixture.to(z.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tiles", "tiles_per_image"])
def _mixed_op_bwd_kernel(
    dz,
    candidates,
    alpha,
    beta,
    dcandidates,
    sums,
    dots,
    tiles,
    positions,
    tiles_per_image,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    NEED_CANDIDATES: tl.constexpr,
    NEED_PARAMETERS: tl.constexpr,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """doₖ = ωₖ·βₖ ⊙ dz; of each program, sums[k, c] = Σ dz·oₖ over its positions and dots[k] = Σ_c βₖ·sums[k]."""
    c = channels_of_chunk(BLOCK_C)
    gates = mixed_op_gates(alpha, beta, c, K, BLOCK_K, C)
    totals = ()
    for _ in tl.static_range(K):
        totals = totals + (tl.full([BLOCK_C, BLOCK_P], 0.0, tl.float32),)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets, inside = locate(tile, c, positions, tiles_per_image, C, CHANNELS_LAST, BLOCK_P)
        d = tl.load(dz + offsets, mask=inside, other=0.0).to(tl.float32)
        # All loads stand before the first store: the compiler cannot know that they never meet, and keeps the order.
        if NEED_PARAMETERS:
            updated = ()
            for k in tl.static_range(K):
                candidate = tl.load(candidates[k] + offsets, mask=inside, other=0.0).to(tl.float32)
                updated = updated + (totals[k] + d * candidate,)
            totals = updated
        if NEED_CANDIDATES:
            for k in tl.static_range(K):
                tl.store(dcandidates[k] + offsets, (gates[k] * d).to(dz.dtype.element_ty), mask=inside)
    if NEED_PARAMETERS:
        split = tl.program_id(0)
        program = split * tl.num_programs(1) + tl.program_id(1)
        for k in tl.static_range(K):
            total = tl.sum(totals[k], axis=1, keep_dims=True)  # [BLOCK_C, 1]
            gate = tl.load(beta + k * C + c, mask=c < C, other=0.0).to(tl.float32)
            tl.store(sums + (split * K + k) * C + c, total, mask=c < C)
            tl.store(dots + program * K + k, tl.sum(total * gate))


@triton.jit(do_not_specialize=["splits", "programs"])
def _mixed_op_parameters_kernel(
    alpha,
    sums,
    dots,
    dalpha,
    dbeta,
    splits,
    programs,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    C: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program k adds up all programs' sums of candidate k: dβₖ = ωₖ·sums, and with dω = dots dαₖ = ωₖ·(dωₖ − ω·dω)."""
    k = tl.program_id(0)
    j = tl.arange(0, BLOCK_K)
    weights = softmax(alpha, K, BLOCK_K)
    dweights = sum_rows(dots, programs, K, j, j < K, BLOCK_ROWS, BLOCK_K)
    dalphas = weights * (dweights - tl.sum(weights * dweights))
    tl.store(dalpha + j, dalphas.to(dalpha.dtype.element_ty), mask=j == k)
    weight = tl.sum(tl.where(j == k, weights, 0.0))
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        dgate = sum_rows(sums + k * C, splits, K * C, c, c < C, BLOCK_ROWS, BLOCK_C)
        tl.store(dbeta + k * C + c, (weight * dgate).to(dbeta.dtype.element_ty), mask=c < C)


def mixed_op_fwd(candidates: Sequence[Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
    """z, laid out as the candidates, which are dense and alike; α [K] and β [K, C] are contiguous."""
    z = torch.empty_like(candidates[0])
    tiles = cover(z, loads=len(alpha), stores=1)
    if tiles.count:
        with torch.cuda.device_of(z):
            _mixed_op_fwd_kernel[tiles.grid](
                tuple(candidates),
                alpha,
                beta,
                z,
                tiles.count,
                K=len(alpha),
                BLOCK_K=triton.next_power_of_2(len(alpha)),
                num_warps=WARPS,
                **tiles.arguments,
            )
    return z


def mixed_op_bwd(
    dz: Tensor,
    candidates: Sequence[Tensor],
    alpha: Tensor,
    beta: Tensor,
    need_candidates: bool,
    need_parameters: bool,
) -> list[Tensor]:
    """The gradients wanted: those in the K candidates, then those in α and β.

    The candidates are read only for α's and β's; without, `candidates` may be empty.
    """
    K = len(alpha)
    tiles = cover(dz, loads=1 + K * need_parameters, stores=K * need_candidates)
    dcandidates = [torch.empty_like(dz) for _ in range(K if need_candidates else 0)]
    programs = tiles.splits * tiles.chunks
    sums = dz.new_empty((tiles.splits, K, tiles.channels), dtype=torch.float32) if need_parameters else None
    dots = dz.new_empty((programs, K), dtype=torch.float32) if need_parameters else None
    dparameters = [torch.empty_like(alpha), torch.empty_like(beta)] if need_parameters else []
    with torch.cuda.device_of(dz):
        if tiles.count:
            _mixed_op_bwd_kernel[tiles.grid](
                dz,
                tuple(candidates) if need_parameters else (),
                alpha,
                beta,
                tuple(dcandidates),
                sums,
                dots,
                tiles.count,
                K=K,
                BLOCK_K=triton.next_power_of_2(K),
                NEED_CANDIDATES=need_candidates,
                NEED_PARAMETERS=need_parameters,
                num_warps=WARPS,
                **tiles.arguments,
            )
        if need_parameters:
            _mixed_op_parameters_kernel[(K,)](
                alpha,
                sums,
                dots,
                *dparameters,
                tiles.splits,
                programs,
                K=K,
                BLOCK_K=triton.next_power_of_2(K),
                C=tiles.channels,
                BLOCK_ROWS=64,
                BLOCK_C=64,
            )
    return dcandidates + dparameters
