"""The supernet's backends: from the same parameters, the functions of every mixed layer.

A backend is one function of (stages, architecture) that returns the `StageFunctions` of each stage. It runs once a
forward pass, so work that all layers share, such as folding, is done there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from modnas_fast.genotype import LAYERS_PER_BLOCK
from modnas_fast.layers import MixedOp, stack_parameters
from modnas_fast.ops import (
    convolution,
    convolution_dtype,
    fold_down,
    fold_normal,
    fold_up,
    folded_normal,
    folded_up,
    mixed_aggregate,
    mixed_op,
)
from modnas_fast.reference import folded_down_ref, mixed_aggregate_ref, mixed_op_ref
from modnas_fast.reference.fold import FoldedDown, FoldedNormal, FoldedUp
from modnas_fast.search.architecture import Architecture, MixtureParameters, NormalLayerParameters
from modnas_fast.search.stage import BlockFunctions, StageFunctions, SuperStage

Backend = Callable[[Sequence[SuperStage], Architecture], list[StageFunctions]]
_Folded = TypeVar("_Folded", FoldedNormal, FoldedDown, FoldedUp)


def reference_functions(stages: Sequence[SuperStage], architecture: Architecture) -> list[StageFunctions]:
    """Every candidate by itself, then their mixture, then the aggregation over depth."""
    return _one_by_one(mixed_aggregate_ref, mixed_op_ref, stages, architecture)


def fused_functions(stages: Sequence[SuperStage], architecture: Architecture) -> list[StageFunctions]:
    """Every candidate by itself, then one kernel for what a layer makes of them."""
    return _one_by_one(mixed_aggregate, mixed_op, stages, architecture)


def _one_by_one(
    aggregate: Callable[..., Tensor],
    mix: Callable[..., Tensor],
    stages: Sequence[SuperStage],
    architecture: Architecture,
) -> list[StageFunctions]:
    """`aggregate` ends normal layers, from history, candidates, α, β, γ; `mix` the others, from candidates, α, β."""
    functions = []
    for stage in stages:
        blocks = [
            BlockFunctions(
                [
                    partial(_normal, aggregate, mix, candidates, parameters)
                    for candidates, parameters in zip(block.normal_layers(), raw.normal_layers(), strict=True)
                ],
                partial(_resample, mix, block.resample, raw.resample) if block.resample and raw.resample else None,
            )
            for block, raw in zip(stage.blocks(), architecture.blocks(), strict=True)
        ]
        functions.append(StageFunctions(blocks, lambda x, module: module(x)))
    return functions


def _normal(
    aggregate: Callable[..., Tensor],
    mix: Callable[..., Tensor],
    candidates: MixedOp,
    raw: NormalLayerParameters,
    history: Sequence[Tensor],
) -> Tensor:
    results = candidates(history[-1])
    if raw.gamma is not None:
        return aggregate(history, results, raw.alpha, raw.beta, raw.gamma)
    identity = history[-1].to(results[0].dtype)
    return mix([*results, identity], raw.alpha, torch.cat((raw.beta, torch.ones_like(raw.beta[:1]))))


def _resample(mix: Callable[..., Tensor], candidates: MixedOp, raw: MixtureParameters, x: Tensor) -> Tensor:
    return mix(candidates(x), raw.alpha, raw.beta)


def folded_functions(stages: Sequence[SuperStage], architecture: Architecture) -> list[StageFunctions]:
    """All layers of a kind, of all stages, folded in one batch; then a few convolutions a layer.

    Folding runs in the parameters' precision. Under autocast, activations have its dtype, and convolutions are
    computed in it or, where that is faster, in float32.
    """
    device = stages[0].delta.device
    dtype = computed = stages[0].delta.dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        computed = convolution_dtype(dtype, device)
    blocks = [block for stage in stages for block in stage.blocks()]
    with torch.autocast(device.type, enabled=False):
        depth = architecture.gamma_weights()  # [B, ℓ + 1]
        own, carry = (torch.stack([p[:, i] for p in depth], dim=1).flatten() for i in (-1, -2))  # [3·B]
        older = [p[:, :-2].to(dtype) for p in depth]
        gates = _gates(architecture, "normal") * own[:, None, None]
        shared = len(stages)
        normal = fold_normal(
            stack_parameters(layer for block in blocks for layer in block.normal_layers()),
            gates.repeat(shared, 1, 1),
            carry.repeat(shared),
        )
        down = fold_down(
            stack_parameters(block.down for block in blocks if block.down is not None),
            _gates(architecture, "down").repeat(shared, 1, 1),
        )
        up = fold_up(
            stack_parameters(block.up for block in blocks if block.up is not None),
            _gates(architecture, "up").repeat(shared, 1, 1),
        )
        normals, downs, ups = iter(_layers(normal, computed)), iter(_layers(down, dtype)), iter(_layers(up, computed))
    functions = []
    for stage in stages:
        functions.append(StageFunctions([], partial(_convolve, dtype, computed)))
        for b, block in enumerate(stage.blocks()):
            layers = [partial(_folded_normal, next(normals), dtype, older[i][b]) for i in range(LAYERS_PER_BLOCK)]
            resample: Callable[[Tensor], Tensor] | None = None
            if block.down is not None:
                resample = partial(folded_down_ref, layer=next(downs))
            elif block.up is not None:
                resample = partial(folded_up, layer=next(ups))
            functions[-1].blocks.append(BlockFunctions(layers, resample))
    return functions


def _folded_normal(layer: FoldedNormal, dtype: torch.dtype, older: Tensor, history: Sequence[Tensor]) -> Tensor:
    """L^ℓ in `dtype`; `older` holds p₀ … p_{ℓ−2}."""
    y = folded_normal(history[-1].to(dtype), layer)
    for weight, feature in zip(older.unbind(), history, strict=False):
        y = torch.addcmul(y, feature, weight)
    return y


def _convolve(dtype: torch.dtype, computed: torch.dtype, x: Tensor, module: nn.Conv2d) -> Tensor:
    """A plain convolution of the stage, to `dtype`."""
    assert module.bias is not None
    return convolution(x.to(dtype), module.weight.to(computed), module.bias.to(computed))


def _gates(architecture: Architecture, kind: str) -> Tensor:
    """ω·β of all M layers of a kind, [M, K, C]."""
    return architecture.alpha_weights(kind)[:, :, None] * architecture.beta(kind)


def _layers(folded: _Folded, dtype: torch.dtype) -> list[_Folded]:
    """The M layers of a batched fold, in `dtype`, their kernels laid out as the device's convolutions take them."""
    kind = type(folded)
    return [kind(*tensors) for tensors in zip(*(_laid_out(x.to(dtype)).unbind() for x in folded), strict=True)]


def _laid_out(kernels: Tensor) -> Tensor:
    """A GPU's convolutions would copy each at every use."""
    return kernels if kernels.device.type == "cpu" else _channels_last(kernels)


def _channels_last(kernels: Tensor) -> Tensor:
    """[M, C_out, C_in, k, k] in memory as M channels_last kernels; other tensors as they are."""
    if kernels.ndim < 5 or kernels.shape[-1] == 1:
        return kernels
    return kernels.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


FUNCTIONS: Mapping[str, Backend] = {
    "reference": reference_functions,
    "folded": folded_functions,
    "fused": fused_functions,
}
