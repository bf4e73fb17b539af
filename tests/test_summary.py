"""Costs against independent counters, closed forms and the paper's totals; the receptive field against autograd."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modnas_fast import DerivedNet, Genotype, ModnasError
from modnas_fast.cli import main
from modnas_fast.genotype import PRIMITIVES, SIZE_MULTIPLE, Block, Layer, Skip, published_genotypes
from modnas_fast.networks.receptive_field import input_interval, receptive_field_radius
from modnas_fast.networks.summary import LayerSummary, summarize
from tests.cases import SKIP_PATTERNS, random_genotype

SEEDS = range(24)
CHANNELS = 7


def bare_genotype(down: str, ups: tuple[str, str, str]) -> Genotype:
    """No normal layers at all, every width `CHANNELS`: small enough to count by hand."""
    nothing = (Skip(0), Skip(1), Skip(2))
    encoder = tuple(Block(nothing, Layer(down, CHANNELS)) for _ in range(3))
    decoder = (*(Block(nothing, Layer(up, CHANNELS)) for up in ups), Block(nothing))
    return Genotype(CHANNELS, encoder, decoder, "bare")


def without_width(genotype: Genotype) -> Genotype:
    """The same operations, every width 1."""

    def narrow(block: Block) -> Block:
        layers = tuple(layer if isinstance(layer, Skip) else replace(layer, channels=1) for layer in block.layers)
        return Block(layers, block.resample and replace(block.resample, channels=1))

    return Genotype(1, tuple(map(narrow, genotype.encoder)), tuple(map(narrow, genotype.decoder)), genotype.name)


@pytest.mark.parametrize(
    ("stages", "parameters", "giga_macs"), [(1, 417_714, 0.4852), (3, 1_253_142, 1.4556), (6, 2_506_284, 2.9112)]
)
def test_the_papers_totals(stages: int, parameters: int, giga_macs: float) -> None:
    summary = summarize(Genotype.load("modnas-b"), stages)
    assert summary.parameters == parameters
    assert round(summary.macs_with_bias / 1e9, 4) == giga_macs


def test_parameters_of_modnas_ar() -> None:
    assert summarize(Genotype.load("modnas-ar")).parameters == 553_274


@pytest.mark.parametrize("seed", SEEDS)
def test_costs_equal_independent_counters(seed: int) -> None:
    genotype, stages, channels_in = random_genotype(seed), 1 + seed % 2, (1, 3)[seed % 3 == 0]
    summary = summarize(genotype, stages, channels_in, height=21, width=40)
    net = DerivedNet(genotype, stages, channels_in)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.rand(1, channels_in, 24, 40))
    assert 2 * summary.macs == counter.get_total_flops()
    assert summary.parameters == sum(parameter.numel() for parameter in net.parameters())
    for total in ("parameters", "macs", "macs_with_bias"):
        assert stages * sum(getattr(layer, total) for layer in summary.layers) == getattr(summary, total)


def test_costs_equal_a_closed_form() -> None:
    height, width, c = 16, 40, CHANNELS
    summary = summarize(bare_genotype("area", ("deconv_3x3", "sub_pixel", "bilinear")), 1, 1, height, width)
    pixels = height * width
    full, half, quarter, eighth = pixels, pixels // 4, pixels // 16, pixels // 64
    weights_and_positions = [
        (9 * c, full),  # stem
        (9 * c * c, full),
        (c * c, half),  # down-sampling: interpolate, then 1×1
        (c * c, quarter),
        (c * c, eighth),
        (9 * c * c, eighth),  # deconvolution scatters from the small side
        (9 * 2 * c * c, quarter),  # fuse
        (9 * c * 4 * c, quarter),  # sub-pixel works on the small side
        (9 * 2 * c * c, half),
        (c * c, half),  # bilinear: 1×1, then interpolate
        (9 * 2 * c * c, full),
        (c, full),  # out
    ]
    added = c * (full + full + half + quarter + eighth) + c * quarter + c * quarter + 4 * c * quarter
    added += c * half + c * half + c * full + full
    assert summary.parameters == sum(weights for weights, _ in weights_and_positions) + 10 * c + 4 * c + 1 + 1
    assert summary.macs == sum(weights * positions for weights, positions in weights_and_positions)
    assert summary.macs_with_bias == summary.macs + added


@pytest.mark.parametrize(("stages", "channels_in"), [(1, 1), (2, 1), (1, 3), (3, 3)])
def test_activation_memory_equals_a_closed_form(stages: int, channels_in: int) -> None:
    """DB4's fuse has alive: y (and x, from the second stage on), two inputs of C, both concatenated, and its output."""
    planes = channels_in * (1 if stages == 1 else 2) + 5 * CHANNELS
    summary = summarize(bare_genotype("nearest", ("nearest",) * 3), stages, channels_in, height=24, width=16)
    held = CHANNELS * 6 * 4 * 4  # a loop variable may still name EB3's feature; nothing else may be alive
    assert summary.activation_bytes - planes * 24 * 16 * 4 in (0, held)


