"""One gate a channel, y = β ⊙ x, each tensor read or written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from modnas_fast.kernels.tiles import WARPS, channels_of_chunk, cover, locate, sum_rows


@triton.jit(do_not_specialize=["tiles", "tiles_per_image"])
def _channel_gate_fwd_kernel(
    x,
    beta,
    y,
    tiles,
    positions,
    tiles_per_image,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    c = channels_of_chunk(BLOCK_C)
    gate = tl.load(beta + c, mask=c < C, other=0.0).to(tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets, inside = locate(tile, c, positions, tiles_per_image, C, CHANNELS_LAST, BLOCK_P)
        gated = gate * tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + offsets, gated.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tiles", "tiles_per_image"])
def _channel_gate_bwd_kernel(
    dy,
    x,
    beta,
    dx,
    sums,
    tiles,
    positions,
    tiles_per_image,
    NEED_X: tl.constexpr,
    NEED_BETA: tl.constexpr,
    C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """dx = β ⊙ dy; of each program, sums[c] = Σ dy·x over its positions."""
    c = channels_of_chunk(BLOCK_C)
    gate = tl.load(beta + c, mask=c < C, other=0.0).to(tl.float32)
    totals = tl.full([BLOCK_C, BLOCK_P], 0.0, tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets, inside = locate(tile, c, positions, tiles_per_image, C, CHANNELS_LAST, BLOCK_P)
        d = tl.load(dy + offsets, mask=inside, other=0.0).to(tl.float32)
        if NEED_BETA:
            totals += d * tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
        if NEED_X:
            tl.store(dx + offsets, (gate * d).to(dx.dtype.element_ty), mask=inside)
    if NEED_BETA:
        tl.store(sums + tl.program_id(0) * C + c, tl.sum(totals, axis=1, keep_dims=True), mask=c < C)


@triton.jit(do_not_specialize=["splits"])
def _channel_gate_beta_kernel(sums, dbeta, splits, C: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = sum_rows(sums, splits, C, c, c < C, BLOCK_ROWS, BLOCK_C)
    tl.store(dbeta + c, total.to(dbeta.dtype.element_ty), mask=c < C)


def channel_gate_fwd(x: Tensor, beta: Tensor) -> Tensor:
    """y, laid out as x, which is dense; β [C] is contiguous."""
    y, tiles = torch.empty_like(x), cover(x, loads=1, stores=1)
    if tiles.count:
        with torch.cuda.device_of(x):
            _channel_gate_fwd_kernel[tiles.grid](x, beta, y, tiles.count, num_warps=WARPS, **tiles.arguments)
    return y


def channel_gate_bwd(dy: Tensor, x: Tensor, beta: Tensor, need_x: bool, need_beta: bool) -> list[Tensor]:
    """The gradients wanted: x's, then β's; x is read only for the latter."""
    tiles = cover(dy, loads=1 + need_beta, stores=need_x)
    dx = torch.empty_like(dy) if need_x else None
    dbeta = torch.empty_like(beta) if need_beta else None
    sums = dy.new_empty((tiles.splits, tiles.channels), dtype=torch.float32) if need_beta else None
    with torch.cuda.device_of(dy):
        if tiles.count:
            _channel_gate_bwd_kernel[tiles.grid](
                dy,
                x,
                beta,
                dx,
                sums,
                tiles.count,
                NEED_X=need_x,
                NEED_BETA=need_beta,
                num_warps=WARPS,
                **tiles.arguments,
            )
        if need_beta:
            grid = (triton.cdiv(tiles.channels, 64),)
            _channel_gate_beta_kernel[grid](sums, dbeta, tiles.splits, C=tiles.channels, BLOCK_ROWS=64, BLOCK_C=64)
    return [gradient for gradient in (dx, dbeta) if gradient is not None]
