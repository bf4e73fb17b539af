"""The supernet: every backend against the float64 reference, and discretised against the derived network."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import PRIMITIVES, Block, Genotype, Layer, Skip
from modnas_fast.networks import DerivedNet
from modnas_fast.ops import precision, use_backend
from modnas_fast.search import SuperNet
from tests.cases import random_genotype
from tests.parity import assert_parity

EVERYWHERE = 1e4  # a raw α or γ so far above the others that softmax is exactly one-hot


def lively(net: SuperNet, seed: int = 0) -> SuperNet:
    """Random everything: no two candidates, channels or depths count the same, and no unit is dead."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low

    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("architecture.") or name.endswith("delta"):
                low, high = (0.2, 1.8) if name.endswith("beta") else (-1.0, 1.0)
                parameter.copy_(uniform(parameter, low, high))
            elif name.endswith("bias"):
                parameter.copy_(uniform(parameter, -0.1, 0.5))
            else:
                parameter.copy_(uniform(parameter, -1, 1) * 3 / parameter[0].numel() ** 0.5)
    return net


def pair(dtype: torch.dtype = torch.float64, **sizes: Any) -> tuple[SuperNet, SuperNet]:
    """The same network on `folded` and on `reference`."""
    reference = lively(SuperNet(backend="reference", **sizes)).to(dtype)
    folded = SuperNet(backend="folded", **sizes).to(dtype)
    folded.load_state_dict(reference.state_dict())
    return folded, reference


def image(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def one_hot(net: SuperNet, genotype: Genotype) -> None:
    """Set α and γ to `genotype`'s choices and β to 1."""
    with torch.no_grad():
        for raw, (_, block) in zip(net.architecture.blocks(), genotype.blocks(), strict=True):
            for depth, (parameters, layer) in enumerate(zip(raw.layers, block.layers, strict=True), start=1):
                parameters.gamma.zero_()[layer.source if isinstance(layer, Skip) else depth] = EVERYWHERE
                if isinstance(layer, Layer):
                    parameters.alpha.zero_()[PRIMITIVES["normal"].index(layer.op)] = EVERYWHERE
                parameters.beta.fill_(1)
            if block.resample is not None:
                kind = "down" if raw.down is not None else "up"
                raw.resample.alpha.zero_()[PRIMITIVES[kind].index(block.resample.op)] = EVERYWHERE
                raw.resample.beta.fill_(1)


def of_width(genotype: Genotype, channels: int) -> Genotype:
    """The same operations and depths, every layer `channels` wide."""

    def widened(layer: Layer | Skip | None) -> Layer | Skip | None:
        return Layer(layer.op, channels) if isinstance(layer, Layer) else layer

    blocks = [Block(tuple(map(widened, block.layers)), widened(block.resample)) for _, block in genotype.blocks()]
    return Genotype(channels, tuple(blocks[:3]), tuple(blocks[3:]))


def inherit(net: SuperNet, genotype: Genotype) -> DerivedNet:
    """The derived network with the supernet's weights, by the names alone."""
    derived = DerivedNet(genotype, len(net.stages), net.channels_in).to(next(net.parameters()).dtype)
    source, state = net.state_dict(), {}
    for key in derived.state_dict():
        place = re.match(r"(stages\.\d+\.)(encoder|decoder)\.(\d)\.(?:layers\.(\d)|(down|up))\.", key)
        if place is None:
            state[key] = source[key]
            continue
        block = getattr(genotype, place[2])[int(place[3])]
        op = block.resample.op if place[4] is None else block.layers[int(place[4])].op
        state[key] = source[f"{place[0]}{op}.{key[place.end() :]}"]
    derived.load_state_dict(state)
    return derived


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({"stages": 2, "channels": 4}, (2, 1, 19, 13)),
        ({"stages": 1, "channels": 5, "channels_in": 3}, (1, 3, 16, 8)),
        ({"stages": 1, "channels": 8}, (1, 1, 9, 24)),
        ({"stages": 2, "channels": 4, "depth_search": "skip"}, (2, 1, 16, 9)),
    ],
)
def test_folded_equals_reference_in_every_parameter(sizes: dict[str, Any], shape: tuple[int, ...]) -> None:
    reason = "1e-12 is asked for; 1e-14 is usual"
    report = assert_parity(*pair(**sizes), image(*shape).requires_grad_(), reduction=1, tolerance=1e-12, reason=reason)
    assert len(report.rows) == 2 + len(list(SuperNet(**sizes).parameters()))
    assert not [row.name for row in report.rows if row.note], "a gradient that is exactly zero shows nothing"


