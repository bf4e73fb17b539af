"""The depth relaxation: against another composition, and one-hot."""

from __future__ import annotations

import pytest
import torch

from modnas_fast.reference import dense_aggregate_ref
from tests.parity import assert_parity


def by_einsum(gamma, *features):
    return torch.einsum("i,inchw->nchw", gamma.exp() / gamma.exp().sum(), torch.stack(features))


def aggregate(gamma, *features):
    return dense_aggregate_ref(features[:-1], features[-1], gamma)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_aggregate_against_einsum(depth: int) -> None:
    torch.manual_seed(0)
    gamma = torch.randn(depth + 1).requires_grad_()
    features = [torch.randn(2, 3, 5, 4).requires_grad_() for _ in range(depth + 1)]
    assert_parity(aggregate, by_einsum, gamma, *features, reduction=2 * 3 * 5 * 4, depth=3)


def test_aggregate_gradcheck() -> None:
    torch.manual_seed(0)
    shapes = [(3,)] + 3 * [(1, 2, 2, 3)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(aggregate, inputs)


@pytest.mark.parametrize("chosen", [0, 1, 2, 3])
def test_one_hot_gamma_is_that_feature_alone(chosen: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 2, 3, 5, 4)
    gamma = torch.full((4,), -torch.inf)
    gamma[chosen] = 0
    assert torch.equal(aggregate(gamma, *features), features[chosen])


def test_features_and_weights_must_pair_up() -> None:
    with pytest.raises(ValueError, match="zip"):
        dense_aggregate_ref([torch.zeros(1, 1, 1, 1)], torch.zeros(1, 1, 1, 1), torch.zeros(3))
