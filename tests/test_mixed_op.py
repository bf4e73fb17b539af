"""The mixture of candidates: the reference against another composition and one-hot; the kernels against it."""

from __future__ import annotations

import pytest
import torch

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import PRIMITIVES
from modnas_fast.layers import MixedOp
from modnas_fast.ops import mixed_op
from modnas_fast.reference import mixed_op_ref
from tests.cases import LAYOUTS, features, raw
from tests.parity import assert_parity
from tests.test_operations import DEFINITIONS


def by_einsum(alpha, beta, *candidates):
    omega = alpha.exp() / alpha.exp().sum()
    return torch.einsum("k,kc,knchw->nchw", omega, beta, torch.stack(candidates))


def mixture(alpha, beta, *candidates):
    return mixed_op_ref(candidates, alpha, beta)


@pytest.mark.parametrize(("K", "C", "size"), [(7, 3, (5, 4)), (4, 1, (1, 1)), (1, 2, (3, 7))])
def test_mixture_against_einsum(K: int, C: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    alpha, beta = torch.randn(K).requires_grad_(), torch.randn(K, C).requires_grad_()
    candidates = [torch.randn(2, C, *size).requires_grad_() for _ in range(K)]
    assert_parity(mixture, by_einsum, alpha, beta, *candidates, reduction=2 * C * size[0] * size[1] * K, depth=3)


def test_mixture_gradcheck() -> None:
    torch.manual_seed(0)
    shapes = [(3,), (3, 2)] + 3 * [(1, 2, 2, 3)]
    assert torch.autograd.gradcheck(mixture, [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes])


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_one_hot_alpha_is_that_primitive_alone(kind: str) -> None:
    torch.manual_seed(0)
    C = 3
    layer = MixedOp(kind, C).double()
    assert tuple(layer) == PRIMITIVES[kind]
    x = torch.randn(2, C, 6, 8, dtype=torch.float64)
    for k, op in enumerate(PRIMITIVES[kind]):
        alpha = torch.full((len(layer),), -torch.inf, dtype=torch.float64)
        alpha[k] = 0
        z = mixed_op_ref(layer(x), alpha, torch.ones(len(layer), C, dtype=torch.float64))
        torch.testing.assert_close(z, DEFINITIONS[kind, op](layer[op].state_dict(), x), rtol=1e-12, atol=1e-12)


def test_half_precision_candidates_stay_half_precision() -> None:
    candidates = [torch.randn(1, 2, 3, 3).bfloat16() for _ in range(2)]
    assert mixed_op_ref(candidates, torch.zeros(2), torch.ones(2, 2)).dtype == torch.bfloat16


def by_kernels(alpha, beta, *candidates):
    return mixed_op(candidates, alpha, beta)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("K", "dtype"),
    [
        (1, torch.float32),
        (7, torch.float32),
        (7, torch.float16),
        (7, torch.bfloat16),
        (5, torch.float32),
        (4, torch.bfloat16),
    ],
)
def test_kernels(K: int, dtype: torch.dtype, layout: str) -> None:
    torch.manual_seed(0)
    inputs = raw(K), raw(K, 6), *features(K, (2, 6, 5, 7), dtype, layout)
    reduction = 2 * 6 * 5 * 7 * K
    assert_parity(by_kernels, mixture, *inputs, reduction=reduction, depth=3, precision=dtype, output_dtype=dtype)


@pytest.mark.usefixtures("kernels")
def test_kernels_one_hot() -> None:
    """α's gradient and all but one candidate's vanish exactly, and the chosen candidate is there to the bit."""
    alpha, beta, candidates = raw(5), raw(5, 3), features(5, (2, 3, 4, 5))
    with torch.no_grad():
        alpha.fill_(-1e4)[2] = 1e4
        beta.fill_(1)
    z = mixed_op(candidates, alpha, beta)
    assert torch.equal(z, candidates[2])
    dz = torch.randn_like(z)
    dalpha, dbeta, *dcandidates = torch.autograd.grad(z, [alpha, beta, *candidates], dz)
    assert not dalpha.any()
    assert [k for k in range(5) if dbeta[k].any()] == [k for k in range(5) if dcandidates[k].any()] == [2]
    assert torch.equal(dcandidates[2], dz)


@pytest.mark.usefixtures("kernels")
def test_kernels_refuse_parameters_that_do_not_fit() -> None:
    alpha, beta, candidates = raw(2), raw(2, 3), features(2, (1, 3, 4, 5))
    with pytest.raises(ModnasError, match=r"mixed_op takes alpha of shape \[2\], got \[3\]"):
        mixed_op(candidates, raw(3), beta)
    with pytest.raises(ModnasError, match=r"mixed_op takes beta of shape \[2, 3\], got \[2, 4\]"):
        mixed_op(candidates, alpha, raw(2, 4))
    with pytest.raises(ModnasError, match="mixed_op needs at least one tensor"):
        mixed_op([], alpha, beta)