def test_a_skip_candidate_is_one_more_candidate_that_weighs_its_input() -> None:
    """Softmax over eight, the identity among them, against the α and γ weights that stand for it."""
    net = lively(SuperNet(1, 4, depth_search="skip")).double()
    assert not [name for name, _ in net.named_parameters() if name.endswith("gamma")]
    for block in net.architecture.blocks():
        for depth, layer in enumerate(block.normal_layers(), 1):
            share, omega, p = layer.alpha.softmax(0), layer.alpha_weights, layer.gamma_weights
            assert omega.shape == (7,)
            assert p.shape == (depth + 1,)
            torch.testing.assert_close(omega * p[-1], share[:7], rtol=1e-12, atol=0)
            torch.testing.assert_close(p[-2], share[7], rtol=1e-12, atol=0)
            assert not p[:-2].any()
    for depth, rows in enumerate(net.architecture.gamma_weights()):
        for row, block in zip(rows, net.architecture.blocks(), strict=True):
            torch.testing.assert_close(row, list(block.normal_layers())[depth].gamma_weights)


@pytest.mark.parametrize("backend", ["reference", "folded"])
def test_skip_candidates_everywhere_leave_what_resampling_makes(backend: str) -> None:
    net = lively(SuperNet(1, 4, backend=backend, depth_search="skip")).double()
    with torch.no_grad():
        for raw in net.architecture.mixtures("normal"):
            raw.alpha[7] = EVERYWHERE
    y = image(1, 1, 16, 8)
    before = net(y)
    with torch.no_grad():
        for block in net.stages[0].blocks():
            for layer in block.normal_layers():
                for parameter in layer.parameters():
                    parameter.add_(1)
    assert torch.equal(net(y), before)


def test_depth_is_searched_densely_or_by_skips() -> None:
    with pytest.raises(ModnasError, match="choose dense or skip"):
        SuperNet(1, 4, depth_search="none")


def test_folded_equals_reference_in_float32() -> None:
    folded, reference = pair(torch.float32, stages=2, channels=4)
    y = image(2, 1, 16, 24, dtype=torch.float32).requires_grad_()
    assert_parity(folded, reference, y, reduction=25 * 4, depth=60)


def test_folded_equals_reference_after_one_adam_step() -> None:
    """What training sees: the same loss and the same next weights, in fp32 channels_last."""
    nets = pair(torch.float32, stages=1, channels=4)
    losses = []
    for net in nets:
        net.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.weight_parameters(), 0.1)
        for _ in range(2):
            loss = (net(image(2, 1, 16, 16, dtype=torch.float32)) - 0.5).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for (name, mine), theirs in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("fast", [True, False], ids=["fast bfloat16", "slow bfloat16"])
def test_bfloat16_autocast(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_is_faster", lambda dtype: fast)
    for net in pair(torch.float32, stages=2, channels=8):
        net.to(memory_format=torch.channels_last)
        y = image(2, 1, 24, 16, dtype=torch.float32)
        exact = net(y)
        with torch.autocast("cpu", torch.bfloat16):
            x = net(y)
        assert x.dtype == torch.float32  # δ·y keeps the image's precision
        assert (x - exact).norm() < 0.02 * exact.norm()
        assert not torch.equal(x, exact)
        x.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in net.parameters())


