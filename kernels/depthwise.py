"""Depthwise convolution of channels_last images to the same size, and its weight gradient, summed in float32.

A thread's channels are neighbours, so that all k² taps of a tile are 16-byte loads, of which all but a few rows' come
from the first cache: a kernel reads its images about once. cuDNN has no fast way for few channels of this layout.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from modnas_fast.kernels.tiles import ELEMENTS, WARPS, channels_of_chunk, share

_WIDEST = 64  # channels of a tile


@triton.jit
def _place(tile, height, width, positions, BLOCK_P: tl.constexpr):
    """Positions of a tile in all images, [1, BLOCK_P], and their rows and columns."""
    p = tl.cast(tile, tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    column = (p % width).to(tl.int32)
    row = (p // width % height).to(tl.int32)
    return p, row, column


@triton.jit
def _tap(x, p, c, row, column, i, j, height, width, positions, C: tl.constexpr):
    """x at (row + i, column + j) in float32, 0 beyond the borders: [BLOCK_C, BLOCK_P]."""
    inside = (p < positions) & (row + i >= 0) & (row + i < height) & (column + j >= 0) & (column + j < width)
    return tl.load(x + (p + i * width + j) * C + c, mask=inside & (c < C), other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["tiles"])
def _depthwise_fwd_kernel(
    x,
    weight,
    y,
    tiles,
    height,
    width,
    positions,
    C: tl.constexpr,
    K: tl.constexpr,
    DILATION: tl.constexpr,
    FLIP: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """y = Σ taps · weight [C, K·K]; FLIP turns the kernel around."""
    c = channels_of_chunk(BLOCK_C)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        p, row, column = _place(tile, height, width, positions, BLOCK_P)
        total = tl.full([BLOCK_C, BLOCK_P], 0.0, tl.float32)
        for t in tl.static_range(K * K):
            i, j = (t // K - K // 2) * DILATION, (t % K - K // 2) * DILATION
            tap = _tap(x, p, c, row, column, i, j, height, width, positions, C)
            place = weight + c * (K * K) + (K * K - 1 - t if FLIP else t)
            total += tap * tl.load(place, mask=c < C, other=0.0).to(tl.float32)
        tl.store(y + p * C + c, total.to(y.dtype.element_ty), mask=(p < positions) & (c < C))


@triton.jit(do_not_specialize=["tiles"])
def _depthwise_dweight_kernel(
    x,
    dy,
    partials,
    tiles,
    height,
    width,
    positions,
    C: tl.constexpr,
    K: tl.constexpr,
    DILATION: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Of each program, Σ dy · taps of one row of the kernel over its tiles: partials [programs, C, K·K]."""
    c, line = channels_of_chunk(BLOCK_C), tl.program_id(2)
    i = (line - K // 2) * DILATION
    sums = ()
    for _ in tl.static_range(K):
        sums = sums + (tl.full([BLOCK_C, BLOCK_P], 0.0, tl.float32),)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        p, row, column = _place(tile, height, width, positions, BLOCK_P)
        d = tl.load(dy + p * C + c, mask=(p < positions) & (c < C), other=0.0).to(tl.float32)
        added = ()
        for t in tl.static_range(K):
            j = (t - K // 2) * DILATION
            added = added + (sums[t] + d * _tap(x, p, c, row, column, i, j, height, width, positions, C),)
        sums = added
    place = partials + (tl.program_id(0) * C + c) * (K * K) + line * K
    for t in tl.static_range(K):
        tl.store(place + t, tl.sum(sums[t], axis=1)[:, None], mask=c < C)


def depthwise_fwd(x: Tensor, weight: Tensor, dilation: int, flip: bool = False) -> Tensor:
    """[N, C, H, W] in x's dtype from x, channels_last in memory, and weight, [C, 1, k, k] of any dtype; `flip`: by the
    kernel turned around, which makes of the output's gradient the input's.
    """
    y = torch.empty_like(x)
    sizes, tiles, blocks, chunks = _cover(x)
    if tiles:
        programs = share(tiles, x.device, loads=1, stores=1, chunks=chunks)
        with torch.cuda.device_of(x):
            _depthwise_fwd_kernel[(programs, chunks)](
                x,
                weight.contiguous(),
                y,
                tiles,
                *sizes,
                K=weight.shape[-1],
                DILATION=dilation,
                FLIP=flip,
                **blocks,
                num_warps=WARPS,
            )
    return y


def depthwise_dweight(x: Tensor, dy: Tensor, kernel: int, dilation: int) -> Tensor:
    """[C, 1, kernel, kernel], float32, of x and the output's gradient, both channels_last in memory."""
    C = x.shape[1]
    sizes, tiles, blocks, chunks = _cover(x)
    if not tiles:
        return x.new_zeros((C, 1, kernel, kernel), dtype=torch.float32)
    programs = share(tiles, x.device, loads=2, stores=0, chunks=chunks * kernel)
    partials = x.new_empty((programs, C, kernel * kernel), dtype=torch.float32)
    with torch.cuda.device_of(x):
        _depthwise_dweight_kernel[(programs, chunks, kernel)](
            x, dy, partials, tiles, *sizes, K=kernel, DILATION=dilation, **blocks, num_warps=WARPS
        )
    return partials.sum(0).view(C, 1, kernel, kernel)


def _cover(x: Tensor) -> tuple[tuple[int, int, int], int, dict[str, int], int]:
    """Height, width and positions; tiles along these; the kernels' constants; chunks of channels."""
    N, C, H, W = x.shape
    block_c = min(triton.next_power_of_2(C), _WIDEST)
    block_p = ELEMENTS // block_c
    blocks = {"C": C, "BLOCK_C": block_c, "BLOCK_P": block_p}
    return (H, W, N * H * W), triton.cdiv(N * H * W, block_p), blocks, triton.cdiv(C, block_c)
