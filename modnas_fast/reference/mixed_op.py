"""The mixture of a layer's candidates, gated channel by channel (paper Eq. 7 and 8, width gates of Fig. 1(g))."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def mixed_op_ref(candidates: Sequence[Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
    """Mix a layer's candidates.

        z = Σₖ ωₖ·βₖ ⊙ oₖ,    ω = softmax(α)

    Args:
        candidates: the K candidates' outputs oₖ, each [N, C, H, W].
        alpha: [K], raw.
        beta: [K, C], one gate a channel of every candidate; used as it is.

    Returns:
        z, [N, C, H, W] in the candidates' dtype; differentiable in all arguments.
    """
    gates = (alpha.softmax(0)[:, None] * beta).to(candidates[0].dtype)  # [K, C]
    gated = [gate[:, None, None] * candidate for gate, candidate in zip(gates, candidates, strict=True)]
    return functools.reduce(torch.add, gated)