def test_encoder_features_stay_alive() -> None:
    """A wide EB1 feature costs its bytes also while the bottom of the U-net holds the peak."""

    def bottom_heavy(feature: int) -> Genotype:
        base = bare_genotype("nearest", ("nearest",) * 3)
        encoder = (Block((Layer("conv_3x3", feature), Skip(1), Skip(2)), Layer("nearest", 1)), *base.encoder[1:])
        decoder = (Block((Layer("conv_3x3", 10_000), Skip(1), Skip(2)), Layer("nearest", 1)), *base.decoder[1:])
        return Genotype(1, encoder, decoder)

    wide, narrow = (summarize(bottom_heavy(feature)).activation_bytes for feature in (13, 3))
    assert wide - narrow == (13 - 3) * 48 * 48 * 4


def test_padded_sizes_are_what_is_computed() -> None:
    genotype = random_genotype(0)
    odd, padded = summarize(genotype, height=17, width=1), summarize(genotype, height=24, width=8)
    assert (odd.macs, odd.macs_with_bias, odd.layers) == (padded.macs, padded.macs_with_bias, padded.layers)
    assert (odd.height, odd.width) == (17, 1)


def test_any_size_costs_no_memory() -> None:
    summary = summarize(Genotype.load("modnas-b"), height=2**20, width=2**20)
    assert summary.macs == summarize(Genotype.load("modnas-b"), height=8, width=8).macs * 2**34


@pytest.mark.parametrize("sides", [(0, 8), (8, -1), (2**20 + 1, 8)])
def test_impossible_sizes_are_refused(sides: tuple[int, int]) -> None:
    with pytest.raises(ModnasError, match=r"must be 1…1048576"):
        summarize(random_genotype(0), height=sides[0], width=sides[1])


def test_layer_table() -> None:
    layers = (Layer("conv_3x3", 5), Layer("sep_conv_5x5", 6), Skip(1))
    base = bare_genotype("conv_3x3", ("nearest",) * 3)
    genotype = Genotype(3, (base.encoder[0], Block(layers, Layer("conv_3x3", 4)), base.encoder[2]), base.decoder)
    table = {layer.name: layer for layer in summarize(genotype, height=32, width=64).layers}
    assert list(table)[:7] == ["stem.1", "stem.2", "EB1.1", "EB1.2", "EB1.3", "EB1 down", "EB2.1"]
    assert list(table)[-6:] == ["DB4 fuse", "DB4.1", "DB4.2", "DB4.3", "out", "delta"]
    assert table["EB1.1"] == LayerSummary("EB1.1", "skip", 32, 64, 3, 3, source="input")
    assert table["EB2.1"] == LayerSummary("EB2.1", "conv_3x3", 16, 32, 7, 5, 320, 315 * 512, 320 * 512)
    assert table["EB2.2"] == LayerSummary("EB2.2", "sep_conv_5x5", 16, 32, 5, 6, used=False)
    assert table["EB2.3"] == LayerSummary("EB2.3", "skip", 16, 32, 5, 5, source="EB2.1")
    assert (table["EB2 down"].channels_in, table["EB2 down"].channels_out, table["EB2 down"].width) == (5, 4, 16)
    assert (table["DB3 fuse"].channels_in, table["DB3 fuse"].channels_out) == (7 + 5, 6)


