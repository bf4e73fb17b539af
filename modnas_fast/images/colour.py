"""Luma of colour images, as the gray experiments use it: one definition for noise, another for JPEG."""

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


def studio_luma(colour: Array) -> Array:
    """Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 (BT.601, 16…235) of uint8 [H, W, 3]; [H, W, 1] as it is.

    The Y of MATLAB's `rgb2ycbcr`, which the literature on JPEG artifacts compresses and scores: LIVE1 at quality 20 has
    30.07 dB in it, and 29.30 dB in the full range.

    Returns:
        uint8 [H, W, 1].
    """
    if colour.shape[2] == 1:
        return colour
    return np.rint(16 + colour @ (np.array([65.481, 128.553, 24.966]) / 255)).astype(np.uint8)[..., None]
