"""The depth relaxation of a normal layer (paper Eq. 11)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def dense_aggregate_ref(history: Sequence[Tensor], z: Tensor, gamma: Tensor) -> Tensor:
    """Weigh a normal layer's mixture against everything before it in its block.

        L^ℓ = Σ_{i<ℓ} pᵢ·L^i + p_ℓ·z,    p = softmax(γ)

    Args:
        history: L⁰ … L^{ℓ−1}, each [N, C, H, W]; L⁰ is the block's (fused) input.
        z: the layer's mixture, [N, C, H, W].
        gamma: [ℓ + 1], raw.

    Returns:
        L^ℓ, [N, C, H, W] in z's dtype; differentiable in all arguments.
    """
    weights = gamma.softmax(0).to(z.dtype)  # [ℓ + 1]
    aggregate = weights[-1] * z
    for weight, feature in zip(weights[:-1], history, strict=True):
        aggregate = aggregate + weight * feature
    return aggregate