SEEING = [*map(Genotype.load, published_genotypes()), *map(random_genotype, SEEDS)]
SEEING.append(bare_genotype("nearest", ("nearest",) * 3))  # to the right, its encoder features see farthest


@pytest.mark.parametrize("genotype", SEEING, ids=lambda g: g.name)
def test_receptive_field_is_what_autograd_says(genotype: Genotype) -> None:
    """Along either axis, at each of 64 phases: the first and last pixels of nonzero gradient are the computed ones."""
    radius = receptive_field_radius(genotype)
    centre = SIZE_MULTIPLE * math.ceil((radius + 2 * SIZE_MULTIPLE) / SIZE_MULTIPLE)  # wrong answers have room to show
    length = 2 * centre + SIZE_MULTIPLE
    torch.manual_seed(0)
    net = DerivedNet(without_width(genotype)).double()
    for parameter in net.parameters():
        torch.nn.init.uniform_(parameter, 0.2, 1.0)  # positive: nothing cancels and no ReLU is closed
    farthest = 0
    for transposed in (False, True):
        # Strips one cell high, so that 64 images are cheap: positions along the strip do not depend on its height.
        y = torch.rand(64, 1, SIZE_MULTIPLE, length, dtype=torch.float64, requires_grad=True)
        x = net(y.mT).mT if transposed else net(y)
        row, column = torch.arange(64) // SIZE_MULTIPLE, torch.arange(64) % SIZE_MULTIPLE
        (gradient,) = torch.autograd.grad(x[torch.arange(64), 0, row, centre + column].sum(), y)
        for image in range(64):
            phase = image % SIZE_MULTIPLE
            seen = gradient[image].abs().amax((0, 1)).nonzero()
            first, last = int(seen.min()) - centre, int(seen.max()) - centre
            assert (first, last) == input_interval(genotype, phase, phase)
            farthest = max(farthest, phase - first, last - phase)
    assert farthest == radius


def test_receptive_field_of_the_published_networks() -> None:
    assert [receptive_field_radius(Genotype.load(name)) for name in ("modnas-b", "modnas-ar")] == [115, 144]
    summary = summarize(Genotype.load("modnas-b"), stages=3)
    assert (summary.receptive_field_radius, summary.receptive_field) == (339, 679)


@pytest.mark.parametrize("seed", SEEDS)
def test_receptive_field_of_several_stages_is_bounded(seed: int) -> None:
    genotype = random_genotype(seed)
    for phase in range(SIZE_MULTIPLE):
        first = last = phase
        for stage in range(1, 5):
            first, last = input_interval(genotype, first, last)
            radius = receptive_field_radius(genotype, stage)
            assert max(phase - first, last - phase) <= radius <= stage * receptive_field_radius(genotype)


def test_random_genotypes_cover_the_search_space() -> None:
    patterns, live, resamplers, widths = set(), set(), set(), set()
    for genotype in map(random_genotype, SEEDS):
        widths.add(genotype.channels)
        for name, block in genotype.blocks():
            patterns.add(tuple(layer.source if isinstance(layer, Skip) else None for layer in block.layers))
            live |= {layer.op for _, layer in block.live_layers()}
            widths |= {layer.channels for _, layer in block.live_layers()}
            if block.resample:
                resamplers.add(({"E": "down", "D": "up"}[name[0]], block.resample.op))
    assert patterns == set(SKIP_PATTERNS)
    assert len(SKIP_PATTERNS) == 24
    assert live == set(PRIMITIVES["normal"])
    assert resamplers == {(kind, op) for kind in ("down", "up") for op in PRIMITIVES[kind]}
    assert widths == set(range(1, 13))
    assert random_genotype(3) == random_genotype(3) != random_genotype(4)


