"""The mixture of a layer's candidates, `reference.mixed_op`, as one pass over memory each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from modnas_fast.ops.features import arrange, check_features, check_parameter, is_channels_last, promoted


def mixed_op(candidates: Sequence[Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
    """Mix a layer's candidates.

        z = Σₖ ωₖ·βₖ ⊙ oₖ,    ω = softmax(α)

    The backward pass reads z's gradient and, only if α or β needs a gradient, the candidates once more; and keeps the
    candidates only then.

    Args:
        candidates: the K ≥ 1 candidates' outputs oₖ, each [N, C, H, W], float32, float16 or bfloat16. Contiguous or
            channels_last ones are taken as they are. One that is neither, or is laid out unlike the first, is copied
            into the first one's layout.
        alpha: [K], raw; of any of these dtypes, as `beta`.
        beta: [K, C], one gate a channel of every candidate; used as it is.

    Returns:
        z, [N, C, H, W] in the candidates' (promoted) dtype and the first one's layout, summed in float32;
        differentiable once in all arguments. Equal inputs on one device give equal bits.

    Raises:
        ModnasError: shapes that do not fit, another dtype, or a device that Triton's kernels do not run on.
    """
    check_features("mixed_op", candidates)
    K, C = len(candidates), candidates[0].shape[1]
    check_parameter("mixed_op", "alpha", alpha, (K,), candidates[0])
    check_parameter("mixed_op", "beta", beta, (K, C), candidates[0])
    return cast("Tensor", torch.ops.modnas_fast.mixed_op(promoted(candidates), alpha, beta))


@torch.library.custom_op(
    "modnas_fast::mixed_op", mutates_args=(), schema="(Tensor[] candidates, Tensor alpha, Tensor beta) -> Tensor"
)
def _forward(candidates: list[Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
    from modnas_fast.kernels.mixed_op import mixed_op_fwd

    candidates = arrange(candidates, is_channels_last(candidates[0]))
    return cast("Tensor", mixed_op_fwd(candidates, alpha.contiguous(), beta.contiguous()))


@_forward.register_fake
def _(candidates: list[Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.empty_like(arrange(candidates[:1], is_channels_last(candidates[0]))[0])


@torch.library.custom_op(
    "modnas_fast::mixed_op_backward",
    mutates_args=(),
    schema="(Tensor dz, Tensor[] candidates, Tensor alpha, Tensor beta, bool channels_last, bool need_candidates, "
    "bool need_parameters) -> Tensor[]",
)
def _backward(
    dz: Tensor,
    candidates: list[Tensor],
    alpha: Tensor,
    beta: Tensor,
    channels_last: bool,
    need_candidates: bool,
    need_parameters: bool,
) -> list[Tensor]:
    """The gradients wanted: those in the candidates, then those in α and β."""
    from modnas_fast.kernels.mixed_op import mixed_op_bwd

    dz, *candidates = arrange([dz, *candidates], channels_last)
    parameters = alpha.contiguous(), beta.contiguous()
    return cast("list[Tensor]", mixed_op_bwd(dz, candidates, *parameters, need_candidates, need_parameters))


@_backward.register_fake
def _(
    dz: Tensor,
    candidates: list[Tensor],
    alpha: Tensor,
    beta: Tensor,
    channels_last: bool,
    need_candidates: bool,
    need_parameters: bool,
) -> list[Tensor]:
    dz = arrange([dz], channels_last)[0]
    dcandidates = [torch.empty_like(dz) for _ in range(len(alpha) if need_candidates else 0)]
    dparameters = [alpha.new_empty(alpha.shape), beta.new_empty(beta.shape)] if need_parameters else []
    return dcandidates + dparameters


def _setup_context(ctx: Any, inputs: tuple[list[Tensor], Tensor, Tensor], output: Tensor) -> None:
    candidates, alpha, beta = inputs
    ctx.channels_last = is_channels_last(output)
    ctx.need_parameters = alpha.requires_grad or beta.requires_grad
    ctx.save_for_backward(alpha, beta, *(candidates if ctx.need_parameters else ()))


def _differentiate(ctx: Any, dz: Tensor) -> tuple[Sequence[Tensor | None], Tensor | None, Tensor | None]:
    alpha, beta, *candidates = ctx.saved_tensors
    K, need_candidates = len(alpha), any(ctx.needs_input_grad[0])
    gradients: list[Tensor | None] = torch.ops.modnas_fast.mixed_op_backward(
        dz, candidates, alpha, beta, ctx.channels_last, need_candidates, ctx.need_parameters
    )
    dcandidates = gradients[:K] if need_candidates else [None] * K
    dalpha, dbeta = gradients[-2:] if ctx.need_parameters else (None, None)
    return dcandidates, dalpha, dbeta


_forward.register_autograd(_differentiate, setup_context=_setup_context)