@pytest.mark.parametrize("backend", ["reference", "folded"])
@pytest.mark.parametrize("seed", range(4))
def test_one_hot_equals_the_derived_network(seed: int, backend: str) -> None:
    net = lively(SuperNet(stages=2, channels=4, channels_in=1 + 2 * (seed % 2), backend=backend).double(), seed)
    genotype = of_width(random_genotype(seed), 4)
    one_hot(net, genotype)
    y = image(2, net.channels_in, 11, 17)
    x = net(y)
    torch.testing.assert_close(x, inherit(net, genotype)(y), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(x, inherit(net, of_width(random_genotype(seed + 4), 4))(y), rtol=1e-3)


def test_one_hot_parity_of_gradients() -> None:
    """Where softmax is saturated: most gradients are exactly zero, and must be so in both."""
    folded, reference = pair(stages=1, channels=4)
    for net in (folded, reference):
        one_hot(net, of_width(random_genotype(1), 4))
    report = assert_parity(folded, reference, image(1, 1, 16, 16).requires_grad_(), reduction=1000, depth=100)
    zeros = sum(bool(row.note) for row in report.rows)
    assert 0 < zeros < len(report.rows) - 20


def test_state_dicts_name_everything_as_documented() -> None:
    folded, reference = SuperNet(2, 4, backend="folded"), SuperNet(2, 4, backend="reference")
    shapes = {key: tuple(value.shape) for key, value in folded.state_dict().items()}
    assert shapes == {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    assert set(shapes) == {name for name, _ in folded.named_parameters()}
    assert shapes["architecture.encoder.0.layers.1.alpha"] == (7,)
    assert shapes["architecture.encoder.0.layers.1.beta"] == (7, 4)
    assert [shapes[f"architecture.decoder.3.layers.{i}.gamma"] for i in range(3)] == [(2,), (3,), (4,)]
    assert shapes["architecture.encoder.2.down.beta"] == (4, 4)
    assert shapes["architecture.decoder.0.up.alpha"] == (5,)
    assert shapes["stages.1.delta"] == ()
    assert shapes["stages.1.encoder.0.layers.2.res_block_3x3.shortcut.weight"] == (4, 4, 1, 1)
    assert shapes["stages.0.decoder.1.fuse.weight"] == (4, 8, 3, 3)
    architecture = {id(p) for p in folded.architecture_parameters()}
    weights = {id(p) for p in folded.weight_parameters()}
    assert not architecture & weights
    assert architecture | weights == {id(p) for p in folded.parameters()}


def test_what_the_raw_parameters_start_as() -> None:
    net = SuperNet(1, 4)
    for block in net.architecture.blocks():
        for layer in (*block.layers, *([block.resample] if block.resample is not None else [])):
            assert torch.equal(layer.beta, torch.ones_like(layer.beta))
            assert torch.equal(layer.alpha_weights, torch.full_like(layer.alpha, 1 / len(layer.alpha)))
        for depth, layer in enumerate(block.layers, start=1):
            assert torch.equal(layer.gamma_weights, torch.full((depth + 1,), 1 / (depth + 1)))
    assert net.stages[0].delta.sigmoid() == 0.5


def test_live_networks_can_be_switched_copied_cast_and_loaded() -> None:
    net = lively(SuperNet(1, 4))
    y = image(1, 1, 8, 8, dtype=torch.float32)
    folded = net(y)
    net.backend = "reference"
    torch.testing.assert_close(net(y), folded)
    assert not torch.equal(net(y), folded), "switching ran the same code"
    net.backend = "folded"
    twin = copy.deepcopy(net)
    assert torch.equal(twin(y), folded)
    lively(twin, seed=9)
    assert not torch.equal(twin(y), folded)
    assert torch.equal(net(y), folded), "the copy shares memory with the original"
    double = copy.deepcopy(net).double()
    torch.testing.assert_close(double(y.double()).float(), folded)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(y), folded)
    with use_backend("reference"):
        assert not torch.equal(net(y), folded)


def test_frozen_halves_get_no_gradients() -> None:
    folded, reference = pair(stages=1, channels=4)
    y = image(1, 1, 8, 16)
    for frozen in ("stages", "architecture"):
        for net in (folded, reference):
            net.requires_grad_(True).zero_grad()
            getattr(net, frozen).requires_grad_(False)
            net(y).square().mean().backward()
        for (name, mine), theirs in zip(folded.named_parameters(), reference.parameters(), strict=True):
            assert (mine.grad is None) == name.startswith(frozen) == (theirs.grad is None)
            if mine.grad is not None:
                torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-13)


def test_padding_is_replication_cropped_back() -> None:
    net = lively(SuperNet(1, 4).double())
    y = image(1, 1, 5, 11)
    padded = nn.functional.pad(y, (0, 5, 0, 3), mode="replicate")
    assert torch.equal(net(y), net(padded)[..., :5, :11])


def test_torch_compile_takes_the_whole_network() -> None:
    folded, reference = pair(torch.float32, stages=1, channels=2)
    compiled = torch.compile(folded, fullgraph=True, backend="eager")
    y = image(1, 1, 8, 8, dtype=torch.float32)
    assert_parity(compiled, reference, y, reduction=25 * 2, depth=60)


def test_bad_arguments_are_named() -> None:
    for name in ("stages", "channels", "channels_in"):
        with pytest.raises(ModnasError, match=f"{name} is 0; it must be at least 1"):
            SuperNet(**{name: 0})
    with pytest.raises(ModnasError, match="no backend 'fast'"):
        SuperNet(backend="fast")
    with pytest.raises(ModnasError, match="'fused' cannot run on meta"):
        SuperNet(1, 2, backend="fused").to("meta")(image(1, 1, 8, 8).to("meta"))
    with pytest.raises(ModnasError, match="expected float images"):
        SuperNet(1, 2)(image(1, 3, 8, 8))
