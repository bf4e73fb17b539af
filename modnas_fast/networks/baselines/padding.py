"""Padding of an image to the size that a U-Net or a windowed network divides evenly."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F


def pad_to(y: Tensor, multiple: int, mode: Literal["replicate", "constant"] = "replicate") -> Tensor:
    """Lengthen [N, C, H, W] right and bottom until H and W are multiples of `multiple`; "constant" pads zeros."""
    height, width = y.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(y, (0, right, 0, bottom), mode=mode) if bottom or right else y
