"""How an image is cut into tiles: origins on multiples of 8, halos cut off at the image's borders."""

from __future__ import annotations

from collections.abc import Iterator

from modnas_fast.genotype import SIZE_MULTIPLE


def windows(height: int, width: int, tile: int, halo: int) -> Iterator[tuple[slice, slice, slice, slice]]:
    """(rows, columns) of every tile, and the same with the halo, cut off at the image's borders.

    All four arguments are multiples of 8; `tile` is the greatest side of a tile without its halo.
    """
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
    size = round_up(-(-length // count))
    for start in range(0, length, size):
        yield start, min(start + size, length)


def round_up(size: int) -> int:
    """The next multiple of 8."""
    return -(-size // SIZE_MULTIPLE) * SIZE_MULTIPLE
