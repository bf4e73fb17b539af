"""The model-guided step, `reference.relax`, as one pass over memory each way."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from modnas_fast.errors import ModnasError
from modnas_fast.ops.features import arrange, check_features, check_parameter, is_channels_last


def relax(v: Tensor, y: Tensor, delta: Tensor, out: Tensor | None = None) -> Tensor:
    """One stage's estimate.

        xᵗ = δ·y + (1 − δ)·v,    δ = sigmoid(delta)

    Args:
        v: the stage's denoised image f(xᵗ⁻¹), [N, C, H, W], float32, float16 or bfloat16.
        y: the noisy image, [N, C, H, W], of any of these dtypes, contiguous or channels_last; one laid out unlike v,
            or neither, is copied into v's layout.
        delta: raw scalar, of any of these dtypes.
        out: where to write xᵗ, of its shape and dtype and any strides; v or y itself, for a step in place, but nothing
            else that overlaps them. Only where no gradient is wanted.

    Returns:
        xᵗ, in the wider of v's and y's dtypes and v's layout, or `out`; without `out` differentiable once in all
        arguments.

    Raises:
        ModnasError: shapes that do not fit, another dtype, a device that Triton's kernels do not run on, or an `out`
            where a gradient is wanted.
    """
    check_features("relax", [v, y])
    check_parameter("relax", "delta", delta, (), v)
    if out is None:
        return cast("Tensor", torch.ops.modnas_fast.relax(v, y, delta))
    dtype = torch.promote_types(v.dtype, y.dtype)
    if out.shape != v.shape or out.dtype != dtype or out.device != v.device:
        raise ModnasError(
            f"relax writes {list(v.shape)} in {dtype} on {v.device}; "
            f"out is {list(out.shape)} in {out.dtype} on {out.device}"
        )
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (v, y, delta, out)):
        raise ModnasError("relax has no gradient through out=; leave it away, or use torch.no_grad()")
    torch.ops.modnas_fast.relax_out(v, y, delta, out)
    return out


@torch.library.custom_op("modnas_fast::relax", mutates_args=(), schema="(Tensor v, Tensor y, Tensor delta) -> Tensor")
def _forward(v: Tensor, y: Tensor, delta: Tensor) -> Tensor:
    from modnas_fast.kernels.relax import relax_fwd

    v, y = arrange([v, y], is_channels_last(v))
    x = torch.empty_like(v, dtype=torch.promote_types(v.dtype, y.dtype))
    relax_fwd(v, y, delta, x)
    return x


@_forward.register_fake
def _(v: Tensor, y: Tensor, delta: Tensor) -> Tensor:
    return torch.empty_like(arrange([v], is_channels_last(v))[0], dtype=torch.promote_types(v.dtype, y.dtype))


@torch.library.custom_op(
    "modnas_fast::relax_out", mutates_args=("out",), schema="(Tensor v, Tensor y, Tensor delta, Tensor(a!) out) -> ()"
)
def _forward_out(v: Tensor, y: Tensor, delta: Tensor, out: Tensor) -> None:
    from modnas_fast.kernels.relax import relax_fwd

    channels_last = is_channels_last(out)
    x = out if channels_last or out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    relax_fwd(*arrange([v, y], channels_last), delta, x)
    if x is not out:
        out.copy_(x)


@_forward_out.register_fake
def _(v: Tensor, y: Tensor, delta: Tensor, out: Tensor) -> None:
    pass


@torch.library.custom_op(
    "modnas_fast::relax_backward",
    mutates_args=(),
    schema="(Tensor dx, Tensor v, Tensor y, Tensor delta, bool channels_last, bool need_v, bool need_y, "
    "bool need_delta) -> Tensor[]",
)
def _backward(
    dx: Tensor, v: Tensor, y: Tensor, delta: Tensor, channels_last: bool, need_v: bool, need_y: bool, need_delta: bool
) -> list[Tensor]:
    """The gradients wanted: v's, y's, delta's."""
    from modnas_fast.kernels.relax import relax_bwd

    dx, v, y = arrange([dx, v, y], channels_last)
    return cast("list[Tensor]", relax_bwd(dx, v, y, delta, need_v, need_y, need_delta))


@_backward.register_fake
def _(
    dx: Tensor, v: Tensor, y: Tensor, delta: Tensor, channels_last: bool, need_v: bool, need_y: bool, need_delta: bool
) -> list[Tensor]:
    dx = arrange([dx], channels_last)[0]
    wanted = [x for x, need in ((v, need_v), (y, need_y)) if need]
    return [torch.empty_like(dx, dtype=x.dtype) for x in wanted] + ([torch.empty_like(delta)] if need_delta else [])


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.channels_last = is_channels_last(output)
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad
    gradients = iter(torch.ops.modnas_fast.relax_backward(dx, *ctx.saved_tensors, ctx.channels_last, *needed))
    return tuple(next(gradients) if need else None for need in needed)


_forward.register_autograd(_differentiate, setup_context=_setup_context)
