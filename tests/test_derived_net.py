"""The derived network against an implementation of its own, which follows the paper's tables and nothing else."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Genotype
from modnas_fast.networks import DerivedNet
from tests.cases import random_genotype
from tests.parity import assert_parity
from tests.test_genotype import TABLE_7, TABLE_8, layer_of
from tests.test_operations import DEFINITIONS

TABLES = {"modnas-b": TABLE_7, "modnas-ar": TABLE_8}


def part(parameters: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in parameters.items() if name.startswith(prefix)}


def conv(parameters, name, x, padding=0):
    return F.conv2d(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"], padding=padding)


def net_of_table(table, parameters: dict[str, Tensor], stages: int, y: Tensor) -> Tensor:
    """x⁰ = y; xᵗ = δ·y + (1 − δ)·f(xᵗ⁻¹), with f read off the table; H and W are multiples of 8."""
    x = y
    for t in range(stages):
        p = part(parameters, f"stages.{t}.")
        delta = 1 / (1 + torch.exp(-p["delta"]))
        x = delta * y + (1 - delta) * unet_of_table(table, p, x)
    return x


def unet_of_table(table, p, x):
    x = conv(p, "stem.1", F.relu(conv(p, "stem.0", x, 1)), 1)
    features = {}
    for block, *rows in table:
        level = int(block[2])
        side, kind, name = ("encoder", "down", "down") if block[0] == "E" else ("decoder", "up", "up")
        place = f"{side}.{level - 1}."
        if side == "decoder" and level > 1:
            x = conv(p, f"{place}fuse", torch.cat((x, features[5 - level]), 1), 1)
        for index, row in enumerate(rows[:3]):
            if row is not None:  # a published skip aliases its predecessor
                x = DEFINITIONS["normal", layer_of(row).op](part(p, f"{place}layers.{index}."), x)
        if side == "encoder":
            features[level] = x
        if len(rows) == 4:
            x = DEFINITIONS[kind, layer_of(rows[3]).op](part(p, f"{place}{name}."), x)
    return conv(p, "out", F.relu(x))


def net_of(name="modnas-b", stages=1, channels_in=1, seed=0) -> DerivedNet:
    """A net with δ away from its symmetric start."""
    torch.manual_seed(seed)
    net = DerivedNet(Genotype.load(name), stages, channels_in)
    for t, stage in enumerate(net.stages):
        torch.nn.init.constant_(stage.delta, 0.3 - 0.8 * t)
    return net


def lively_net() -> DerivedNet:
    """A net whose ReLUs are nearly all open: rounding does not flip them, so that bf16 gradients can be judged."""
    net = net_of()
    for key, value in net.named_parameters():
        if not key.endswith("delta"):
            value.data = value.data / 2 if key.endswith("weight") else torch.ones_like(value)
    return net


def noisy(*shape, dtype=torch.float32, seed=5) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("name", "stages", "channels_in"),
    [("modnas-b", 1, 1), ("modnas-b", 3, 1), ("modnas-b", 1, 3), ("modnas-ar", 1, 1), ("modnas-ar", 2, 3)],
)
def test_equals_the_table(name, stages, channels_in, dtype):
    net = net_of(name, stages, channels_in).to(dtype)
    names = [key for key, _ in net.named_parameters()]
    report = assert_parity(
        lambda y, *values: functional_call(net, dict(zip(names, values, strict=True)), (y,)),
        lambda y, *values: net_of_table(TABLES[name], dict(zip(names, values, strict=True)), stages, y),
        noisy(1, channels_in, 16, 24, dtype=dtype).requires_grad_(),
        *net.parameters(),
        reduction=25 * 48,
        depth=40 * stages,
    )
    assert len(report.rows) == 2 + len(names)
    assert not any(row.note for row in report.rows)  # every parameter is alive


@pytest.mark.parametrize(
    ("name", "stages", "count"),
    [
        ("modnas-b", 1, 417_714),
        ("modnas-b", 3, 1_253_142),
        ("modnas-b", 6, 2_506_284),
        ("modnas-ar", 1, 553_274),
        ("modnas-ar", 3, 1_659_822),
    ],
)
def test_parameter_counts_of_the_paper(name, stages, count):
    net = DerivedNet(Genotype.load(name), stages)
    assert sum(p.numel() for p in net.parameters()) == count
    assert not list(net.buffers())


def test_delta_starts_at_one_half():
    net = DerivedNet(Genotype.load("modnas-b"), 2)
    y = noisy(1, 1, 8, 8)
    x = (y + net.stages[0].denoiser(y)) / 2
    torch.testing.assert_close(net(y), (y + net.stages[1].denoiser(x)) / 2)
    assert all(stage.delta.shape == () for stage in net.stages)


def test_delta_at_its_limits():
    net = net_of().double()
    y = noisy(1, 1, 8, 16, dtype=torch.float64)
    net.stages[0].delta.data.fill_(60.0)  # δ = 1: the noisy image
    torch.testing.assert_close(net(y), y, rtol=0, atol=1e-15)
    net.stages[0].delta.data.fill_(-60.0)  # δ = 0: the denoiser alone
    torch.testing.assert_close(net(y), net.stages[0].denoiser(y), rtol=0, atol=1e-15)
    assert (net(y) - y).abs().max() > 0.1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 13), (8, 8), (17, 31), (16, 3)])
def test_any_size_is_replicate_padding_and_a_crop(height, width):
    net = net_of(stages=2).double()
    y = noisy(2, 1, height, width, dtype=torch.float64)
    rows = torch.arange(-(-height // 8) * 8).clamp(max=height - 1)
    columns = torch.arange(-(-width // 8) * 8).clamp(max=width - 1)
    padded = y[:, :, rows][..., columns]
    assert padded.shape[-2] % 8 == padded.shape[-1] % 8 == 0
    output = net(y)
    assert output.shape == y.shape
    assert torch.equal(output, net(padded)[..., :height, :width])
    assert (output - y).abs().max() > 0.05


def test_gradients_pass_the_padding():
    net = net_of().double()
    names = [key for key, _ in net.named_parameters()]
    assert_parity(
        lambda y, *values: functional_call(net, dict(zip(names, values, strict=True)), (y,)),
        lambda y, *values: net_of_table(
            TABLE_7, dict(zip(names, values, strict=True)), 1, F.pad(y, (0, 3, 0, 1), mode="replicate")
        )[..., :7, :13],
        noisy(1, 1, 7, 13, dtype=torch.float64).requires_grad_(),
        *net.parameters(),
        reduction=25 * 48,
        depth=40,
    )


def test_state_dict_keys_are_a_contract():
    keys = list(DerivedNet(Genotype.load("modnas-b"), 2).state_dict())
    assert len(keys) == 2 * 91
    assert [key.removeprefix("stages.0.") for key in keys[:9]] == [
        "delta",
        "stem.0.weight",
        "stem.0.bias",
        "stem.1.weight",
        "stem.1.bias",
        "encoder.0.layers.0.conv.weight",
        "encoder.0.layers.0.conv.bias",
        "encoder.0.layers.1.conv1.weight",
        "encoder.0.layers.1.conv1.bias",
    ]
    assert {
        "stages.0.encoder.0.layers.1.shortcut.weight",
        "stages.0.encoder.0.down.conv.weight",
        "stages.0.encoder.1.layers.1.depthwise1.weight",
        "stages.0.encoder.1.layers.1.pointwise2.bias",
        "stages.0.encoder.1.down.pointwise.weight",
        "stages.0.encoder.2.layers.2.conv2.weight",
        "stages.1.decoder.0.layers.1.depthwise.weight",
        "stages.1.decoder.1.fuse.weight",
        "stages.1.decoder.1.layers.1.pointwise.weight",
        "stages.1.decoder.2.up.pointwise.bias",
        "stages.1.decoder.3.layers.1.conv1.weight",
        "stages.1.out.weight",
        "stages.1.out.bias",
        "stages.1.delta",
    } <= set(keys)
    assert not any(".layers.2." in key for key in keys if "encoder.1." in key or "decoder.3." in key)  # skipped


@pytest.mark.parametrize(
    "y",
    [
        noisy(1, 3, 8, 8),
        noisy(1, 8, 8),
        noisy(8, 8),
        noisy(1, 1, 0, 8),
        noisy(1, 1, 8, 0),
        noisy(1, 1, 1, 8, 8),
        (noisy(1, 1, 8, 8) * 255).to(torch.uint8),
    ],
    ids=["RGB", "3-D", "2-D", "no rows", "no columns", "5-D", "uint8"],
)
def test_bad_inputs_are_named(y):
    with pytest.raises(
        ModnasError, match=r"expected float images in \[0, 1\] as \[N, 1, H, W\], got torch\.\w+ \["
    ) as e:
        net_of()(y)
    assert str(list(y.shape)) in str(e.value)
    assert str(y.dtype) in str(e.value)
    assert "\n" not in str(e.value)


def test_gray_image_for_an_rgb_net_is_refused():
    with pytest.raises(ModnasError, match=r"\[N, 3, H, W\], got torch.float32 \[1, 1, 8, 8\]$"):
        net_of(channels_in=3)(noisy(1, 1, 8, 8))


@pytest.mark.parametrize(("key", "value"), [("stages", 0), ("stages", -1), ("channels_in", 0)])
def test_bad_sizes_are_named(key, value):
    with pytest.raises(ModnasError, match=f"{key} is {value}; it must be at least 1"):
        DerivedNet(Genotype.load("modnas-b"), **{key: value})


def test_images_of_a_batch_do_not_touch():
    net = net_of(stages=2).double()
    y = noisy(3, 1, 9, 16, dtype=torch.float64)
    output = net(y)
    for i in range(3):
        torch.testing.assert_close(net(y[i : i + 1])[0], output[i], rtol=0, atol=1e-14)
    changed = y.clone()
    changed[1] += 1
    assert torch.equal(net(changed)[[0, 2]], output[[0, 2]])
    assert net(y[:0]).shape == (0, 1, 9, 16)


def test_copies_are_equal_and_independent():
    net = net_of(stages=2).eval()
    y = noisy(1, 1, 8, 8)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(y), net(y))
        assert twin.genotype == net.genotype
        with torch.no_grad():
            twin.stages[0].out.bias += 1
        assert not torch.equal(twin(y), net(y))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_precisions_and_layouts(dtype, memory_format):
    net = net_of().to(dtype, memory_format=memory_format)
    y = noisy(2, 1, 16, 24, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    assert_parity(net, net_of(), y, reduction=25 * 48, depth=40, gradients=False)
    net = lively_net().to(dtype, memory_format=memory_format)
    assert_parity(net, lively_net(), y, reduction=25 * 48, depth=40)


def test_autocast_returns_the_images_precision():
    y = noisy(2, 1, 16, 24).requires_grad_()
    options = {"reduction": 25 * 48, "depth": 40, "autocast": torch.bfloat16, "output_dtype": torch.float32}
    assert_parity(net_of(), net_of(), y, gradients=False, **options)
    assert_parity(lively_net(), lively_net(), y, **options)


def test_strided_input():
    net, whole = net_of().eval(), noisy(2, 3, 20, 34)
    view = whole[:, 1:2, 2:-1, ::2]
    assert not view.is_contiguous()
    assert_parity(net, net_of(), view.requires_grad_(), reduction=25 * 48, depth=40)


@pytest.mark.parametrize("seed", range(6))
def test_dead_layers_hold_no_parameters(seed):
    """Every parameter of a random genotype's net takes part, and only live layers have any."""
    genotype = random_genotype(seed)
    net = DerivedNet(genotype, 1, 1).double()
    output = net(noisy(2, 1, 16, 16, dtype=torch.float64))
    torch.autograd.grad(output.square().sum(), list(net.parameters()))  # raises where one is unused
    for (_, block), module in zip(genotype.blocks(), [*net.stages[0].encoder, *net.stages[0].decoder], strict=True):
        assert list(module.layers) == [str(index) for index, _ in block.live_layers()]
