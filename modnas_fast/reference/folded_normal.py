"""A folded normal layer, run one convolution at a time."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from modnas_fast.reference.fold import FoldedNormal


def folded_normal_ref(x: Tensor, layer: FoldedNormal) -> Tensor:
    """What a folded normal layer makes of its input, with r = ReLU(x):

        dense * r + shortcut · x + bias + residual_out * ReLU(residual_in * r + residual_in_bias)
        + dil5_pointwise · (dil5_depthwise * r) + Σₖ pointwise2ₖ · (depthwise2ₖ * ReLU(pointwise1ₖ · (depthwise1ₖ * r)
        + bias1ₖ))

    with k = 3 and 5, the separable candidates.

    Args:
        x: [N, C, H, W].
        layer: see `FoldedNormal`; in x's dtype.

    Returns:
        [N, C, H, W]; differentiable in x and every tensor of `layer`.
    """
    r = F.relu(x)
    y = F.conv2d(r, layer.dense, layer.bias, padding=2) + F.conv2d(x, layer.shortcut)
    residual = F.relu(F.conv2d(r, layer.residual_in, layer.residual_in_bias, padding=1))
    y = y + F.conv2d(residual, layer.residual_out, padding=1)
    y = y + F.conv2d(_depthwise(r, layer.dil5_depthwise, dilation=2), layer.dil5_pointwise)
    for sep in (layer.sep3, layer.sep5):
        middle = F.relu(F.conv2d(_depthwise(r, sep.depthwise1), sep.pointwise1, sep.bias1))
        y = y + F.conv2d(_depthwise(middle, sep.depthwise2), sep.pointwise2)
    return y


def _depthwise(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, padding=padding, dilation=dilation, groups=x.shape[1])
