"""The model-guided step between the noisy image and the denoiser's estimate (paper Eq. 6b)."""

from __future__ import annotations

from torch import Tensor


def relax_ref(v: Tensor, y: Tensor, delta: Tensor) -> Tensor:
    """One stage's estimate.

        xᵗ = δ·y + (1 − δ)·v,    δ = sigmoid(delta)

    Args:
        v: the stage's denoised image f(xᵗ⁻¹), [N, C, H, W].
        y: the noisy image, [N, C, H, W].
        delta: raw scalar.

    Returns:
        xᵗ, [N, C, H, W] in y's precision, also where autocast gives v in bf16; differentiable in all arguments.
    """
    return v + delta.sigmoid() * (y - v)
