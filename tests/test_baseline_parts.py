"""What the baselines are made of: neighbours, windows, memories, bases, cells, and BM3D's package."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from modnas_fast.errors import ModnasError
from modnas_fast.networks.baselines import count
from modnas_fast.networks.baselines.bm3d import BM3D
from modnas_fast.networks.baselines.dpdnn import DPDNN
from modnas_fast.networks.baselines.focnet import memory_weights
from modnas_fast.networks.baselines.hinas import HiNAS
from modnas_fast.networks.baselines.n3net import NeuralNeighbours, _neighbourhoods, log1mexp
from modnas_fast.networks.baselines.scunet import WindowAttention
from modnas_fast.networks.baselines.tnrd import TNRD, cosine_basis


def test_neighbourhoods_equal_the_definition() -> None:
    rows, columns = 17, 20
    expected = []
    for row in range(rows):
        for column in range(columns):
            top, left = min(max(row - 7, 0), rows - 15), min(max(column - 7, 0), columns - 15)
            square = [(top + i) * columns + left + j for i in range(15) for j in range(15)]
            expected.append([place for place in square if place != row * columns + column])
    assert _neighbourhoods(rows, columns, torch.device("cpu")).tolist() == expected
    assert _neighbourhoods(3, 3, torch.device("cpu"))[4].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_cold_neighbours_are_the_nearest_patches() -> None:
    """At a temperature near 0 the j-th neighbour image is made of the j-th nearest patches: exact repeats come back."""
    tile = torch.rand(1, 8, 10, 10, generator=torch.Generator().manual_seed(3))
    x = tile.repeat(1, 1, 4, 4)
    block = NeuralNeighbours().eval()
    with torch.no_grad():
        block.embedcnn, block.tempcnn = nn.Identity(), nn.Conv2d(8, 1, 1)
        block.tempcnn.weight.zero_()
        block.tempcnn.bias.fill_(math.log(1e-3))
        out = block(x)
    assert torch.equal(out[:, :8], x)
    torch.testing.assert_close(out[:, 8:16], torch.zeros_like(x), rtol=0, atol=0.15)  # a mean over equals
    assert out[:, 8:].abs().mean() < 0.01


def test_log1mexp() -> None:
    x = torch.tensor([-1e-9, -1e-3, -0.6, -0.8, -5.0, -800.0, -math.inf], dtype=torch.float64)
    exact = torch.tensor([math.log(-math.expm1(value)) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(log1mexp(x), exact)
    at_zero = torch.zeros(1, requires_grad=True)
    log1mexp(at_zero).sum().backward()
    assert at_zero.grad is not None
    assert torch.isfinite(at_zero.grad).all()


def test_shifted_windows_do_not_see_across_the_image() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(32, shifted=True)
    for place, seen in (((0, 0), (0, 4)), ((5, 5), (4, 12)), ((15, 15), (12, 16))):
        x = torch.rand(1, 16, 16, 32, requires_grad=True)
        (gradient,) = torch.autograd.grad(attention(x)[0, place[0], place[1]].sum(), x)
        region = torch.zeros(16, 16, dtype=torch.bool)
        region[seen[0] : seen[1], seen[0] : seen[1]] = True
        assert torch.equal(gradient[0].abs().sum(-1) > 0, region)


def test_windows_know_where_pixels_lie() -> None:
    attention = WindowAttention(64, shifted=False)
    positions = attention._positions()
    for head, first, second in ((0, (0, 0), (7, 7)), (1, (3, 6), (2, 1)), (1, (5, 5), (5, 5))):
        offset = (first[0] - second[0] + 7, first[1] - second[1] + 7)
        value = positions[head, 8 * first[0] + first[1], 8 * second[0] + second[1]]
        assert value == attention.relative_position_params[head, offset[0], offset[1]]


def test_memory_follows_the_power_law() -> None:
    """The released definition's table: 0.2, 0.08, 0.048, 0.0336, … from the newest on."""
    weights = memory_weights(4)
    assert [round(weight / weights[-1] * 0.2, 4) for weight in weights] == [0.0336, 0.048, 0.08, 0.2]
    assert math.isclose(sum(weights), 1)


def test_unfolded_networks_start_from_the_noisy_image() -> None:
    y = torch.rand(1, 1, 16, 16)
    net, diffusion = DPDNN(), TNRD()
    with torch.no_grad():
        net.out.weight.zero_()
        net.out.bias.zero_()
        for step in diffusion.steps:
            step.weights.zero_()
        torch.testing.assert_close(net(y), y)
        torch.testing.assert_close(diffusion(y), y)


def test_cosine_basis_is_orthonormal_and_blind_to_the_mean() -> None:
    basis = cosine_basis(7)
    torch.testing.assert_close(basis @ basis.T, torch.eye(48), rtol=0, atol=1e-6)
    torch.testing.assert_close(basis.sum(1), torch.zeros(48), rtol=0, atol=1e-5)


def test_searched_cells_are_an_argument() -> None:
    cell = (("sep_conv_5x5", 0), ("dil_conv_5x5", 1), *(("dil_conv_3x3", 2), ("sep_conv_3x3", 1)) * 3)
    assert HiNAS(cells=(cell,) * 3)(torch.rand(1, 1, 9, 9)).shape == (1, 1, 9, 9)


def test_bm3d_denoises() -> None:
    pytest.importorskip("bm3d", reason="the package bm3d (extra `baselines`) is not installed")
    clean = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    for channels_in in (1, 3):
        y = clean.repeat(1, channels_in, 1, 1)
        noisy = y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(4))
        x = BM3D(channels_in)(noisy, 25.5)
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert (x - y).square().mean() < 0.2 * (noisy - y).square().mean()
    assert BM3D()(torch.rand(2, 1, 3, 5), torch.tensor([5.0, 50.0])).shape == (2, 1, 3, 5)
    assert torch.isfinite(BM3D(3)(torch.rand(1, 1, 8, 8).repeat(1, 3, 1, 1), 25)).all()  # no chroma
    assert count("bm3d") is None


def test_bm3d_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(ModnasError, match=r"pip install bm3d$"):
        BM3D()(torch.rand(1, 1, 16, 16), 25)
    pyproject = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert "\nbaselines = [" in pyproject
