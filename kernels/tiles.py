"""How the kernels walk over [N, C, H, W]: the tile, its addresses, and what they share in arithmetic.

A tile is BLOCK_C channels by BLOCK_P positions. Contiguous memory is N images of C rows of H·W positions;
channels_last memory is one image of N·H·W positions of C channels side by side. Either way a thread's eight elements
are neighbours, one 16-byte access in half precision and two in float32, and gates are one value a row of the tile.

A program keeps its channels and strides over the tiles, so that it reads its gates once and leaves one partial sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret)  # as the kernels below are, for good

ELEMENTS = 2048  # of a tile: eight a thread
WARPS = 8
_WIDEST = 128  # channels of a tile where they are neighbours: 256 bytes of half precision
_LONGEST = 512  # positions of a tile where those are: 1 KiB, and little waste behind a row's end
_MULTIPROCESSORS = 132  # an H100's, where there is no device to ask
# An H100 hides its memory's latency behind 17 KB in flight a multiprocessor. A program has 4 KB of every half-precision
# tensor that it loads, and nobody waits for what it stores. Some three times as much leaves room for C below BLOCK_C
# and for programs that compute; still more would only repeat gates and partial sums.
_TENSORS_PER_MULTIPROCESSOR = 15
_PROGRAMS_PER_MULTIPROCESSOR = 5


@dataclass(frozen=True)
class Tiles:
    """A tensor's cover by tiles: `count` of them along the positions of all images, `chunks` along the channels."""

    channels: int
    positions: int  # of one image of the layout, see the module
    channels_last: bool
    block_c: int
    block_p: int
    count: int
    chunks: int
    splits: int  # programs that share a chunk's tiles

    @property
    def grid(self) -> tuple[int, int]:
        return self.splits, self.chunks

    @property
    def arguments(self) -> dict[str, int | bool]:
        """What `locate` needs, by its and the kernels' argument names."""
        return {
            "positions": self.positions,
            "tiles_per_image": triton.cdiv(self.positions, self.block_p),
            "C": self.channels,
            "CHANNELS_LAST": self.channels_last,
            "BLOCK_C": self.block_c,
            "BLOCK_P": self.block_p,
        }


def cover(x: Tensor, loads: int, stores: int) -> Tiles:
    """The tiles of a dense [N, C, H, W], contiguous or channels_last; of each, a kernel loads and stores so many."""
    N, C, H, W = x.shape
    channels_last = not x.is_contiguous() or (H * W == 1 and C > 1)  # of 1×1 images, both are the same memory
    images, positions = (1, N * H * W) if channels_last else (N, H * W)
    if channels_last:
        block_c = min(triton.next_power_of_2(C), _WIDEST)
    else:
        block_c = min(triton.next_power_of_2(C), ELEMENTS // min(triton.next_power_of_2(positions), _LONGEST))
    block_p = ELEMENTS // block_c
    count, chunks = images * triton.cdiv(positions, block_p), triton.cdiv(C, block_c)
    splits = share(count, x.device, loads, stores, chunks)
    return Tiles(C, positions, channels_last, block_c, block_p, count, chunks, splits)


def share(tiles: int, device: torch.device, loads: int, stores: int, chunks: int = 1) -> int:
    """How many programs share `tiles` tiles, when `chunks` such walks run side by side; evenly, if possible."""
    resident = int(_TENSORS_PER_MULTIPROCESSOR / (loads + stores / 2))
    resident = _multiprocessors(device) * min(max(1, resident), _PROGRAMS_PER_MULTIPROCESSOR)
    at_once = max(1, resident // max(1, chunks))
    return triton.cdiv(tiles, triton.cdiv(tiles, at_once)) if tiles else 0


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@triton.jit
def channels_of_chunk(BLOCK_C: tl.constexpr):
    """The channels of the program's chunk, [BLOCK_C, 1]; the last chunk may run past C."""
    return tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]


@triton.jit
def locate(tile, c, positions, tiles_per_image, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr):
    """Offsets [BLOCK_C, BLOCK_P] of a tile's elements, and which exist; c are its channels. 64 bits, for past 2³¹."""
    p = tl.cast(tile % tiles_per_image, tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    inside = (c < C) & (p < positions)
    if CHANNELS_LAST:
        return p * C + c, inside
    image = tl.cast(tile // tiles_per_image, tl.int64)
    return (image * C + c) * positions + p, inside


@triton.jit
def softmax(raw, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """softmax of raw [K], zero from K to BLOCK_K."""
    k = tl.arange(0, BLOCK_K)
    return tl.softmax(tl.load(raw + k, mask=k < K, other=-float("inf")).to(tl.float32))


@triton.jit
def sum_rows(partials, rows, stride, columns, inside, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Σ over rows of partials[row, columns], [BLOCK], always in the same order; rows are `stride` apart."""
    total = tl.full([BLOCK_ROWS, BLOCK], 0.0, tl.float32)
    for first in range(0, rows, BLOCK_ROWS):
        row = first + tl.arange(0, BLOCK_ROWS)[:, None]
        total += tl.load(partials + row * stride + columns[None, :], mask=(row < rows) & inside[None, :], other=0.0)
    return tl.sum(total, axis=0)
