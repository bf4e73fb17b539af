"""Mixture and depth relaxation at once: the reference against another composition; the kernels against it."""

from __future__ import annotations

import pytest
import torch

from modnas_fast.errors import ModnasError
from modnas_fast.ops import dense_aggregate, mixed_aggregate, mixed_op
from modnas_fast.reference import mixed_aggregate_ref
from tests.cases import LAYOUTS, features, raw
from tests.parity import assert_parity


def on_flat(function):
    """As a function of α, β, γ, then candidates, then history."""

    def flat(alpha, beta, gamma, *maps):
        return function(maps[len(alpha) :], maps[: len(alpha)], alpha, beta, gamma)

    return flat


def by_einsum(history, candidates, alpha, beta, gamma):
    p = gamma.softmax(0)
    gates = p[-1] * alpha.softmax(0)[:, None] * beta
    mixture = torch.einsum("kc,knchw->nchw", gates, torch.stack(candidates))
    return mixture + torch.einsum("i,inchw->nchw", p[:-1], torch.stack(history))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_normal_layer_against_einsum(depth: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(s).requires_grad_() for s in ((4,), (4, 3), (depth + 1,), *((4 + depth) * [(2, 3, 5, 4)]))]
    assert_parity(on_flat(mixed_aggregate_ref), on_flat(by_einsum), *inputs, reduction=2 * 3 * 20 * 7, depth=4)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("K", "depth", "dtype"),
    [
        (7, 3, torch.float32),
        (7, 3, torch.bfloat16),
        (7, 2, torch.float32),
        (7, 1, torch.float16),
        (5, 2, torch.bfloat16),
        (4, 1, torch.float32),
    ],
)
def test_kernels(K: int, depth: int, dtype: torch.dtype, layout: str) -> None:
    torch.manual_seed(0)
    inputs = raw(K), raw(K, 6), raw(depth + 1), *features(K + depth, (2, 6, 5, 7), dtype, layout)
    assert_parity(
        on_flat(mixed_aggregate),
        on_flat(mixed_aggregate_ref),
        *inputs,
        reduction=2 * 6 * 5 * 7 * (K + depth),
        depth=4,
        precision=dtype,
        output_dtype=dtype,
    )


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("chosen", [0, 2])
def test_kernels_one_hot(chosen: int) -> None:
    """Candidate 1 alone, or L⁰ alone: to the bit, and every gradient that vanishes vanishes exactly."""
    torch.manual_seed(0)
    alpha, beta, gamma, maps = raw(3), raw(3, 4), raw(3), features(5, (2, 4, 3, 5))
    with torch.no_grad():
        alpha.fill_(-1e4)[1] = 1e4
        gamma.fill_(-1e4)[chosen] = 1e4
        beta.fill_(1)
    y = on_flat(mixed_aggregate)(alpha, beta, gamma, *maps)
    survivor = 1 if chosen == 2 else 3
    assert torch.equal(y, maps[survivor])
    dalpha, dbeta, dgamma, *dmaps = torch.autograd.grad(y, [alpha, beta, gamma, *maps], maps[2])
    assert not dalpha.any()
    assert not dgamma.any()
    assert [k for k in range(3) if dbeta[k].any()] == ([1] if chosen == 2 else [])
    assert [i for i in range(5) if dmaps[i].any()] == [survivor]


@pytest.mark.usefixtures("kernels")
def test_kernels_equal_the_two_in_turn() -> None:
    torch.manual_seed(0)
    alpha, beta, gamma, maps = raw(4), raw(4, 5), raw(4), features(7, (2, 5, 7, 6), layout="channels_last")
    fused = mixed_aggregate(maps[4:], maps[:4], alpha, beta, gamma)
    torch.testing.assert_close(fused, dense_aggregate(maps[4:], mixed_op(maps[:4], alpha, beta), gamma))


@pytest.mark.usefixtures("kernels")
def test_kernels_refuse_parameters_that_do_not_fit() -> None:
    alpha, beta, gamma, maps = raw(2), raw(2, 3), raw(3), features(4, (1, 3, 4, 5))
    with pytest.raises(ModnasError, match=r"mixed_aggregate takes gamma of shape \[3\], got \[2\]"):
        mixed_aggregate(maps[2:], maps[:2], alpha, beta, raw(2))
    with pytest.raises(ModnasError, match=r"mixed_aggregate takes beta of shape \[2, 3\], got \[3, 3\]"):
        mixed_aggregate(maps[2:], maps[:2], alpha, raw(3, 3), gamma)
    with pytest.raises(ModnasError, match="mixed_aggregate needs at least one tensor"):
        mixed_aggregate(maps[2:], [], alpha, beta, gamma)
