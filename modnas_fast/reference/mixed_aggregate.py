"""A whole normal layer from its candidates on: the mixture, then the depth relaxation (paper Eq. 7, 8 and 11)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from modnas_fast.reference.dense_aggregate import dense_aggregate_ref
from modnas_fast.reference.mixed_op import mixed_op_ref


def mixed_aggregate_ref(
    history: Sequence[Tensor], candidates: Sequence[Tensor], alpha: Tensor, beta: Tensor, gamma: Tensor
) -> Tensor:
    """L^ℓ = Σ_{i<ℓ} pᵢ·L^i + p_ℓ·Σₖ ωₖ·βₖ ⊙ oₖ, with ω = softmax(α), p = softmax(γ).

    Args:
        history: L⁰ … L^{ℓ−1}, each [N, C, H, W].
        candidates: the K candidates' outputs oₖ, each [N, C, H, W].
        alpha: [K], raw.
        beta: [K, C], used as it is.
        gamma: [ℓ + 1], raw.

    Returns:
        L^ℓ, [N, C, H, W] in the candidates' dtype; differentiable in all arguments.
    """
    return dense_aggregate_ref(history, mixed_op_ref(candidates, alpha, beta), gamma)
