"""The scaled start of the supernet and of derived networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modnas_fast.genotype import PRIMITIVES, Genotype
from modnas_fast.layers import MixedOp
from modnas_fast.networks import ConditionedNet, DerivedNet
from modnas_fast.networks import initial as derived
from modnas_fast.search.config import SearchConfig
from modnas_fast.search.initial import scale_weights
from modnas_fast.search.loop import _build_supernet
from modnas_fast.search.supernet import SuperNet
from modnas_fast.training import TrainConfig
from modnas_fast.training.loop import _build_net


def spreads(net: SuperNet | DerivedNet) -> list[float]:
    """How much what each block's last normal layer gives changes from pixel to pixel, over what the stem's does."""
    found: list[float] = []

    def look(module: nn.Module, inputs: object, output: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> None:
        feature = output[0] if isinstance(output, tuple) else output
        found.append(float(feature.std((0, 2, 3)).mean()))

    stage = net.stages[0]
    for block in stage.blocks() if isinstance(net, SuperNet) else (*stage.encoder, *stage.decoder):
        block.register_forward_hook(look)
    stem = stage.stem[1].register_forward_hook(look)
    with torch.no_grad():
        net(torch.randn(2, 1, 64, 64))
    stem.remove()
    return [value / found[0] for value in found[1:]]


@pytest.mark.parametrize("seed", [0, 1])
def test_signals_stay_through_all_blocks(seed: int) -> None:
    torch.manual_seed(seed)
    net = SuperNet(1, 24, backend="reference")
    assert min(spreads(net)) < 0.01  # PyTorch's start, which is what is wrong
    scale_weights(net)
    assert len(spreads(net)) == 7
    assert all(0.03 < spread < 3 for spread in spreads(net))


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_a_mixture_keeps_the_variance(kind: str) -> None:
    """Of a normal map through a whole layer, the mean over its candidates; interpolating takes its part of noise."""
    torch.manual_seed(0)
    net = SuperNet(1, 48)
    scale_weights(net)
    layers = [
        module for module in net.modules() if isinstance(module, MixedOp) and list(module) == list(PRIMITIVES[kind])
    ]
    with torch.no_grad():
        x = torch.randn(2, 48, 32, 32)
        variances = [float(torch.stack(layer(x)).mean(0).var()) for layer in layers]
    assert min(variances) > 0.3
    assert max(variances) < 3


def test_every_convolution_is_drawn_and_nothing_else() -> None:
    net = SuperNet(2, 8)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    scale_weights(net)
    for name, value in net.state_dict().items():
        if name.startswith("architecture") or name.endswith("delta"):
            assert torch.equal(value, kept[name]), name
        elif name.endswith("bias"):
            assert not value.any(), name
        else:
            assert not torch.equal(value, kept[name]), name


@pytest.mark.parametrize("name", ["modnas-b", "modnas-ar"])
def test_signals_stay_through_a_derived_network(name: str) -> None:
    torch.manual_seed(0)
    net = DerivedNet(Genotype.load(name))
    assert min(spreads(net)) < 0.05
    derived.scale_weights(net)
    assert all(0.1 < spread < 10 for spread in spreads(net))


@pytest.mark.parametrize("kind", [DerivedNet, ConditionedNet])
def test_every_convolution_of_a_derived_network_is_drawn(kind: type[DerivedNet]) -> None:
    net = kind(Genotype.load("modnas-ar"), 2, 3)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    derived.scale_weights(net)
    for name, value in net.state_dict().items():
        if name.endswith(("delta", "log_lambda", "level_weight")):
            assert torch.equal(value, kept[name]), name
        elif name.endswith("bias"):
            assert not value.any(), name
        else:
            assert not torch.equal(value, kept[name]), name


def test_a_training_asks_for_it() -> None:
    def first(scaled: bool) -> torch.Tensor:
        torch.manual_seed(0)
        return _build_net(TrainConfig("run", ("data",), steps=1, scaled_start=scaled)).get_parameter(
            "stages.0.out.bias"
        )

    assert not first(True).any()
    assert first(False).any()


def test_a_search_asks_for_it() -> None:
    def first(scaled: bool) -> torch.Tensor:
        torch.manual_seed(0)
        config = SearchConfig("run", ("data",), channels=8, stages=1, scaled_start=scaled)
        return _build_supernet(config).stages[0].get_parameter("stem.0.bias")

    assert not first(True).any()
    assert first(False).any()
