"""Luma of colour images, as the gray experiments use it."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# ITU-R BT.601 in 16-bit fixed point, the integers that Pillow's convert("L") and libjpeg use.
_RED, _GREEN, _BLUE, _HALF = 19595, 38470, 7471, 1 << 15


def luma(colour: Array) -> Array:
    """Y = 0.299 R + 0.587 G + 0.114 B (BT.601, full range) of [H, W, 3]; an [H, W, 1] image is returned as it is.

    Integers are rounded as Pillow's `convert("L")` rounds them, bit for bit at 8 bit.

    Returns:
        [H, W, 1] of the same dtype.
    """
    if colour.shape[2] == 1:
        return colour
    if np.issubdtype(colour.dtype, np.integer):
        red, green, blue = (colour[..., i].astype(np.uint64) for i in range(3))
        weighted = (red * _RED + green * _GREEN + blue * _BLUE + _HALF) >> 16
        return weighted[..., None].astype(colour.dtype)
    return (colour @ np.array([0.299, 0.587, 0.114], colour.dtype))[..., None]
