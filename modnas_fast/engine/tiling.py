"""Seam-free tiling: a network on an image of any size in the memory of one tile.

Every stage maps an image to an image, so stages run one after the other over the whole image and a tile needs the halo
of one stage only. The halo is the receptive field, rounded up to a multiple of 8, and tile origins lie on multiples of
8, so that a tile meets the same strides and phases, and at the image's border the same zero padding, as the whole
image would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from modnas_fast.engine.windows import round_up, windows
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
    halo = round_up(receptive_field_radius(net.genotype))
    tiles = list(windows(y.shape[-2], y.shape[-1], round_up(tile), halo))
    x = y
    for index, stage in enumerate(net.stages):
        x = _run_stage(cast(Stage, stage), x, y, tiles, portion(on_tile, index, len(net.stages)))
    return x[..., :height, :width]


def _run_stage(
    stage: Stage,
    x: Tensor,
    y: Tensor,
    tiles: list[tuple[slice, slice, slice, slice]],
    on_tile: OnTile,
) -> Tensor:
    device = stage.delta.device
    result = torch.empty_like(y)
    for count, (rows, columns, outer_rows, outer_columns) in enumerate(tiles):
        restored = stage(x[..., outer_rows, outer_columns].to(device), y[..., outer_rows, outer_columns].to(device))
        top, left = rows.start - outer_rows.start, columns.start - outer_columns.start
        result[..., rows, columns] = restored[
            ..., top : top + rows.stop - rows.start, left : left + columns.stop - columns.start
        ]
        on_tile((count + 1) / len(tiles))
    return result
