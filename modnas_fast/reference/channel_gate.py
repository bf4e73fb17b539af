"""The width gates of one feature map (paper Fig. 1(g))."""

from __future__ import annotations

from torch import Tensor


def channel_gate_ref(x: Tensor, beta: Tensor) -> Tensor:
    """Weigh every channel, y = β ⊙ x.

    Args:
        x: [N, C, H, W].
        beta: [C], used as it is.

    Returns:
        y, [N, C, H, W] in x's dtype; differentiable in both.
    """
    return beta[:, None, None].to(x.dtype) * x
