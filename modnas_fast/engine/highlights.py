"""Images that are brighter than white somewhere: networks know clean images in [0, 1], and darken what is beyond.

Additive noise is the same at every brightness, so an image can be denoised in bands of height 1, each moved to [0, 1]:
x = Σₖ clamp(f(clamp(y − k, −½, 1½)), 0, 1), open below the first band and above the last. The halves leave room for
noise; what a border takes from one band it gives to the next. Of one channel only: a band of an RGB image has colours
that no photo has, and comes out in others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from modnas_fast.engine.tiling import OnTile, portion

_BLOCK = 8  # side: means of so many pixels have an eighth of the noise
_BRIGHT = 1.2  # such a mean is no noise on white, up to σ = 55 by seven of its deviations
_ROOM = 0.5
_MOST = 4  # bands; what is brighter still is carried over as it is


def bands_of(image: Tensor) -> int:
    """How many bands [1, H, W] reaches into: 1 unless it is brighter than white, and where it holds NaN."""
    if not image.amax() > _BRIGHT:
        return 1
    sides = [min(_BLOCK, side) for side in image.shape[-2:]]
    brightest = float(F.avg_pool2d(image.float(), sides).amax())
    return min(int(brightest) + 1, _MOST) if _BRIGHT < brightest < torch.inf else 1


def denoise_in_bands(denoise: Callable[[Tensor, OnTile], Tensor], image: Tensor, bands: int, on_tile: OnTile) -> Tensor:
    """[1, 1, H, W] by `denoise`, band by band; `on_tile` is called with the share of the work done."""
    restored = (image - bands).clamp(min=0) if bands == _MOST else torch.zeros_like(image)
    for band in range(bands):
        open_above = band + 1 == bands < _MOST
        part = (image - band).clamp(-_ROOM if band else -torch.inf, torch.inf if open_above else 1 + _ROOM)
        result = denoise(part, portion(on_tile, band, bands))
        restored += result.clamp(0 if band else -torch.inf, torch.inf if open_above else 1)
    return restored
