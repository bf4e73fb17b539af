"""A folded up-sampling layer, its large convolution by `convolution`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from modnas_fast.ops.convolution import convolution
from modnas_fast.ops.pixel_shuffle import pixel_shuffle
from modnas_fast.reference.fold import FoldedUp


def folded_up(x: Tensor, layer: FoldedUp) -> Tensor:
    """What a folded up-sampling layer makes of its input, [N, C, H, W] to [N, C, 2·H, 2·W]; see `folded_up_ref`.

    `layer` may have a wider dtype than x, in which the large convolution is then computed; the result has x's.
    """
    phases = convolution(F.relu(x), layer.shuffled, layer.bias).unflatten(1, (-1, 4))  # [N, C, 4, H, W]
    phases = phases + F.conv2d(x, layer.repeated.to(x.dtype)).unsqueeze(2)
    smooth = F.conv2d(x, layer.bilinear.to(x.dtype))
    smooth = F.interpolate(smooth, scale_factor=2, mode="bilinear", align_corners=False)
    return smooth + pixel_shuffle(phases.flatten(1, 2), 2)
