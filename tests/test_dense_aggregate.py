"""The depth relaxation: the reference against another composition and one-hot; the kernels against it."""

from __future__ import annotations

import pytest
import torch

from modnas_fast.ops import dense_aggregate
from modnas_fast.reference import dense_aggregate_ref
from tests.cases import features, raw
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


def by_kernels(gamma, *features):
    return dense_aggregate(features[:-1], features[-1], gamma)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_kernels(depth: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inputs = raw(depth + 1), *features(depth + 1, (2, 3, 5, 4), dtype, "channels_last")
    assert_parity(by_kernels, aggregate, *inputs, reduction=2 * 3 * 5 * 4, depth=3, precision=dtype, output_dtype=dtype)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("chosen", [0, 2])
def test_kernels_one_hot(chosen: int) -> None:
    """γ's gradient and all but one feature's vanish exactly, and the chosen feature is there to the bit."""
    torch.manual_seed(0)
    gamma, maps = raw(3), features(3, (2, 3, 5, 4))
    with torch.no_grad():
        gamma.fill_(-torch.inf)[chosen] = 0.7
    y = by_kernels(gamma, *maps)
    assert torch.equal(y, maps[chosen])
    dgamma, *dmaps = torch.autograd.grad(y, [gamma, *maps], maps[1])
    assert not dgamma.any()
    assert torch.equal(dmaps[chosen], maps[1])
    assert not any(d.any() for i, d in enumerate(dmaps) if i != chosen)
