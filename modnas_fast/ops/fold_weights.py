"""Folding normal layers, `reference.fold.fold_normal_ref`, by one kernel forward and two backward for any number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modnas_fast.genotype import PRIMITIVES
from modnas_fast.ops.features import check_device, check_parameter, promoted
from modnas_fast.reference.fold import FoldedNormal

_CONVOLUTIONS = {"conv_3x3.conv": 3, "conv_5x5.conv": 5, "res_block_3x3.conv2": 3, "res_block_3x3.shortcut": 1}
_POINTWISES = (  # each after a depthwise convolution; the first four are gated, in the order of their candidates
    ("sep_conv_3x3.depthwise2", "sep_conv_3x3.pointwise2"),
    ("sep_conv_5x5.depthwise2", "sep_conv_5x5.pointwise2"),
    ("dil_conv_3x3.depthwise", "dil_conv_3x3.pointwise"),
    ("dil_conv_5x5.depthwise", "dil_conv_5x5.pointwise"),
    ("sep_conv_3x3.depthwise1", "sep_conv_3x3.pointwise1"),
    ("sep_conv_5x5.depthwise1", "sep_conv_5x5.pointwise1"),
)
_DEPTHWISE = "dil_conv_3x3.depthwise.weight"
_FOLDED = (
    "dense",
    "shortcut",
    "bias",
    "residual_out",
    "dil5_pointwise",
    "sep3_bias1",
    "sep3_pointwise2",
    "sep5_bias1",
    "sep5_pointwise2",
)
_UNCHANGED = {
    "residual_in": "res_block_3x3.conv1.weight",
    "residual_in_bias": "res_block_3x3.conv1.bias",
    "dil5_depthwise": "dil_conv_5x5.depthwise.weight",
    "sep3_depthwise1": "sep_conv_3x3.depthwise1.weight",
    "sep3_pointwise1": "sep_conv_3x3.pointwise1.weight",
    "sep3_depthwise2": "sep_conv_3x3.depthwise2.weight",
    "sep5_depthwise1": "sep_conv_5x5.depthwise1.weight",
    "sep5_pointwise1": "sep_conv_5x5.pointwise1.weight",
    "sep5_depthwise2": "sep_conv_5x5.depthwise2.weight",
}


def fold_weights(weights: Mapping[str, Tensor], gates: Tensor, carry: Tensor) -> FoldedNormal:
    """Fold M normal layers, as `fold_normal_ref` folds one; what `fold_normal` does where the kernels run.

    Args:
        weights: the candidates' parameters, named as in a `MixedOp`'s state dict, each [M, …], float32, float16 or
            bfloat16.
        gates: [M, 7, C], p_ℓ·ω·β, of any of these dtypes, as `carry`.
        carry: [M], p_{ℓ−1}.

    Returns:
        Every tensor [M, …] in the arguments' (promoted) dtype, summed in float32; differentiable once in all
        arguments. Equal inputs on one device give equal bits.

    Raises:
        ModnasError: shapes that do not fit, another dtype, or a device that Triton's kernels do not run on.
    """
    _check(weights, gates, carry)
    dtyped = dict(zip((*weights, "gates", "carry"), promoted([*weights.values(), gates, carry]), strict=True))
    folded = torch.ops.modnas_fast.fold_weights(
        [dtyped[f"{name}.{part}"] for name in _CONVOLUTIONS for part in ("weight", "bias")],
        [
            dtyped[name]
            for depthwise, pointwise in _POINTWISES
            for name in (f"{pointwise}.weight", f"{depthwise}.bias", f"{pointwise}.bias")
        ],
        dtyped[_DEPTHWISE],
        dtyped["gates"],
        dtyped["carry"],
    )
    unchanged = {field: dtyped[name] for field, name in _UNCHANGED.items()}
    return FoldedNormal(**dict(zip(_FOLDED, folded, strict=True)), **unchanged)


def _check(weights: Mapping[str, Tensor], gates: Tensor, carry: Tensor) -> None:
    M, C = carry.shape[0] if carry.ndim else 1, gates.shape[-1]
    check_parameter("fold_weights", "carry", carry, (M,), gates)
    check_parameter("fold_weights", "gates", gates, (M, len(PRIMITIVES["normal"]), C), gates)
    sizes = _CONVOLUTIONS | {pointwise: 1 for _, pointwise in _POINTWISES}
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (M, C, C, size, size) for name, size in sizes.items()}
    shapes |= {f"{name}.bias": (M, C) for name in (*sizes, *(depthwise for depthwise, _ in _POINTWISES))}
    for name, shape in {**shapes, _DEPTHWISE: (M, C, 1, 3, 3)}.items():
        check_parameter("fold_weights", name, weights[name], shape, gates)
    check_device("fold_weights", gates.device)


def empty_folded(gates: Tensor) -> list[Tensor]:
    """Where the forward pass writes: `_FOLDED`."""
    M, _, C = gates.shape
    sizes = {"dense": (C, 5, 5), "residual_out": (C, 3, 3), "bias": (), "sep3_bias1": (), "sep5_bias1": ()}
    return [gates.new_empty((M, C, *sizes.get(name, (C, 1, 1)))) for name in _FOLDED]


def empty_gradients(gates: Tensor, need_gates: bool, need_weights: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Where the backward pass writes.

    The gradients of gates and carry; and those of `_CONVOLUTIONS`, the seven biases [M, 7, C] that gates multiply,
    `_POINTWISES`, `_DEPTHWISE`, and the depthwise biases of `_POINTWISES`.
    """
    M, K, C = gates.shape
    kernels = [(M, C, C, size, size) for size in _CONVOLUTIONS.values()]
    shapes = [*kernels, (M, K, C), *6 * [(M, C, C, 1, 1)], (M, C, 1, 3, 3), *6 * [(M, C)]]
    dgates = [gates.new_empty(gates.shape), gates.new_empty(M)] if need_gates else []
    return dgates, [gates.new_empty(shape) for shape in shapes] if need_weights else []


