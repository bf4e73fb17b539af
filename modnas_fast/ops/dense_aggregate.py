"""The depth relaxation, `reference.dense_aggregate`, as one pass over memory each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from modnas_fast.ops.features import arrange, check_features, check_parameter, is_channels_last, promoted


def dense_aggregate(history: Sequence[Tensor], z: Tensor, gamma: Tensor) -> Tensor:
    """Weigh a normal layer's mixture against everything before it in its block.

        L^ℓ = Σ_{i<ℓ} pᵢ·L^i + p_ℓ·z,    p = softmax(γ)

    History and z are kept for the backward pass, and read there, only if γ needs a gradient.

    Args:
        history: L⁰ … L^{ℓ−1}, ℓ ≥ 1, each [N, C, H, W], float32, float16 or bfloat16, contiguous or channels_last; one
            laid out unlike z, or neither, is copied into z's layout.
        z: the layer's mixture, [N, C, H, W], likewise.
        gamma: [ℓ + 1], raw; of any of these dtypes.

    Returns:
        L^ℓ, [N, C, H, W] in the features' (promoted) dtype and z's layout, summed in float32; differentiable once in
        all arguments. Equal inputs on one device give equal bits.

    Raises:
        ModnasError: shapes that do not fit, another dtype, or a device that Triton's kernels do not run on.
    """
    check_features("dense_aggregate", [z, *history])
    check_parameter("dense_aggregate", "gamma", gamma, (len(history) + 1,), z)
    return cast("Tensor", torch.ops.modnas_fast.dense_aggregate(promoted([*history, z]), gamma))


@torch.library.custom_op(
    "modnas_fast::dense_aggregate", mutates_args=(), schema="(Tensor[] features, Tensor gamma) -> Tensor"
)
def _forward(features: list[Tensor], gamma: Tensor) -> Tensor:
    from modnas_fast.kernels.dense_aggregate import dense_aggregate_fwd

    return cast("Tensor", dense_aggregate_fwd(arrange(features, is_channels_last(features[-1])), gamma.contiguous()))


@_forward.register_fake
def _(features: list[Tensor], gamma: Tensor) -> Tensor:
    return torch.empty_like(arrange(features[-1:], is_channels_last(features[-1]))[0])


@torch.library.custom_op(
    "modnas_fast::dense_aggregate_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor[] features, Tensor gamma, bool channels_last, bool need_features, bool need_gamma) "
    "-> Tensor[]",
)
def _backward(
    dy: Tensor, features: list[Tensor], gamma: Tensor, channels_last: bool, need_features: bool, need_gamma: bool
) -> list[Tensor]:
    """The gradients wanted: those in the features, then γ's."""
    from modnas_fast.kernels.dense_aggregate import dense_aggregate_bwd

    dy, *features = arrange([dy, *features], channels_last)
    return cast("list[Tensor]", dense_aggregate_bwd(dy, features, gamma.contiguous(), need_features, need_gamma))


@_backward.register_fake
def _(
    dy: Tensor, features: list[Tensor], gamma: Tensor, channels_last: bool, need_features: bool, need_gamma: bool
) -> list[Tensor]:
    dy = arrange([dy], channels_last)[0]
    dfeatures = [torch.empty_like(dy) for _ in range(len(gamma) if need_features else 0)]
    return dfeatures + ([gamma.new_empty(gamma.shape)] if need_gamma else [])


def _setup_context(ctx: Any, inputs: tuple[list[Tensor], Tensor], output: Tensor) -> None:
    features, gamma = inputs
    ctx.channels_last = is_channels_last(output)
    ctx.save_for_backward(gamma, *(features if gamma.requires_grad else ()))


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Sequence[Tensor | None], Tensor | None]:
    gamma, *features = ctx.saved_tensors
    need_features, need_gamma = any(ctx.needs_input_grad[0]), ctx.needs_input_grad[1]
    gradients = torch.ops.modnas_fast.dense_aggregate_backward(
        dy, features, gamma, ctx.channels_last, need_features, need_gamma
    )
    dfeatures = gradients[: len(gamma)] if need_features else [None] * len(gamma)
    return dfeatures, gradients[-1] if need_gamma else None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
