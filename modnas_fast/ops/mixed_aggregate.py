"""A normal layer's mixture and depth relaxation, `reference.mixed_aggregate`, as one pass over memory each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from modnas_fast.ops.features import arrange, check_features, check_parameter, is_channels_last, promoted


def mixed_aggregate(
    history: Sequence[Tensor], candidates: Sequence[Tensor], alpha: Tensor, beta: Tensor, gamma: Tensor
) -> Tensor:
    """Mix a normal layer's candidates and weigh the mixture against everything before it in its block.

        L^ℓ = Σ_{i<ℓ} pᵢ·L^i + p_ℓ·Σₖ ωₖ·βₖ ⊙ oₖ,    ω = softmax(α),  p = softmax(γ)

    The mixture itself never reaches memory. The backward pass reads the result's gradient and, only if α, β or γ needs
    a gradient, candidates and history once more; and keeps them only then.

    Args:
        history: L⁰ … L^{ℓ−1}, ℓ ≥ 1, each [N, C, H, W], float32, float16 or bfloat16.
        candidates: the K ≥ 1 candidates' outputs oₖ, likewise. Contiguous or channels_last tensors are taken as they
            are. One that is neither, or is laid out unlike the first candidate, is copied into the latter's layout.
        alpha: [K], raw; of any of these dtypes, as `beta` and `gamma`.
        beta: [K, C], one gate a channel of every candidate; used as it is.
        gamma: [ℓ + 1], raw.

    Returns:
        L^ℓ, [N, C, H, W] in the features' (promoted) dtype and the first candidate's layout, summed in float32;
        differentiable once in all arguments. Equal inputs on one device give equal bits.

    Raises:
        ModnasError: shapes that do not fit, another dtype, or a device that Triton's kernels do not run on.
    """
    check_features("mixed_aggregate", candidates)
    check_features("mixed_aggregate", [candidates[0], *history])
    K, C = len(candidates), candidates[0].shape[1]
    check_parameter("mixed_aggregate", "alpha", alpha, (K,), candidates[0])
    check_parameter("mixed_aggregate", "beta", beta, (K, C), candidates[0])
    check_parameter("mixed_aggregate", "gamma", gamma, (len(history) + 1,), candidates[0])
    features = promoted([*candidates, *history])
    return cast("Tensor", torch.ops.modnas_fast.mixed_aggregate(features[K:], features[:K], alpha, beta, gamma))


@torch.library.custom_op(
    "modnas_fast::mixed_aggregate",
    mutates_args=(),
    schema="(Tensor[] history, Tensor[] candidates, Tensor alpha, Tensor beta, Tensor gamma) -> Tensor",
)
def _forward(history: list[Tensor], candidates: list[Tensor], alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    from modnas_fast.kernels.mixed_aggregate import mixed_aggregate_fwd

    history, candidates = (arrange(features, is_channels_last(candidates[0])) for features in (history, candidates))
    parameters = (raw.contiguous() for raw in (alpha, beta, gamma))
    return cast("Tensor", mixed_aggregate_fwd(history, candidates, *parameters))


@_forward.register_fake
def _(history: list[Tensor], candidates: list[Tensor], alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    return torch.empty_like(arrange(candidates[:1], is_channels_last(candidates[0]))[0])


@torch.library.custom_op(
    "modnas_fast::mixed_aggregate_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor[] history, Tensor[] candidates, Tensor alpha, Tensor beta, Tensor gamma, "
    "bool channels_last, bool need_features, bool need_parameters) -> Tensor[]",
)
def _backward(
    dy: Tensor,
    history: list[Tensor],
    candidates: list[Tensor],
    alpha: Tensor,
    beta: Tensor,
    gamma: Tensor,
    channels_last: bool,
    need_features: bool,
    need_parameters: bool,
) -> list[Tensor]:
    """The gradients wanted: those in the history and in the candidates, then those in α, β and γ."""
    from modnas_fast.kernels.mixed_aggregate import mixed_aggregate_bwd

    features = (arrange(features, channels_last) for features in (history, candidates))
    parameters = (raw.contiguous() for raw in (alpha, beta, gamma))
    dy = arrange([dy], channels_last)[0]
    return cast("list[Tensor]", mixed_aggregate_bwd(dy, *features, *parameters, need_features, need_parameters))


@_backward.register_fake
def _(
    dy: Tensor,
    history: list[Tensor],
    candidates: list[Tensor],
    alpha: Tensor,
    beta: Tensor,
    gamma: Tensor,
    channels_last: bool,
    need_features: bool,
    need_parameters: bool,
) -> list[Tensor]:
    dy = arrange([dy], channels_last)[0]
    dfeatures = [torch.empty_like(dy) for _ in range(len(gamma) - 1 + len(alpha) if need_features else 0)]
    return dfeatures + [raw.new_empty(raw.shape) for raw in (alpha, beta, gamma) if need_parameters]


def _setup_context(ctx: Any, inputs: tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor], output: Tensor) -> None:
    history, candidates, *parameters = inputs
    ctx.channels_last = is_channels_last(output)
    ctx.need_parameters = any(raw.requires_grad for raw in parameters)
    ctx.save_for_backward(*parameters, *([*history, *candidates] if ctx.need_parameters else ()))


def _differentiate(
    ctx: Any, dy: Tensor
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None], Tensor | None, Tensor | None, Tensor | None]:
    alpha, beta, gamma, *features = ctx.saved_tensors
    depth, count = len(gamma) - 1, len(gamma) - 1 + len(alpha)
    need_features = any(ctx.needs_input_grad[0]) or any(ctx.needs_input_grad[1])
    gradients = torch.ops.modnas_fast.mixed_aggregate_backward(
        dy,
        features[:depth],
        features[depth:],
        alpha,
        beta,
        gamma,
        ctx.channels_last,
        need_features,
        ctx.need_parameters,
    )
    dfeatures = gradients[:count] if need_features else [None] * count
    dalpha, dbeta, dgamma = gradients[-3:] if ctx.need_parameters else (None, None, None)
    return dfeatures[:depth], dfeatures[depth:], dalpha, dbeta, dgamma


_forward.register_autograd(_differentiate, setup_context=_setup_context)
