"""One gate a channel: the reference against another composition; the kernels against it."""

from __future__ import annotations

import pytest
import torch

from modnas_fast.ops import channel_gate
from modnas_fast.reference import channel_gate_ref
from tests.cases import LAYOUTS, features, raw
from tests.parity import assert_parity


def by_einsum(x, beta):
    return torch.einsum("nchw,c->nchw", x, beta)


def test_gate_against_einsum() -> None:
    torch.manual_seed(0)
    x, beta = torch.randn(2, 3, 5, 4).requires_grad_(), torch.randn(3).requires_grad_()
    assert_parity(channel_gate_ref, by_einsum, x, beta, reduction=2 * 5 * 4)
    assert torch.autograd.gradcheck(channel_gate_ref, (x.double(), beta.double()))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels(layout: str) -> None:
    torch.manual_seed(0)
    assert_parity(channel_gate, channel_gate_ref, *features(1, (3, 5, 7, 11), layout=layout), raw(5), reduction=231)


@pytest.mark.usefixtures("kernels")
def test_a_closed_gate_lets_nothing_through_either_way() -> None:
    (x,), beta = features(1, (2, 3, 5, 4)), raw(3)
    with torch.no_grad():
        beta.copy_(torch.tensor([1.0, 0.0, 2.0]))
    y = channel_gate(x, beta)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, torch.stack([x[:, 0], torch.zeros_like(x[:, 0]), 2 * x[:, 2]], dim=1))
    assert torch.equal(dx, beta.detach()[:, None, None].expand_as(dx))
