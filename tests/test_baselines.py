"""The baselines: pinned counts beside the published ones, independent counters, shapes and gradients."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.networks.baselines import BASELINES, Cost
from modnas_fast.networks.baselines import count as uncached_count
from modnas_fast.networks.baselines.ffdnet import noise_map
from modnas_fast.networks.baselines.n3net import NEIGHBOURS

# name, channels: parameters, MACs at 48×48, and how far the published figures may be, as a fraction of them.
COUNTS = {
    ("tnrd", 1): (26_645, 61_951_680, 0, 0),
    ("dncnn", 1): (556_096, 1_276_674_048, 0.001, 0.005),
    ("dncnn", 3): (558_400, 1_281_982_464, None, None),
    ("n3net", 1): (705_895, 1_702_010_880, 0.001, 0.052),
    ("memnet", 1): (2_905_480, 6_662_504_448, 0.001, 0.005),
    ("dpdnn", 1): (1_363_661, 4_734_885_888, 0.001, 0.1),
    ("focnet", 1): (2_925_461, 1_819_607_040, 0, 0),
    ("rdn", 1): (21_973_377, 50_604_834_816, 0.0002, 0.001),
    ("rdn", 3): (21_975_683, 50_610_143_232, None, None),
    ("ecae", 1): (1_062_016, 2_446_884_864, 0.001, 0.005),
    ("ecae", 3): (1_064_320, 2_452_193_280, None, None),
    ("hinas", 1): (331_769, 756_264_960, 0.48, 0),
    ("cbdnet", 3): (4_365_382, 1_302_921_216, 0.005, 0),
    ("vdn", 3): (7_700_742, 1_300_119_552, 2.32, 0),
    ("danet", 3): (9_153_571, 464_044_032, 0.001, 0),
    ("ffdnet", 1): (485_316, 279_023_616, 0.001, 0),
    ("ffdnet", 3): (852_108, 490_199_040, None, None),
    ("drunet", 1): (32_638_656, 4_873_568_256, 0.001, 0),
    ("drunet", 3): (32_640_960, 4_878_876_672, None, None),
    ("nafnet", 3): (29_159_715, 567_865_344, 0.001, 0),
    ("scunet", 1): (17_943_768, 4_912_054_272, 0.001, 0),
    ("scunet", 3): (17_946_072, 4_921_491_456, None, None),
}
KILO_MACS = {"ffdnet": 121, "drunet": 2115, "nafnet": 245, "scunet": 1199}  # a pixel, where sides need no padding
NETWORKS = [name for name in BASELINES if name != "bm3d"]
# Counted, but without any part in the output; TNRD's first step starts where its data term is zero.
UNUSED = {"n3net": ("bn1.",), "dpdnn": ("downs.2.", "downs.3."), "tnrd": ("steps.0.log_lambda",)}


@functools.cache
def count(name: str, channels_in: int = 1, height: int = 48, width: int = 48) -> Cost | None:
    return uncached_count(name, channels_in, height, width)


@functools.cache
def network(name: str, channels_in: int) -> nn.Module:
    """Freshly initialised, in evaluation mode; norms' statistics, and scales that start without effect, get some."""
    torch.manual_seed(0)
    net = BASELINES[name].build(channels_in).eval()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    for key, parameter in net.named_parameters():
        if re.search(r"\.(beta|gamma)$|^eta\.", key):
            nn.init.constant_(parameter, 0.1)
    return net


def call(name: str, net: nn.Module, y: Tensor, sigma: float | Tensor = 25.0) -> Tensor:
    return net(y, sigma) if BASELINES[name].noise == "sigma" else net(y)


@pytest.mark.parametrize(("name", "channels_in"), COUNTS)
def test_counts_are_pinned_and_near_the_published_ones(name: str, channels_in: int) -> None:
    cost, baseline = count(name, channels_in), BASELINES[name]
    parameters, macs, parameters_off, macs_off = COUNTS[name, channels_in]
    assert cost is not None
    assert (cost.parameters, cost.macs) == (parameters, macs)
    if channels_in == baseline.channels[0]:
        for value, published, off in (
            (cost.parameters, baseline.params_k and baseline.params_k * 1e3, parameters_off),
            (cost.macs, baseline.macs_g and baseline.macs_g * 1e9, macs_off),
        ):
            assert (published is None) == (not off)
            assert published is None or abs(value - published) <= off * published
        worst = max(parameters_off, macs_off)
        assert worst <= 0.005 or "parameters" in baseline.note or "MACs" in baseline.note


@pytest.mark.parametrize("name", KILO_MACS)
def test_macs_a_pixel(name: str) -> None:
    cost = count(name, BASELINES[name].channels[0], 256, 256)
    assert cost is not None
    assert round(cost.macs / 256**2 / 1e3) == KILO_MACS[name]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("tnrd", "n3net", "scunet")])
