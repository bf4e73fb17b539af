"""How an image is cut into tiles: origins on multiples of 8, halos cut off at the image's borders."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from modnas_fast.genotype import SIZE_MULTIPLE, Genotype


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


def halo_of(genotype: Genotype) -> int:
    """Pixels around a tile that a stage of this network sees, as a multiple of 8."""
    from modnas_fast.networks.receptive_field import receptive_field_radius  # loads torch: only who tiles needs it

    return round_up(receptive_field_radius(genotype))


def _cuts(length: int, tile: int) -> Iterator[tuple[int, int]]:
    """Intervals of at most `tile`, all of nearly one size, so that no narrow strip pays a full halo."""
    count = -(-length // tile)
    size = round_up(-(-length // count))
    for start in range(0, length, size):
        yield start, min(start + size, length)


def largest_tile(height: int, width: int, halo: int, fits: Callable[[int, int], bool]) -> int | None:
    """The largest tile, a multiple of 8, that fits with its halo; 0 if the whole image fits, None if nothing does.

    `fits` answers for a height and a width. Where what fits in more does not always fit in less, a smaller tile that
    fits may be found.
    """
    if fits(height, width):
        return 0

    def tile_fits(tile: int) -> bool:
        side = tile + 2 * halo
        return fits(min(height, side), min(width, side))

    if not tile_fits(SIZE_MULTIPLE):
        return None
    low, high = 1, round_up(max(height, width)) // SIZE_MULTIPLE  # low fits; high, the whole image, does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tile_fits(middle * SIZE_MULTIPLE) else (low, middle)
    return low * SIZE_MULTIPLE


def round_up(size: int) -> int:
    """The next multiple of 8."""
    return -(-size // SIZE_MULTIPLE) * SIZE_MULTIPLE
