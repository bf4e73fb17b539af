"""One gate a channel, `reference.channel_gate`, as one pass over memory each way."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from modnas_fast.ops.features import arrange, check_features, check_parameter, is_channels_last


def channel_gate(x: Tensor, beta: Tensor) -> Tensor:
    """Weigh every channel, y = β ⊙ x.

    Args:
        x: [N, C, H, W], float32, float16 or bfloat16. A tensor that is neither contiguous nor channels_last is copied
            first. It is kept for the backward pass, and read there, only if β needs a gradient.
        beta: [C], of any of these dtypes.

    Returns:
        y, [N, C, H, W] in x's dtype and layout; differentiable once in both.

    Raises:
        ModnasError: shapes that do not fit, another dtype, or a device that Triton's kernels do not run on.
    """
    check_features("channel_gate", [x])
    check_parameter("channel_gate", "beta", beta, (x.shape[1],), x)
    return cast("Tensor", torch.ops.modnas_fast.channel_gate(x, beta))


@torch.library.custom_op("modnas_fast::channel_gate", mutates_args=(), schema="(Tensor x, Tensor beta) -> Tensor")
def _forward(x: Tensor, beta: Tensor) -> Tensor:
    from modnas_fast.kernels.channel_gate import channel_gate_fwd

    return cast("Tensor", channel_gate_fwd(*arrange([x], is_channels_last(x)), beta.contiguous()))


@_forward.register_fake
def _(x: Tensor, beta: Tensor) -> Tensor:
    return torch.empty_like(arrange([x], is_channels_last(x))[0])


@torch.library.custom_op(
    "modnas_fast::channel_gate_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor? x, Tensor beta, bool channels_last, bool need_x, bool need_beta) -> Tensor[]",
)
def _backward(
    dy: Tensor, x: Tensor | None, beta: Tensor, channels_last: bool, need_x: bool, need_beta: bool
) -> list[Tensor]:
    """The gradients wanted: x's, then β's."""
    from modnas_fast.kernels.channel_gate import channel_gate_bwd

    dy = arrange([dy], channels_last)[0]
    x = dy if x is None else arrange([x], channels_last)[0]  # without β's gradient nobody reads it
    return cast("list[Tensor]", channel_gate_bwd(dy, x, beta.contiguous(), need_x, need_beta))


@_backward.register_fake
def _(dy: Tensor, x: Tensor | None, beta: Tensor, channels_last: bool, need_x: bool, need_beta: bool) -> list[Tensor]:
    dx = [torch.empty_like(arrange([dy], channels_last)[0])] if need_x else []
    return dx + ([beta.new_empty(beta.shape)] if need_beta else [])


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    x, beta = inputs
    ctx.channels_last = is_channels_last(output)
    ctx.save_for_backward(beta, x if beta.requires_grad else None)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
    beta, x = ctx.saved_tensors
    need_x, need_beta = ctx.needs_input_grad
    gradients = iter(torch.ops.modnas_fast.channel_gate_backward(dy, x, beta, ctx.channels_last, need_x, need_beta))
    return next(gradients) if need_x else None, next(gradients) if need_beta else None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
