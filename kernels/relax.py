"""The model-guided step, x = v + δ·(y − v) with δ = sigmoid(delta), each tensor read or written once, in its dtype."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from modnas_fast.kernels.tiles import ELEMENTS, WARPS, share, sum_rows


@triton.jit(do_not_specialize=["tiles"])
def _relax_fwd_kernel(v, y, delta, x, tiles, numel, BLOCK: tl.constexpr):
    weight = tl.sigmoid(tl.load(delta).to(tl.float32))
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets = tl.cast(tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = offsets < numel
        denoised = tl.load(v + offsets, mask=inside, other=0.0).to(tl.float32)
        noisy = tl.load(y + offsets, mask=inside, other=0.0).to(tl.float32)
        tl.store(x + offsets, (denoised + weight * (noisy - denoised)).to(x.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tiles"])
def _relax_bwd_kernel(
    dx,
    v,
    y,
    delta,
    dv,
    dy,
    dots,
    tiles,
    numel,
    NEED_V: tl.constexpr,
    NEED_Y: tl.constexpr,
    NEED_DELTA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dv = (1 − δ)·dx, dy = δ·dx; of each program, dots = Σ dx·(y − v) over its elements."""
    weight = tl.sigmoid(tl.load(delta).to(tl.float32))
    totals = tl.full([BLOCK], 0.0, tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets = tl.cast(tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = offsets < numel
        d = tl.load(dx + offsets, mask=inside, other=0.0).to(tl.float32)
        if NEED_DELTA:
            denoised = tl.load(v + offsets, mask=inside, other=0.0).to(tl.float32)
            totals += d * (tl.load(y + offsets, mask=inside, other=0.0).to(tl.float32) - denoised)
        if NEED_V:
            tl.store(dv + offsets, ((1 - weight) * d).to(dv.dtype.element_ty), mask=inside)
        if NEED_Y:
            tl.store(dy + offsets, (weight * d).to(dy.dtype.element_ty), mask=inside)
    if NEED_DELTA:
        tl.store(dots + tl.program_id(0), tl.sum(totals))


@triton.jit(do_not_specialize=["programs"])
def _relax_delta_kernel(delta, dots, ddelta, programs, BLOCK_ROWS: tl.constexpr):
    """ddelta = δ·(1 − δ)·dots, summed over the programs."""
    weight = tl.sigmoid(tl.load(delta).to(tl.float32))
    one = tl.arange(0, 1)
    total = sum_rows(dots, programs, 1, one, one == 0, BLOCK_ROWS, 1)
    tl.store(ddelta + one, (weight * (1 - weight) * total).to(ddelta.dtype.element_ty))


def relax_fwd(v: Tensor, y: Tensor, delta: Tensor, x: Tensor) -> None:
    """Write x, which may be v or y; the three are dense and laid out alike, of any dtypes."""
    tiles = triton.cdiv(x.numel(), ELEMENTS)
    if tiles:
        with torch.cuda.device_of(x):
            _relax_fwd_kernel[(share(tiles, x.device, loads=2, stores=1),)](
                v, y, delta, x, tiles, x.numel(), BLOCK=ELEMENTS, num_warps=WARPS
            )


def relax_bwd(
    dx: Tensor, v: Tensor, y: Tensor, delta: Tensor, need_v: bool, need_y: bool, need_delta: bool
) -> list[Tensor]:
    """The gradients wanted: v's, y's, delta's, each in its tensor's dtype; v and y are read only for the last."""
    tiles = triton.cdiv(dx.numel(), ELEMENTS)
    programs = share(tiles, dx.device, loads=1 + 2 * need_delta, stores=need_v + need_y)
    dots = dx.new_empty((programs,), dtype=torch.float32) if need_delta else None
    dv = torch.empty_like(dx, dtype=v.dtype) if need_v else None
    dy = torch.empty_like(dx, dtype=y.dtype) if need_y else None
    ddelta = torch.empty_like(delta) if need_delta else None
    with torch.cuda.device_of(dx):
        if tiles:
            _relax_bwd_kernel[(programs,)](
                dx,
                v,
                y,
                delta,
                dv,
                dy,
                dots,
                tiles,
                dx.numel(),
                NEED_V=need_v,
                NEED_Y=need_y,
                NEED_DELTA=need_delta,
                BLOCK=ELEMENTS,
                num_warps=WARPS,
            )
        if need_delta:
            _relax_delta_kernel[(1,)](delta, dots, ddelta, programs, BLOCK_ROWS=256)
    return [gradient for gradient in (dv, dy, ddelta) if gradient is not None]
