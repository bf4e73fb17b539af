"""PyTorch's convolutions replaced by the engine's around a network that knows nothing of it."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.genotype import Genotype
from modnas_fast.networks import DerivedNet
from modnas_fast.ops import fast_convolutions, native
from tests.parity import assert_parity

needs_engine = pytest.mark.skipif(not native.BUILT, reason="the engine is not built")


class Fast(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with fast_convolutions():
            return self.net(x)


class Plain(Fast):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def network(name: str, channels_in: int = 1) -> DerivedNet:
    torch.manual_seed(0)
    return DerivedNet(Genotype.load(name), 1, channels_in).to(memory_format=torch.channels_last)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()

    def counting(name: str, plain):
        def call(*arguments):
            counted[name] += 1
            return plain(*arguments)

        return call

    for name in ("convolution", "convolution_dweight", "depthwise", "depthwise_dweight"):
        monkeypatch.setattr(native, name, counting(name, getattr(native, name)))
    return counted


@pytest.mark.parametrize(("name", "channels_in"), [("modnas-b", 1), ("modnas-ar", 3)])
def test_a_network_and_every_gradient(name: str, channels_in: int) -> None:
    net = network(name, channels_in)
    # A size at which no ReLU mask flips by rounding, which would err by more than this judge allows, PyTorch's as well.
    x = torch.rand(2, channels_in, 32, 24).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert_parity(Fast(net), Plain(net), x, reduction=25 * 48, depth=7 * 40)


@needs_engine
def test_what_runs_where(calls: Counter[str]) -> None:
    net = network("modnas-b")
    Fast(net)(torch.rand(1, 1, 32, 32)).sum().backward()
    assert all(calls[name] for name in ("convolution", "convolution_dweight", "depthwise", "depthwise_dweight"))
    calls.clear()
    net(torch.rand(1, 1, 32, 32)).sum().backward()
    with fast_convolutions():
        x, weight, bias = torch.rand(1, 16, 8, 8), torch.rand(16, 16, 3, 3), torch.rand(16)
        F.conv2d(x, weight, bias, stride=2, padding=1)
        F.conv2d(x, weight, bias)
        F.conv2d(x, weight, bias, padding="same")
        F.conv2d(x, weight, padding=1)
        F.conv2d(x[0], weight, bias, padding=1)
        F.conv2d(x, torch.rand(16, 8, 3, 3), bias, padding=1, groups=2)
        F.conv2d(x, torch.rand(16, 16, 3, 5), bias, padding=(1, 2))
        F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert not calls
    with fast_convolutions():
        y = F.conv2d(x, weight, bias, padding=(1, 1))
    assert calls == {"convolution": 1}
    torch.testing.assert_close(y, F.conv2d(x, weight, bias, padding=1))


@needs_engine
@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_under_autocast(faster: torch.dtype, calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine where float32 is the faster precision, with results in the lower one; PyTorch elsewhere."""
    module = sys.modules["modnas_fast.ops.fast_convolutions"]
    monkeypatch.setattr(module, "convolution_dtype", lambda *_: faster)
    x, weight, bias = torch.rand(1, 16, 8, 8), torch.rand(16, 16, 3, 3) / 12, torch.rand(16)
    with torch.autocast("cpu", torch.bfloat16), fast_convolutions():
        y = F.conv2d(x, weight, bias, padding=1)
    assert y.dtype == torch.bfloat16
    assert calls["convolution"] == (faster == torch.float32)
    torch.testing.assert_close(y.float(), F.conv2d(x, weight, bias, padding=1), rtol=2**-7, atol=0.02)


class ReluTwice(nn.Module):
    """Whose rectified images are read by two convolutions, and by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        r = F.relu(x)
        return self.first(r) * r + self.second(r)


class ReluThenWritten(ReluTwice):
    """Where x is another one by the time of the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        r = F.relu(x)
        x.mul_(3)
        return self.first(r) + self.second(r) + x


@pytest.mark.parametrize("kind", [ReluTwice, ReluThenWritten])
def test_a_relu_before(kind: type[ReluTwice]) -> None:
    torch.manual_seed(0)
    net = kind().to(memory_format=torch.channels_last)
    x = torch.randn(2, 16, 9, 12).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert_parity(Fast(net), Plain(net), x, reduction=25 * 16, depth=12)


@needs_engine
def test_a_relus_own_gradient_stays_where_it_is_wanted() -> None:
    net, hooked = nn.Conv2d(16, 16, 3, padding=1), []
    x = torch.randn(1, 16, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    with fast_convolutions():
        kept = F.relu(x)
        kept.retain_grad()
        net(kept).sum().backward()
        r = F.relu(x)
        r.register_hook(hooked.append)
        net(r).sum().backward()
    torch.testing.assert_close(hooked, [kept.grad])


@needs_engine
def test_a_relu_and_its_convolution_are_one_step_back() -> None:
    x = torch.randn(1, 16, 6, 6).requires_grad_()
    with fast_convolutions():
        y = F.conv2d(F.relu(input=x), torch.randn(16, 16, 3, 3), torch.randn(16), padding=1)
    assert "AccumulateGrad" in y.grad_fn.next_functions[0][0].name()


@needs_engine
def test_compiled_in_one_graph() -> None:
    net = network("modnas-b")
    x = torch.rand(1, 1, 16, 24)
    y = torch.compile(Fast(net), backend="aot_eager", fullgraph=True)(x)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    torch.testing.assert_close(y, net(x))


def test_an_interpolations_gradient_is_in_one_piece() -> None:
    """A slice of a concatenation's gradient, as it arrives, takes ten times as long."""
    x = torch.randn(1, 16, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    layouts = []
    with fast_convolutions():
        y = F.interpolate(x * 1, scale_factor=2, mode="bilinear")
        y.grad_fn.register_prehook(lambda dy: layouts.append(dy[0].is_contiguous(memory_format=torch.channels_last)))
    torch.cat((y, y), dim=1).square().sum().backward()
    assert layouts == [True]