@torch.library.custom_op(
    "modnas_fast::fold_weights",
    mutates_args=(),
    schema="(Tensor[] convolutions, Tensor[] pointwises, Tensor depthwise, Tensor gates, Tensor carry) -> Tensor[]",
)
def _forward(
    convolutions: list[Tensor], pointwises: list[Tensor], depthwise: Tensor, gates: Tensor, carry: Tensor
) -> list[Tensor]:
    from modnas_fast.kernels.fold_weights import fold_weights_fwd

    folded = empty_folded(gates)
    weights = _contiguous(convolutions), _contiguous(pointwises), depthwise.contiguous()
    fold_weights_fwd(*weights, gates.contiguous(), carry.contiguous(), folded)
    return folded


@_forward.register_fake
def _(
    convolutions: list[Tensor], pointwises: list[Tensor], depthwise: Tensor, gates: Tensor, carry: Tensor
) -> list[Tensor]:
    return empty_folded(gates)


@torch.library.custom_op(
    "modnas_fast::fold_weights_backward",
    mutates_args=(),
    schema="(Tensor[] dfolded, Tensor[] convolutions, Tensor[] pointwises, Tensor depthwise, Tensor gates, "
    "bool need_gates, bool need_weights) -> Tensor[]",
)
def _backward(
    dfolded: list[Tensor],
    convolutions: list[Tensor],
    pointwises: list[Tensor],
    depthwise: Tensor,
    gates: Tensor,
    need_gates: bool,
    need_weights: bool,
) -> list[Tensor]:
    """The gradients wanted, see `empty_gradients`; the convolutions are read only for the gates'."""
    from modnas_fast.kernels.fold_weights import fold_weights_bwd

    dgates, dweights = empty_gradients(gates, need_gates, need_weights)
    weights = _contiguous(convolutions), _contiguous(pointwises), depthwise.contiguous()
    fold_weights_bwd(_contiguous(dfolded), *weights, gates.contiguous(), dgates, dweights)
    return dgates + dweights


@_backward.register_fake
def _(
    dfolded: list[Tensor],
    convolutions: list[Tensor],
    pointwises: list[Tensor],
    depthwise: Tensor,
    gates: Tensor,
    need_gates: bool,
    need_weights: bool,
) -> list[Tensor]:
    dgates, dweights = empty_gradients(gates, need_gates, need_weights)
    return dgates + dweights


def _contiguous(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


def _setup_context(
    ctx: Any, inputs: tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor], output: list[Tensor]
) -> None:
    convolutions, pointwises, depthwise, gates, carry = inputs
    ctx.need_gates = gates.requires_grad or carry.requires_grad
    ctx.save_for_backward(gates, depthwise, *pointwises, *(convolutions if ctx.need_gates else ()))


def _differentiate(
    ctx: Any, dfolded: list[Tensor]
) -> tuple[list[Tensor | None], list[Tensor | None], Tensor | None, Tensor | None, Tensor | None]:
    gates, depthwise, *weights = ctx.saved_tensors
    pointwises, convolutions = weights[: 3 * len(_POINTWISES)], weights[3 * len(_POINTWISES) :]
    of_convolutions, of_pointwises, of_depthwise, _, _ = ctx.needs_input_grad
    need_weights = any((*of_convolutions, *of_pointwises, of_depthwise))
    gradients: list[Tensor] = torch.ops.modnas_fast.fold_weights_backward(
        dfolded, convolutions, pointwises, depthwise, gates, ctx.need_gates, need_weights
    )
    dgates, dcarry = gradients[:2] if ctx.need_gates else (None, None)
    if not need_weights:
        return [None] * len(of_convolutions), [None] * len(of_pointwises), None, dgates, dcarry
    dconv3, dconv5, dresidual, dshortcut, dbiases, *rest = gradients[2 * ctx.need_gates :]
    of3, of5, *of_last, of_residual = dbiases.unbind(1)
    of_last += [dfolded[_FOLDED.index("sep3_bias1")], dfolded[_FOLDED.index("sep5_bias1")]]
    dconvolutions: list[Tensor | None] = [dconv3, of3, dconv5, of5, dresidual, of_residual, dshortcut, of_residual]
    dpointwises: list[Tensor | None] = [x for three in zip(rest[:6], rest[7:], of_last, strict=True) for x in three]
    return dconvolutions, dpointwises, rest[6], dgates, dcarry


_forward.register_autograd(_differentiate, setup_context=_setup_context)
