"""Folding: the batch against one layer at a time, and a folded layer against the sum of its gated candidates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modnas_fast.genotype import PRIMITIVES
from modnas_fast.layers import MixedOp, stack_parameters
from modnas_fast.ops import fold_down, fold_normal, fold_up
from modnas_fast.reference import (
    fold_down_ref,
    fold_normal_ref,
    fold_up_ref,
    folded_down_ref,
    folded_normal_ref,
    folded_up_ref,
)
from tests.parity import assert_parity
from tests.test_operations import DEFINITIONS

FOLDS = {
    "normal": (fold_normal, fold_normal_ref, folded_normal_ref),
    "down": (fold_down, fold_down_ref, folded_down_ref),
    "up": (fold_up, fold_up_ref, folded_up_ref),
}
C = 3


def gates_of(kind: str, *layers: int) -> list[Tensor]:
    """Random gates, and for a normal layer the carry."""
    gates = [torch.randn(*layers, len(PRIMITIVES[kind]), C, dtype=torch.float64)]
    return gates + ([torch.randn(layers, dtype=torch.float64)] if kind == "normal" else [])


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_a_folded_layer_is_the_sum_of_its_gated_candidates(kind: str) -> None:
    torch.manual_seed(0)
    layer = MixedOp(kind, C).double()
    names = list(layer.state_dict())
    x = torch.randn(2, C, 6, 8, dtype=torch.float64)
    _, fold, run = FOLDS[kind]

    def folded(x, gates, carry, *weights):
        scalars = [carry] if kind == "normal" else []
        return run(x, fold(dict(zip(names, weights, strict=True)), gates, *scalars))

    def summed(x, gates, carry, *weights):
        y = carry * x if kind == "normal" else 0
        for gate, op in zip(gates, PRIMITIVES[kind], strict=True):
            own = {n[len(op) + 1 :]: w for n, w in zip(names, weights, strict=True) if n.startswith(f"{op}.")}
            y = y + gate[:, None, None] * DEFINITIONS[kind, op](own, x)
        return y

    gates, carry = gates_of(kind)[0], torch.tensor(0.3, dtype=torch.float64, requires_grad=kind == "normal")
    leaves = [x, gates, *layer.state_dict().values()]
    x, gates, *weights = (leaf.requires_grad_() for leaf in leaves)
    assert_parity(folded, summed, x, gates, carry, *weights, reduction=1000, depth=10)


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_a_batched_fold_is_each_layer_s(kind: str) -> None:
    torch.manual_seed(0)
    M = 3
    layers = [MixedOp(kind, C).double() for _ in range(M)]
    weights = {name: stacked.detach() for name, stacked in stack_parameters(layers).items()}
    batched, single, _ = FOLDS[kind]
    arguments = gates_of(kind, M)

    def many(*tensors):
        return batched(dict(zip(weights, tensors, strict=False)), *tensors[len(weights) :])

    def one_by_one(*tensors):
        folds = []
        for m in range(M):
            own = {name: tensor[m] for name, tensor in zip(weights, tensors, strict=False)}
            folds.append(single(own, *(tensor[m] for tensor in tensors[len(weights) :])))
        return [torch.stack(same) for same in zip(*folds, strict=True)]

    tensors = [tensor.requires_grad_() for tensor in (*weights.values(), *arguments)]
    assert_parity(many, one_by_one, *tensors, reduction=C * C * 25, depth=4)


@pytest.mark.parametrize(("kind", "op"), DEFINITIONS)
def test_one_hot_gates_are_that_primitive_alone(kind: str, op: str) -> None:
    torch.manual_seed(0)
    layer = MixedOp(kind, C).double()
    gates = torch.zeros(1, len(layer), C, dtype=torch.float64)
    gates[:, PRIMITIVES[kind].index(op)] = 1
    batched, _, run = FOLDS[kind]
    zero = [torch.zeros(1, dtype=torch.float64)] if kind == "normal" else []
    folded = batched(stack_parameters([layer]), gates, *zero)
    x = torch.randn(2, C, 4, 6, dtype=torch.float64)
    y = run(x, folded._make(tensor[0] for tensor in folded))
    torch.testing.assert_close(y, DEFINITIONS[kind, op](layer[op].state_dict(), x), rtol=1e-12, atol=1e-12)
