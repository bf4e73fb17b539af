"""The folded down- and up-sampling layers, run one convolution at a time."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from modnas_fast.reference.fold import FoldedDown, FoldedUp


def folded_down_ref(x: Tensor, layer: FoldedDown) -> Tensor:
    """conv * ReLU(x) + resize * x + bias, both of stride 2: [N, C, H, W], H and W even, to [N, C, H/2, W/2]."""
    y = F.conv2d(x, layer.resize, layer.bias, stride=2)
    return y + F.conv2d(F.relu(x), layer.conv, stride=2, padding=1)


def folded_up_ref(x: Tensor, layer: FoldedUp) -> Tensor:
    """shuffle(shuffled * ReLU(x) + bias + repeated · x) + bilinear(bilinear · x): [N, C, H, W] to [N, C, 2·H, 2·W].

    Pixel shuffle deals each output channel's four phases; `repeated` gives all four the same.
    """
    phases = F.conv2d(F.relu(x), layer.shuffled, layer.bias, padding=1).unflatten(1, (-1, 4))  # [N, C, 4, H, W]
    phases = phases + F.conv2d(x, layer.repeated).unsqueeze(2)
    smooth = F.interpolate(F.conv2d(x, layer.bilinear), scale_factor=2, mode="bilinear", align_corners=False)
    return F.pixel_shuffle(phases.flatten(1, 2), 2) + smooth