def test_command_prints_the_table_and_a_row_for_each_stage_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--genotype", "modnas-b", "--stages", "1", "3", "6", "--size", "48"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "modnas-b, one stage, gray 48x48"
    assert "EB2.2 24x24 sep_conv_5x5 32 -> 40 4,040 2,248,704" in lines
    assert "EB2.3 24x24 skip -> EB2.2" in lines
    assert "DB2.1 12x12 skip -> input" in lines
    memory = f"{summarize(Genotype.load('modnas-b')).activation_bytes / 2**20:.2f} MiB"
    assert lines[-3] == f"1 417,714 0.4834 G 0.4852 G 231 (+-115) {memory}"
    assert lines[-2].startswith("3 1,253,142 1.4501 G 1.4556 G 679 (+-339) ")
    assert lines[-1].startswith("6 2,506,284 2.9003 G 2.9112 G 1351 (+-675) ")


def test_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--genotype", "modnas-ar", "--stages", "2", "1", "--size", "1280x720", "--channels-in", "3", "--json"]
    assert main(["summary", *arguments]) == 0
    documents = json.loads(capsys.readouterr().out)
    assert [document["stages"] for document in documents] == [2, 1]
    costs = ["parameters", "macs", "macs_with_bias", "receptive_field", "receptive_field_radius", "activation_bytes"]
    assert list(documents[0]) == ["genotype", "stages", "channels_in", "height", "width", *costs, "layers"]
    assert documents[0]["genotype"] == "modnas-ar"
    assert (documents[0]["width"], documents[0]["height"], documents[0]["channels_in"]) == (1280, 720, 3)
    assert documents[1] == json.loads(json.dumps(summarize(Genotype.load("modnas-ar"), 1, 3, 720, 1280).to_dict()))
    assert all(type(document[key]) is int for document in documents for key in ("macs", "macs_with_bias"))


def test_command_marks_unused_layers(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    base = bare_genotype("nearest", ("nearest",) * 3)
    unused = Block((Layer("conv_5x5", 9), Skip(1), Skip(0)), Layer("nearest", 2))
    path = f"{tmp_path}/unused.json"
    Genotype(4, (unused, *base.encoder[1:]), base.decoder).save(path)
    assert main(["summary", "--genotype", path]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "EB1.1 48x48 conv_5x5 (unused) 4 -> 9" in lines
    assert "EB1.2 48x48 skip -> EB1.1 (unused)" in lines
    assert "EB1.3 48x48 skip -> input" in lines


@pytest.mark.parametrize("size", ["48x", "x48", "big", "1x2x3", ""])
def test_command_refuses_what_is_no_size(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["summary", "--genotype", "modnas-b", "--size", size])
    assert "1280x720" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--stages", "0"], ["--size", "0"], ["--genotype", "modnas-c"]])
def test_command_refuses_bad_requests_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--genotype", "modnas-b", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_command_prints_baselines_beside_what_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--baselines"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "network parameters published MACs at 48x48 published kMAC a pixel"
    assert "dncnn gray 556,096 556k +0.0% 1.2767 G 1.28 G -0.3% 554.1" in lines
    assert "vdn RGB 7,700,742 2325k +231.2% 1.3001 G 564.3" in lines
    assert "bm3d gray" in lines
    assert any(line.startswith("n3net: 5 % more MACs") for line in lines)


def test_command_prints_baselines_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--baselines", "--channels-in", "3", "--size", "64x32", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert not {"tnrd", "n3net"} & rows.keys()
    assert rows["bm3d"]["macs"] is None
    assert rows["rdn"]["published_parameters_k"] is None
    assert (rows["danet"]["published_parameters_k"], rows["danet"]["parameters"]) == (9154, 9_153_571)
    assert (rows["ffdnet"]["width"], rows["ffdnet"]["height"], rows["ffdnet"]["channels_in"]) == (64, 32, 3)
    assert rows["ffdnet"]["psnr"]["BSD68"] == [31.63, 29.19, 26.29]


@pytest.mark.parametrize("arguments", [["--baselines", "--genotype", "modnas-b"], []])
def test_command_wants_one_of_genotype_and_baselines(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["summary", *arguments])


def test_baselines_have_no_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "--baselines", "--stages", "3"]) == 2
    assert "--stages belongs to --genotype" in capsys.readouterr().err
