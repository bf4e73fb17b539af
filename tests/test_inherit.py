"""Inherited weights: the derived network against the supernet discretised by masks, which knows nothing of slices."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import PRIMITIVES, Skip
from modnas_fast.networks.summary import summarize
from modnas_fast.search import SuperNet
from modnas_fast.search.derive import LayerDecision, derive
from modnas_fast.search.inherit import inherit_weights

CHANNELS = 12
CASES = [  # seed, keep, multiple
    *((seed, 0.9, 4) for seed in range(8)),
    *((seed, 0.6, 1) for seed in range(8, 14)),
    (14, 0.9, 8),
    (15, 0.0, 1),
]


def random_supernet(seed, stages=1, channels_in=1, channels=CHANNELS, dtype=torch.float64):
    """Random weights and a random architecture; β of heavy tails, as a search leaves it, and both signs."""
    torch.manual_seed(seed)
    net = SuperNet(stages, channels, channels_in, backend="reference")
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("beta"):
                parameter.copy_(torch.randn_like(parameter) ** 3)
                parameter.div_(parameter.square().mean().sqrt())
            elif name.endswith(("alpha", "gamma", "delta")):
                parameter.normal_()
            else:
                parameter.mul_(2)  # signals that survive the depth
    return net.to(dtype)


def strongest(sizes, count):
    """[C, 1, 1] of 1 for the `count` largest sizes, 0 for the others."""
    mask = torch.zeros_like(sizes)
    mask[sizes.topk(count).indices] = 1
    return mask[:, None, None]


def run_candidate(name, op, x, alive):
    """One full-width candidate on x, whose dead channels are 0; `alive` masks every inner result."""
    r = F.relu(x)
    if name.startswith("sep_conv"):
        h = alive * op.pointwise1(alive * op.depthwise1(r))
        return op.pointwise2(alive * op.depthwise2(F.relu(h)))
    if name.startswith("dil_conv"):
        return op.pointwise(alive * op.depthwise(r))
    if name == "res_block_3x3":
        return op.conv2(F.relu(alive * op.conv1(r))) + op.shortcut(x)
    return op(x)


def discretised_layer(kind, layer, candidates, raw, x, alive):
    """The chosen candidate alone, gated by β and masked: full width, with the mask of what is alive after it."""
    beta = raw.beta[PRIMITIVES[kind].index(layer.op)]
    mask = strongest(beta.abs(), layer.channels)
    return mask * beta[:, None, None] * run_candidate(layer.op, candidates[layer.op], x, alive), mask


def discretised_denoiser(stage, architecture, genotype, x):
    """v = f(x) of one stage of the supernet, at full width throughout."""
    x = stage.stem[1](F.relu(stage.stem[0](x)))
    alive = torch.ones_like(x[0, :, :1, :1])
    features = []
    blocks = list(genotype.encoder) + list(genotype.decoder)
    modules = list(stage.encoder) + list(stage.decoder)
    raws = list(architecture.encoder) + list(architecture.decoder)
    for b, (block, module, raw) in enumerate(zip(blocks, modules, raws, strict=True)):
        if module.fuse is not None:
            feature, feature_alive = features.pop()
            x, alive = torch.cat((x, feature), 1), torch.cat((alive, feature_alive))
            norms = (module.fuse.weight * alive[None]).abs().sum((1, 2, 3))
            x, alive = module.fuse(x), strongest(norms, int(alive.sum()) // 2)
            x = alive * x
        history = [(x, alive)]
        for layer, candidates, parameters in zip(block.layers, module.layers, raw.layers, strict=True):
            if isinstance(layer, Skip):
                history.append(history[layer.source])
            else:
                history.append(discretised_layer("normal", layer, candidates, parameters, *history[-1]))
        x, alive = history[-1]
        if b < 3:
            features.append((x, alive))
            x, alive = discretised_layer("down", block.resample, module.down, raw.down, x, alive)
        elif b < 6:
            x, alive = discretised_layer("up", block.resample, module.up, raw.up, x, alive)
    return stage.out(F.relu(x))


def discretised(net, genotype, y, stages):
    """The whole iteration, float64."""
    height, width = y.shape[-2:]
    y = F.pad(y, (0, -width % 8, 0, -height % 8), mode="replicate")
    x = y
    for stage in list(net.stages)[:stages]:
        delta = 1 / (1 + torch.exp(-stage.delta))
        x = delta * y + (1 - delta) * discretised_denoiser(stage, net.architecture, genotype, x)
    return x[..., :height, :width]


def relative_error(got, want):
    return float((got.double() - want).abs().max() / want.abs().max())


def images(channels_in, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(2, channels_in, 15, 16, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("seed", "keep", "multiple"), CASES)
def test_equals_the_discretised_supernet(seed, keep, multiple):
    """Forward, to 1e-12 in float64 and 1e-6 in float32; gray and RGB, T = 1 and 2, in turn."""
    stages, channels_in = 1 + seed % 2, (1, 1, 3, 3)[seed % 4]
    net = random_supernet(seed, stages, channels_in).float().double()  # float32 values, exact in both precisions
    derivation = derive(net.architecture, keep, multiple)
    with torch.no_grad():
        y = images(channels_in, torch.float32).double()
        want = discretised(net, derivation.genotype, y, stages)
        derived = inherit_weights(net, derivation)
        assert derived.dtype == torch.float64
        assert relative_error(derived(y), want) < 1e-12
        v = discretised_denoiser(net.stages[0], net.architecture, derivation.genotype, y[:, :, :8, :8])
        assert relative_error(derived.stages[0].denoiser(y[:, :, :8, :8]), v) < 1e-12
        single = inherit_weights(net.float(), derivation)
        assert single.dtype == torch.float32
        assert relative_error(single(y.float()), want) < 1e-6


def test_the_cases_cover_all_operations_and_skips():
    ops = {"normal": set(), "down": set(), "up": set()}
    patterns, empty, thinned = set(), 0, 0
    for seed, keep, multiple in CASES:
        genotype = derive(random_supernet(seed).architecture, keep, multiple).genotype
        for name, block in genotype.blocks():
            live = block.live_layers()
            ops["normal"] |= {layer.op for _, layer in live}
            if block.resample is not None:
                ops["down" if name.startswith("EB") else "up"].add(block.resample.op)
            patterns.add(tuple(layer.source if isinstance(layer, Skip) else None for layer in block.layers))
            empty += not live
            thinned += any(layer.channels < CHANNELS for _, layer in live)
    assert ops == {kind: set(names) for kind, names in PRIMITIVES.items()}
    assert len(patterns) >= 18  # of 24
    assert empty > 5
    assert thinned > 20


@pytest.mark.parametrize(("stages", "channels_in", "seed"), [(1, 1, 0), (2, 3, 1)])
def test_with_nothing_dropped_it_is_the_supernet_itself(stages, channels_in, seed):
    """No masks: one-hot α and γ in the real supernet, and all channels kept."""
    net = random_supernet(seed, stages, channels_in, channels=6)
    derivation = derive(net.architecture, 1.0, 1)
    with torch.no_grad():
        for raw in net.architecture.modules():
            for name in ("alpha", "gamma"):
                if name in dict(raw.named_parameters(recurse=False)):
                    parameter = getattr(raw, name)
                    best = parameter.argmax()
                    parameter.fill_(-2000)
                    parameter[best] = 0
    assert derive(net.architecture, 1.0, 1).genotype == derivation.genotype
    y = images(channels_in)
    with torch.no_grad():
        assert relative_error(inherit_weights(net, derivation)(y), net(y)) < 1e-12


@pytest.mark.parametrize("seed", [0, 1, 2, 7, 15])  # all operations, each on inputs that some ReLU lets through
def test_the_judge_sees_wrong_slices(seed):
    """Another order or choice of channels in any tensor of any layer, or no β: each is far beyond the tolerance."""
    net = random_supernet(seed)
    derivation = derive(net.architecture, 0.8, 1)
    y = images(1)
    with torch.no_grad():
        want = discretised(net, derivation.genotype, y, 1)
        derived = inherit_weights(net, derivation)
        assert relative_error(derived(y), want) < 1e-12
        for name, parameter in derived.named_parameters():
            for axis in range(min(parameter.ndim, 2)):
                if parameter.shape[axis] > 1:  # the channels in another order
                    right = parameter.clone()
                    parameter.copy_(right.roll(1, axis))
                    assert relative_error(derived(y), want) > 1e-9, (name, axis)
                    parameter.copy_(right)
        planted = 0
        for row in summarize(derivation.genotype).layers:  # another channel in place of the first one kept
            decision = derivation.decisions.get(row.name, LayerDecision())
            others = sorted(set(range(CHANNELS)) - set(decision.kept))
            if row.used and decision.kept and others:
                wrong = tuple(sorted((*decision.kept[1:], others[0])))
                swapped = {**derivation.decisions, row.name: dataclasses.replace(decision, kept=wrong)}
                other = inherit_weights(net, dataclasses.replace(derivation, decisions=swapped))
                assert relative_error(other(y), want) > 1e-9, row.name
                planted += 1
        assert planted > 8
        for name, parameter in net.architecture.named_parameters():
            if name.endswith("beta"):
                parameter.fill_(1)
        assert relative_error(inherit_weights(net, derivation)(y), want) > 1e-2


def test_slices_by_hand():
    """Two layouts that differ from a plain convolution, and the choice of fused channels, entry by entry."""
    net = SuperNet(1, 4)
    up, sub_pixel = net.architecture.decoder[0].up, net.architecture.decoder[1].up
    fuse = net.stages[0].decoder[3].fuse
    with torch.no_grad():
        for parameter in net.architecture.parameters():
            if parameter.ndim == 1 and len(parameter) <= 4:
                parameter[0] = 1.0  # skip every normal layer; conv_3x3 in the encoder
        net.architecture.encoder[2].down.beta.copy_(torch.tensor([5.0, 0.0, 0.0, 5.0]).expand(4, 4))
        up.alpha[0] = sub_pixel.alpha[4] = 1
        up.beta[0] = torch.tensor([0.0, 3.0, -2.0, 0.0])
        sub_pixel.beta[4] = torch.tensor([0.0, 0.0, 0.25, 4.0])
        fuse.weight.zero_()
        # L1 norms over the kept inputs 0…7: 1, 3, 3, 2 and, beyond cancelling, 3 + 3 for a mean of 0
        fuse.weight[0, 0, 0, 0], fuse.weight[1, 3, 1, 1] = 1, -3
        fuse.weight[2, 7, 2, 0], fuse.weight[2, 7, 2, 1] = 1.5, -1.5
        fuse.weight[3, 5, 1, 1] = 2
        net.architecture.decoder[2].up.beta.copy_(torch.tensor([1.0, 1.0, 1.0, 1.0]).expand(5, 4))
    derivation = derive(net.architecture, 1.0, 1)
    stage, weights = inherit_weights(net, derivation).stages[0], net.stages[0]
    assert derivation.decisions["EB3 down"].kept == (0, 3)
    assert derivation.decisions["DB1 up"].kept == (1, 2)
    assert derivation.decisions["DB2 up"].kept == (2, 3)

    deconv = weights.decoder[0].up["deconv_3x3"].conv
    assert stage.decoder[0].up.conv.weight.shape == (2, 2, 3, 3)
    for i, channel_in in enumerate((0, 3)):
        for j, (channel_out, gate) in enumerate(((1, 3.0), (2, -2.0))):
            assert torch.equal(stage.decoder[0].up.conv.weight[i, j], gate * deconv.weight[channel_in, channel_out])
            assert stage.decoder[0].up.conv.bias[j] == gate * deconv.bias[channel_out]

    shuffled = weights.decoder[1].up["sub_pixel"].conv
    kept = weights.decoder[1].fuse.weight[:, [1, 2, 4, 5, 6, 7]].abs().sum((1, 2, 3)).topk(3).indices.sort().values
    for j, (channel_out, gate) in enumerate(((2, 0.25), (3, 4.0))):
        for phase in range(4):
            expected = gate * shuffled.weight[4 * channel_out + phase, kept]
            assert torch.equal(stage.decoder[1].up.conv.weight[4 * j + phase], expected)
            assert stage.decoder[1].up.conv.bias[4 * j + phase] == gate * shuffled.bias[4 * channel_out + phase]

    assert torch.equal(stage.decoder[3].fuse.weight, fuse.weight)  # 4 + 4 → 4: all stay
    assert torch.equal(stage.delta, weights.delta)


def test_fused_channels_of_largest_norm_stay():
    """DB4: 2 of the up-sampled and 4 of the feature are kept, so 3 fused; equal norms go to the lower channel."""
    net = SuperNet(1, 4)
    fuse = net.stages[0].decoder[3].fuse
    with torch.no_grad():
        for name, parameter in net.architecture.named_parameters():
            if name.endswith("gamma"):
                parameter[0] = 1.0
        net.architecture.decoder[2].up.beta.copy_(torch.tensor([0.0, 2.0, 0.0, 2.0]).expand(5, 4))
        fuse.weight.zero_()
        fuse.weight[0, 1, 0, 0] = 1.0
        fuse.weight[1, 0] = 100.0  # input 0 is dropped, so this counts nothing
        fuse.weight[1, 5, 2, 2] = 1.0
        fuse.weight[2, 4, 0, 0], fuse.weight[2, 4, 0, 1] = 2.0, -2.0  # cancels in a sum
        fuse.weight[3, 3, 1, 1] = -1.0
        fuse.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1000.0]))  # the bias does not count
    stage = inherit_weights(net, derive(net.architecture, 1.0, 1)).stages[0]
    assert torch.equal(stage.decoder[3].fuse.weight, fuse.weight[[0, 1, 2]][:, [1, 3, 4, 5, 6, 7]])
    assert torch.equal(stage.out.weight, net.stages[0].out.weight[:, [0, 1, 2]])


def test_fewer_stages_are_the_first_ones():
    net = random_supernet(3, stages=3)
    derivation = derive(net.architecture, 0.9, 4)
    y = images(1)
    with torch.no_grad():
        for stages in (1, 2, 3):
            derived = inherit_weights(net, derivation, stages)
            assert len(derived.stages) == stages
            assert relative_error(derived(y), discretised(net, derivation.genotype, y, stages)) < 1e-12
    for stages, says in ((4, "stages is 4, but the supernet has weights for 3"), (0, "stages is 0")):
        with pytest.raises(ModnasError, match=says):
            inherit_weights(net, derivation, stages)


def test_a_derivation_of_another_width_is_refused():
    derivation = derive(SuperNet(1, 8).architecture)
    with pytest.raises(ModnasError, match="of a supernet of 8 channels; this one has 4"):
        inherit_weights(SuperNet(1, 4), derivation)


def test_the_derived_network_stands_alone():
    """Training it moves nothing of the supernet, and building it draws no random number."""
    net = random_supernet(5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    derived = inherit_weights(net, derive(net.architecture))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in derived.parameters())
    derived(images(1)).square().sum().backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in derived.parameters() if parameter.grad is not None)
    with torch.no_grad():
        for parameter in derived.parameters():
            parameter.fill_(7)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
