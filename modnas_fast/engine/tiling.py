"""Seam-free tiling: a network on an image of any size in the memory of one tile.

Every stage maps an image to an image, so stages run one after the other over the whole image and a tile needs the halo
of one stage only. The halo is the receptive field, rounded up to a multiple of 8, and tile origins lie on multiples of
8, so that a tile meets the same strides and phases, and at the image's border the same zero padding, as the whole
image would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from modnas_fast.genotype import SIZE_MULTIPLE
from modnas_fast.networks.derived import DerivedNet, Stage, check_batch, pad_to_multiple
from modnas_fast.networks.receptive_field import receptive_field_radius

OnTile = Callable[[float], None]  # called with the share of the work done, 0–1


def ignore_progress(share: float) -> None:
    """The `OnTile` of a caller who asks for no progress."""


def portion(on_tile: OnTile, index: int, count: int) -> OnTile:
    """The `OnTile` of part `index` of `count` equal parts."""
    return lambda share: on_tile((index + share) / count)


def run_tiled(net: DerivedNet, y: Tensor, tile: int, on_tile: OnTile = ignore_progress) -> Tensor:
    """`net(y)` computed tile by tile; equal to it up to floating-point rounding.

    Args:
        net: the network, on its device.
        y: float [N, C, H, W] on any device; tiles travel to the network's device and back.
        tile: side of a tile in pixels, without its halo; rounded up to a multiple of 8.
        on_tile: called after every tile with the share of the work done.

    Returns:
        [N, C, H, W] in y's dtype and on y's device.

    Raises:
        ModnasError: as `DerivedNet.forward`.
    """
    check_batch(y, net.channels_in)
    height, width = y.shape[-2:]
    y = pad_to_multiple(y)
    halo = _round_up(receptive_field_radius(net.genotype))
    windows = list(_windows(y.shape[-2], y.shape[-1], _round_up(tile), halo))
    x = y
    for index, stage in enumerate(net.stages):
        x = _run_stage(cast(Stage, stage), x, y, windows, portion(on_tile, index, len(net.stages)))
    return x[..., :height, :width]


def _run_stage(
    stage: Stage,
    x: Tensor,
    y: Tensor,
    windows: list[tuple[slice, slice, slice, slice]],
    on_tile: OnTile,
) -> Tensor:
    device = stage.delta.device
    result = torch.empty_like(y)
    for count, (rows, columns, outer_rows, outer_columns) in enumerate(windows):
        restored = stage(x[..., outer_rows, outer_columns].to(device), y[..., outer_rows, outer_columns].to(device))
        top, left = rows.start - outer_rows.start, columns.start - outer_columns.start
        result[..., rows, columns] = restored[
            ..., top : top + rows.stop - rows.start, left : left + columns.stop - columns.start
        ]
        on_tile((count + 1) / len(windows))
    return result


def _windows(height: int, width: int, tile: int, halo: int) -> Iterator[tuple[slice, slice, slice, slice]]:
    """(rows, columns) of every tile, and the same with the halo, cut off at the image's borders."""
    for top, bottom in _cuts(height, tile):
        for left, right in _cuts(width, tile):
            yield (
                slice(top, bottom),
                slice(left, right),
                slice(max(0, top - halo), min(height, bottom + halo)),
                slice(max(0, left - halo), min(width, right + halo)),
            )


def _cuts(length: int, tile: int) -> Iterator[tuple[int, int]]:
    """Intervals of at most `tile`, all of nearly one size, so that no narrow strip pays a full halo."""
    count = -(-length // tile)
    size = _round_up(-(-length // count))
    for start in range(0, length, size):
        yield start, min(start + size, length)


def _round_up(size: int) -> int:
    return -(-size // SIZE_MULTIPLE) * SIZE_MULTIPLE