def test_macs_equal_an_independent_counter(name: str) -> None:
    channels_in, total = BASELINES[name].channels[0], 0

    def hook(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d))
        positions = (inputs[0] if isinstance(conv, nn.ConvTranspose2d) else output).shape[-2:].numel()
        total += conv.weight.numel() * positions

    with torch.device("meta"):
        net = BASELINES[name].build(channels_in).eval()
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.register_forward_hook(hook)
        call(name, net, torch.empty(1, channels_in, 48, 48))
    cost = count(name, channels_in)
    assert cost is not None
    assert cost.macs == total


def test_attention_and_neighbours_count_their_products() -> None:
    n3net, padded, scunet = count("n3net"), count("scunet", 1, 64, 64), count("scunet")
    assert n3net is not None
    candidates, patches, values = 80, 81, 800  # 9×9 patches of 8×10×10 numbers at 48×48
    assert n3net.macs - 2 * patches * candidates * values * (1 + NEIGHBOURS) == 2304 * 702_720
    assert padded == scunet


@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_and_any_batch(name: str) -> None:
    for channels_in in BASELINES[name].channels:
        net = network(name, channels_in)
        y = torch.rand(2, channels_in, 13, 21, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            for height, width in ((1, 1), (7, 13)) if channels_in == 1 else ((5, 2),):
                x = call(name, net, y[:1, :, :height, :width])
                assert x.shape == (1, channels_in, height, width)
                assert torch.isfinite(x).all()
            if channels_in == BASELINES[name].channels[0]:
                both, alone = call(name, net, y, torch.tensor([15.0, 50.0])), call(name, net, y[1:], 50.0)
                torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)
                assert (both - y).abs().amax((1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_flow_in_float64(name: str) -> None:
    channels_in = BASELINES[name].channels[0]
    net = network(name, channels_in).double()
    y = torch.rand(1, channels_in, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y.requires_grad_()
    x = call(name, net, y)
    assert x.dtype == torch.float64
    assert torch.isfinite(x).all()
    x.square().sum().backward()
    assert y.grad is not None
    assert (y.grad != 0).all()
    for key, parameter in net.named_parameters():
        used = not any(part in key for part in UNUSED.get(name, ()))
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), key
        assert (parameter.grad is not None and bool(parameter.grad.any())) == used, key
    net.zero_grad(set_to_none=True)
    net.float()


@pytest.mark.parametrize("name", ["tnrd", "n3net", "ffdnet", "hinas"])
def test_networks_move_between_precisions(name: str) -> None:
    net = BASELINES[name].build(1).eval().bfloat16()
    assert call(name, net, torch.rand(1, 1, 24, 24).bfloat16()).dtype == torch.bfloat16
    assert all(tensor.device.type == "meta" for tensor in (*net.to("meta").parameters(), *net.to("meta").buffers()))


@pytest.mark.parametrize(
    ("name", "y"),
    [("dncnn", torch.rand(1, 3, 8, 8)), ("vdn", torch.rand(3, 8, 8)), ("ffdnet", torch.zeros(1, 1, 8, 8).byte())],
)
def test_other_inputs_are_refused(name: str, y: Tensor) -> None:
    with pytest.raises(ModnasError, match=r"expected float images in \[0, 1\]"):
        call(name, network(name, BASELINES[name].channels[0]), y)


def test_noise_levels() -> None:
    y = torch.rand(2, 3, 4, 5)
    assert torch.equal(noise_map(51, y), torch.full((2, 1, 4, 5), 0.2))
    assert torch.equal(noise_map(torch.tensor([0.0, 255.0]), y)[:, 0, 0, 0], torch.tensor([0.0, 1.0]))
    for wrong in (torch.zeros(3), torch.zeros(2, 1)):
        with pytest.raises(ModnasError, match="sigma has shape"):
            noise_map(wrong, y)


def test_registry_is_whole() -> None:
    for name, baseline in BASELINES.items():
        assert baseline.name == name
        assert baseline.paper.rsplit(" ", 1)[1].isdecimal()
        assert all(set(levels) == {"Set12", "BSD68", "Urban100"} for levels in [baseline.psnr] if levels)
        assert bool(baseline.psnr) == bool(baseline.psnr_from)
        assert bool(baseline.params_k or baseline.macs_g) == bool(baseline.counts_from)


@pytest.mark.parametrize(("name", "channels_in"), [("unet++", 1), ("cbdnet", 1), ("tnrd", 3), ("dncnn", 2)])
def test_unknown_networks_and_channels_are_refused(name: str, channels_in: int) -> None:
    with pytest.raises(ModnasError, match=r"unknown baseline .* known: bm3d, tnrd|is for (gray|RGB|gray and RGB) im"):
        count(name, channels_in)
