"""The expected cost: against the derived network's own counts, enumeration, finite differences; the width estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import PRIMITIVES, Block, Layer, Skip
from modnas_fast.layers import build_operation
from modnas_fast.networks.summary import summarize
from modnas_fast.search.architecture import DEPTH_SEARCHES, Architecture
from modnas_fast.search.cost import count_table, expected_cost, kept_share, stage_cost
from modnas_fast.search.derive import derive
from tests.cases import SKIP_PATTERNS

CHANNELS = 12
KINDS = ("macs", "parameters")


@pytest.fixture(scope="module")
def tables():
    return {kind: count_table(kind, CHANNELS) for kind in KINDS}


def random_architecture(seed, spread=1.0):
    random = torch.Generator().manual_seed(seed)
    architecture = Architecture(CHANNELS).double()
    with torch.no_grad():
        for raw in architecture.parameters():
            raw.add_(torch.randn(raw.shape, generator=random, dtype=torch.float64), alpha=spread)
    return architecture


def decided_architecture(seed, depth_search="dense"):
    """One-hot ω and p, and of every operation's gates 2, 4, … equal ones among zeros."""
    random = np.random.default_rng(seed)
    architecture = Architecture(CHANNELS, depth_search).double()
    with torch.no_grad():
        for name, raw in architecture.named_parameters():
            if name.endswith("beta"):
                for gates in raw:
                    gates[random.permutation(CHANNELS)[: 2 * random.integers(0, CHANNELS // 2)]] = 0
                raw.mul_(-0.7)
            else:
                raw[random.integers(len(raw))] = 1e4
    return architecture


def derived_macs(architecture):
    return summarize(derive(architecture, multiple=1).genotype).macs


@pytest.mark.parametrize("depth_search", DEPTH_SEARCHES)
@pytest.mark.parametrize("channels_in", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_decided_architecture_costs_what_its_network_does(kind, channels_in, depth_search):
    table = count_table(kind, CHANNELS, channels_in, size=16)
    for seed in range(4):
        architecture = decided_architecture(seed, depth_search)
        genotype = derive(architecture, keep=1.0, multiple=2).genotype
        count = getattr(summarize(genotype, 1, channels_in, 16, 16), kind)
        cost = stage_cost(architecture, table).item()
        assert round(cost) == count
        assert cost == pytest.approx(count, rel=1e-12)
        assert expected_cost(architecture, table).item() == pytest.approx(count / table.initial)


def test_counts_hold_at_full_width_and_scale(tables):
    """C = 48 from laws sampled elsewhere, and MACs in proportion to the image."""
    architecture = Architecture(48).double()
    with torch.no_grad():
        for name, raw in architecture.named_parameters():
            if not name.endswith("beta"):
                raw[-1] = 1e4
    genotype = derive(architecture).genotype
    assert round(stage_cost(architecture, count_table("macs", 48)).item()) == summarize(genotype).macs
    assert round(stage_cost(architecture, count_table("parameters", 48)).item()) == summarize(genotype).parameters
    assert count_table("macs", CHANNELS, size=96).initial == pytest.approx(4 * tables["macs"].initial)


def test_the_initial_architecture_costs_one(tables):
    for table in tables.values():
        for dtype in (torch.float32, torch.float64):
            cost = expected_cost(Architecture(CHANNELS).to(dtype), table)
            assert cost.dtype == dtype
            assert cost.shape == ()
            assert cost.item() == pytest.approx(1, abs=1e-6)


def test_depth_and_operations_are_the_exact_expectation(tables):
    """At full width: enumerate each block's 24 skip patterns, and count the layers that are then live."""
    architecture = random_architecture(3)
    with torch.no_grad():
        for name, raw in architecture.named_parameters():
            if name.endswith("beta"):
                raw.fill_(1)
    sizes = {
        (kind, op): sum(p.numel() for p in build_operation(kind, op, CHANNELS, CHANNELS).parameters())
        for kind, ops in PRIMITIVES.items()
        for op in ops
    }

    def mean(kind, layer):
        return sum(w * sizes[kind, op] for w, op in zip(layer.alpha_weights.tolist(), PRIMITIVES[kind], strict=True))

    expected = (9 * CHANNELS + CHANNELS) + (9 * CHANNELS**2 + CHANNELS) + (CHANNELS + 1) + 1  # stem, out, δ
    expected += 3 * (18 * CHANNELS**2 + CHANNELS)  # fuse
    for block in architecture.blocks():
        probability = [layer.gamma_weights.tolist() for layer in block.layers]
        for pattern in SKIP_PATTERNS:
            weight = math.prod(p[-1 if s is None else s] for p, s in zip(probability, pattern, strict=True))
            layers = tuple(Layer("conv_3x3", 1) if source is None else Skip(source) for source in pattern)
            live = [index for index, _ in Block(layers).live_layers()]
            expected += weight * sum(mean("normal", block.layers[index]) for index in live)
        if block.resample is not None:
            expected += mean("up" if block.down is None else "down", block.resample)
    assert stage_cost(architecture, tables["parameters"]).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(tables, kind):
    architecture = random_architecture(1)
    expected_cost(architecture, tables[kind]).backward()
    random = torch.Generator().manual_seed(2)
    for name in ("alpha", "beta", "gamma"):
        raw = [p for key, p in architecture.named_parameters() if key.endswith(name)]
        directions = [torch.randn(p.shape, generator=random, dtype=torch.float64) for p in raw]
        slope = sum((p.grad * d).sum().item() for p, d in zip(raw, directions, strict=True))
        costs = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                for p, d in zip(raw, directions, strict=True):
                    p.add_(d, alpha=step)
                costs.append(expected_cost(architecture, tables[kind]).item())
        assert slope == pytest.approx((costs[0] - costs[1]) / 2e-6, rel=1e-4), name


def test_a_layer_pays_for_its_readers_width(tables):
    """Not detached: sharpening β of a layer saves in the layer behind it, too."""
    architecture = decided_architecture(0)
    with torch.no_grad():
        for block in architecture.blocks():
            for layer in block.layers:
                layer.gamma.zero_()[-1] = 1e4
                layer.beta.fill_(1)
    first, second = (layer for layer in architecture.encoder[0].layers[:2])
    with torch.no_grad():
        first.alpha.zero_()[0] = 1e4  # conv_3x3: 12 → 12
        second.alpha.zero_()[0] = 1e4
    whole = stage_cost(architecture, tables["parameters"]).item()
    with torch.no_grad():
        first.beta[:, 6:] = 0
    assert whole - stage_cost(architecture, tables["parameters"]).item() == pytest.approx(9 * 12 * 6 + 6 + 9 * 6 * 12)


def test_costs_never_fall_with_width(tables):
    for table in tables.values():
        for laws in (table.normal, table.down, table.up, table.fuse, table.out):
            assert laws.min() >= 0


def test_autocast_changes_nothing(tables):
    architecture = random_architecture(5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = expected_cost(architecture, tables["macs"])
    assert torch.equal(inside, expected_cost(architecture, tables["macs"]))


def test_descending_makes_the_derived_network_cheaper(tables):
    architecture = random_architecture(7, spread=0.3)
    before = derived_macs(architecture)
    optimiser = torch.optim.Adam(architecture.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        expected_cost(architecture, tables["macs"]).backward()
        optimiser.step()
    assert derived_macs(architecture) < 0.5 * before


def test_share_of_equal_gates_is_their_number():
    for count in range(1, 49):
        beta = torch.zeros(2, 48, dtype=torch.float64)
        beta[:, torch.randperm(48)[:count]] = torch.tensor([[3.0], [-1e-6]], dtype=torch.float64)
        torch.testing.assert_close(48 * kept_share(beta), torch.full((2,), float(count)).double())


def test_share_falls_as_gates_concentrate():
    beta = torch.tensor(np.random.default_rng(0).normal(0.5, 0.5, 48)).abs()
    shares = [kept_share(beta**power).item() for power in (0.25, 0.5, 1, 2, 4)]
    assert shares == sorted(shares, reverse=True)
    weak, strong = beta.argmin(), beta.argmax()
    moved = beta.clone()
    moved[weak] -= 0.5 * beta[weak]
    moved[strong] += 0.5 * beta[weak]
    assert kept_share(moved) < kept_share(beta)
    torch.testing.assert_close(kept_share(-7 * beta), kept_share(beta))


def test_share_at_zero():
    beta = torch.zeros(3, 48, dtype=torch.float64)
    beta[1, :5] = 1
    beta[2, :5] = torch.tensor([1e-30, 1e-9, 1, -1, 0.5])
    beta.requires_grad_()
    share = kept_share(beta)
    assert share[0].item() == pytest.approx(1 / 48)
    share.sum().backward()
    assert beta.grad.isfinite().all()


def test_share_gradient():
    beta = torch.tensor(np.random.default_rng(1).normal(size=(2, 9)), requires_grad=True)
    assert torch.autograd.gradcheck(kept_share, beta)


def test_share_predicts_the_derived_width():
    """Heavy tails of many kinds: correlated with derive's M, nearly unbiased, better than the participation ratio."""
    random = np.random.default_rng(0)
    estimated, participation, derived = [], [], []
    for _ in range(12):
        architecture = Architecture(48).double()
        for block in architecture.blocks():
            samples = [
                random.lognormal(0, random.uniform(0.2, 3), 48),
                random.laplace(random.uniform(0, 1), random.uniform(0.05, 1), 48),
                random.standard_t(random.uniform(1, 4), 48),
            ]
            for layer, sample in zip(block.layers, random.permutation(samples), strict=True):
                with torch.no_grad():
                    layer.beta[0] = beta = torch.from_numpy(sample)
                estimated.append(kept_share(beta).item())
                participation.append((beta.abs().sum() ** 2 / (48 * (beta**2).sum())).item())
        derived += [
            layer.channels / 48 for _, block in derive(architecture).genotype.blocks() for layer in block.layers
        ]
    assert np.corrcoef(estimated, derived)[0, 1] > 0.93
    assert np.corrcoef(participation, derived)[0, 1] < 0.9
    assert abs(np.mean(estimated) - np.mean(derived)) < 0.05
    assert np.sqrt(np.mean((np.array(estimated) - derived) ** 2)) < 0.1


def test_refusals(tables):
    with pytest.raises(ModnasError, match="8 channels, and the cost table is for 12"):
        expected_cost(Architecture(8), tables["macs"])
    with pytest.raises(ModnasError, match="'energy' cannot be counted"):
        count_table("energy", 8)
