"""Deriving from hand-made and random α, β, γ, and `modnas-fast derive`."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from modnas_fast.cli import main
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import PRIMITIVES, Genotype, Layer, Skip
from modnas_fast.images.degradations import Degradation
from modnas_fast.networks import load
from modnas_fast.networks.summary import summarize
from modnas_fast.search.architecture import Architecture
from modnas_fast.search.derive import derive
from modnas_fast.search.weights import load_supernet, save_supernet
from tests.test_supernet_files import small_supernet

Capture = pytest.CaptureFixture[str]
NAMES = [
    f"{block}{suffix}"
    for block, kind in zip(
        ("EB1", "EB2", "EB3", "DB1", "DB2", "DB3", "DB4"), ("down",) * 3 + ("up",) * 3 + ("",), strict=True
    )
    for suffix in (".1", ".2", ".3", *([f" {kind}"] if kind else []))
]


def named_layers(architecture):
    """The parameters of every layer by its name, walked independently of `derive`."""
    found = {}
    for kind, blocks in (("EB", architecture.encoder), ("DB", architecture.decoder)):
        for i, block in enumerate(blocks, 1):
            found |= {f"{kind}{i}.{j}": layer for j, layer in enumerate(block.layers, 1)}
            for name in ("down", "up"):
                if getattr(block, name) is not None:
                    found[f"{kind}{i} {name}"] = getattr(block, name)
    return found


def hand_made(channels, **values):
    """An initial architecture whose first layer, EB1.1, has these raw parameters."""
    architecture = Architecture(channels)
    layer = architecture.encoder[0].layers[0]
    for name, value in values.items():
        with torch.no_grad():
            getattr(layer, name).copy_(torch.tensor(value, dtype=torch.float64))
    return architecture


def first_layer(architecture, **options):
    derivation = derive(architecture, **options)
    return derivation.genotype.encoder[0].layers[0], derivation.decisions["EB1.1"]


def test_initial_parameters_tie_everywhere():
    """Equal p keep every layer, equal ω take the first operation, equal |β| the lowest channels."""
    derivation = derive(Architecture(48), name="start")
    assert derivation.genotype.name == "start"
    assert derivation.genotype.channels == 48
    assert list(derivation.decisions) == NAMES
    for name, block in derivation.genotype.blocks():
        assert block.layers == (Layer("conv_3x3", 48),) * 3, name  # 0.9 · 48 = 43.2, and 48 is the next multiple of 8
        kind = {"E": "down", "D": "up"}[name[0]]
        assert block.resample == (None if name == "DB4" else Layer(PRIMITIVES[kind][0], 48))
    decision = derivation.decisions["EB1.2"]
    assert decision.gamma_weights == (1 / 3, 1 / 3, 1 / 3)
    assert decision.alpha_weights == (1 / 7,) * 7
    assert derivation.decisions["DB1 up"].gamma_weights == ()


def test_gamma_chooses_depth():
    architecture = Architecture(8)
    gammas = {
        "EB1.1": ([0.5, 0.375], 0),
        "EB1.2": ([0.0, 2.0, 1.0], 1),
        "EB1.3": ([3.0, 0.0, 1.0, 2.0], 0),
        "EB2.1": ([-1.0, -0.5], None),
        "EB2.2": ([1.0, 1.0, 0.0], 1),  # equal sources: the later one
        "EB2.3": ([0.0, 7.0, 7.0, 7.0], None),  # equal to the layer's own: it stays
        "EB3.1": ([1000.0, 999.0], 0),  # softmax must not overflow
    }
    layers = named_layers(architecture)
    for name, (gamma, _) in gammas.items():
        with torch.no_grad():
            layers[name].gamma.copy_(torch.tensor(gamma))
    derivation = derive(architecture)
    blocks = dict(derivation.genotype.blocks())
    for name, (gamma, source) in gammas.items():
        layer = blocks[name[:3]].layers[int(name[4]) - 1]
        assert layer == (Layer("conv_3x3", 8) if source is None else Skip(source)), name
        decision = derivation.decisions[name]
        assert (decision.source, decision.op) == (source, "conv_3x3" if source is None else "skip")
        exponentials = np.exp(np.array(gamma) - max(gamma))
        np.testing.assert_allclose(decision.gamma_weights, exponentials / exponentials.sum(), rtol=1e-14)


def test_alpha_chooses_the_operation():
    architecture = Architecture(8)
    chosen = {}
    seen = dict.fromkeys(PRIMITIVES, 0)
    for name, layer in named_layers(architecture).items():
        kind = name.split()[1] if " " in name else "normal"
        best = seen[kind] % len(PRIMITIVES[kind])
        seen[kind] += 1
        chosen[name] = PRIMITIVES[kind][best]
        with torch.no_grad():
            layer.alpha.copy_(torch.linspace(-1, 0.3, len(layer.alpha)))
            layer.alpha[best] = 0.5
            if best + 1 < len(layer.alpha):
                layer.alpha[best + 1] = 0.5  # of equals the first
    assert {op for name, op in chosen.items() if " " not in name} == set(PRIMITIVES["normal"])
    decisions = derive(architecture).decisions
    assert {name: decision.op for name, decision in decisions.items()} == chosen
    weights = decisions["EB1.1"].alpha_weights
    assert math.isclose(sum(weights), 1)
    assert weights[0] == weights[1] == max(weights)


def test_the_chosen_operations_beta_chooses_the_width():
    beta = np.zeros((7, 16))
    beta[0] = 1  # of an operation that loses
    beta[3, [15, 2, 7]] = [-10, 4, 3]
    beta[3, [0, 9]] = [0.5, -0.5]
    alpha = [0, 0, 0, 1.0, 0, 0, 0]
    layer, decision = first_layer(hand_made(16, alpha=alpha, beta=beta), keep=0.9, multiple=1)
    assert layer == Layer("sep_conv_5x5", 3)  # 17 of 18 ≥ 16.2, 14 of 18 is not
    assert decision.kept == (2, 7, 15)
    assert decision.share == 17 / 18
    layer, decision = first_layer(hand_made(16, alpha=alpha, beta=beta), keep=0.9, multiple=2)
    assert decision.kept == (0, 2, 7, 15)  # |β| of 0 and 9 are equal: the lower index
    assert decision.share == 17.5 / 18
    layer, decision = first_layer(hand_made(16, alpha=alpha, beta=beta))
    assert decision.kept == (0, 1, 2, 3, 4, 7, 9, 15)  # filled up with zeros, lowest first
    assert decision.share == 1


@pytest.mark.parametrize(
    ("channels", "beta", "keep", "multiple", "kept", "share"),
    [
        (16, 0.0, 0.9, 8, range(8), 1.0),  # all zero: the fewest
        (16, 0.0, 1.0, 8, range(8), 1.0),
        (16, -0.0, 0.0, 1, range(1), 1.0),
        (16, 1.0, 0.0, 8, range(8), 0.5),  # keep nothing: still the fewest
        (16, 1.0, 0.0, 1, range(1), 1 / 16),
        (16, 1.0, 1.0, 8, range(16), 1.0),
        (16, -1.0, 0.5, 8, range(8), 0.5),  # exactly the share
        (16, 1.0, 0.51, 8, range(16), 1.0),
        (1, 0.3, 0.9, 8, range(1), 1.0),  # one channel
        (1, 0.0, 0.9, 1, range(1), 1.0),
        (5, 1.0, 0.1, 8, range(5), 1.0),  # C < multiple
        (12, 1.0, 0.5, 8, range(8), 8 / 12),
        (12, 1.0, 0.7, 8, range(12), 1.0),  # C is no multiple: the last width is C
        (10, 0.1, 0.9, 1, range(9), 0.9),  # neither 0.9 nor 0.1 is exact in binary; the answer is
        (100, 0.1, 0.29, 1, range(29), 0.29),  # 0.29 · 100 = 28.999999999999996 in float64
        (100, 0.1, 0.07, 1, range(7), 0.07),  # 0.07 · 100 = 7.000000000000001
        (10, 1e-45, 0.9, 1, range(9), 0.9),  # the least float32
        (10, 3e38, 0.9, 1, range(9), 0.9),
    ],
)
def test_degenerate_widths(channels, beta, keep, multiple, kept, share):
    architecture = hand_made(channels, beta=np.full((7, channels), beta))
    layer, decision = first_layer(architecture, keep=keep, multiple=multiple)
    assert decision.kept == tuple(kept)
    assert layer == Layer("conv_3x3", len(kept))
    assert decision.share == pytest.approx(share, rel=1e-15)


def test_keeping_everything_keeps_what_float64_would_lose():
    """keep = 1: 1 + 1e-30 is 1 in float64, and that channel still counts; a zero does not."""
    beta = np.zeros((7, 4))
    beta[:, :3] = [1e-30, 1.0, -1.0]
    assert first_layer(hand_made(4, beta=beta), keep=1, multiple=1)[1].kept == (0, 1, 2)
    assert first_layer(hand_made(4, beta=beta), keep=0.999, multiple=1)[1].kept == (1, 2)


def test_everything_skipped():
    architecture = Architecture(16)
    with torch.no_grad():
        for layer in named_layers(architecture).values():
            if hasattr(layer, "gamma"):
                layer.gamma[0] = 1
    genotype = derive(architecture).genotype
    for _, block in genotype.blocks():
        assert block.layers == (Skip(0),) * 3
        assert block.live_layers() == ()
    assert summarize(genotype).parameters > 0  # it builds


@pytest.mark.parametrize(
    ("alpha", "op"),
    [
        ([0.0] * 8, "conv_3x3"),  # a tie keeps the layer
        ([0, 0, 0, 0, 0, 0, 1, 1], "res_block_3x3"),
        ([0, 0, 0, 0, 0, 0, 1, 1.01], "skip"),  # although all operations together have more
        ([2, 2, 2, 2, 2, 2.5, 2, 2.4], "dil_conv_5x5"),
    ],
)
def test_skip_candidates(alpha, op):
    """The largest of eight: the skip is chosen as any other candidate is, and is L^{ℓ−1} then."""
    architecture = Architecture(8, "skip")
    with torch.no_grad():
        for layer in architecture.mixtures("normal"):
            layer.alpha.copy_(torch.tensor(alpha))
    derivation = derive(architecture)
    for block in (*derivation.genotype.encoder, *derivation.genotype.decoder):
        for depth, layer in enumerate(block.layers, 1):
            assert layer == (Skip(depth - 1) if op == "skip" else Layer(op, 8))
    decision = derivation.decisions["EB2.3"]
    assert decision.op == op
    assert decision.alpha_weights == pytest.approx(np.exp(alpha) / np.exp(alpha).sum(), rel=1e-6)
    assert decision.gamma_weights == ()
    keys = {"op", "source", "alpha_weights"} if op == "skip" else {"op", "channels", "alpha_weights", "kept", "share"}
    assert decision.to_dict().keys() == keys
    assert Genotype.from_json(derivation.genotype.to_json()) == derivation.genotype


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_architectures_by_numpy(seed, dtype):
    """Eq. 9-11 once more, in NumPy, by trying all widths."""
    torch.manual_seed(seed)
    architecture = Architecture(24)
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.copy_(torch.randn_like(parameter) ** 3)
    architecture.to(dtype)
    keep, multiple = 0.5 + 0.12 * seed, (1, 4, 8, 5)[seed]
    derivation = derive(architecture, keep, multiple)
    blocks = dict(derivation.genotype.blocks())
    skips = 0
    for name, raw in named_layers(architecture).items():
        block, decision = blocks[name[:3]], derivation.decisions[name]
        layer = block.resample if " " in name else block.layers[int(name[4]) - 1]
        raw = {key: value.detach().double().numpy() for key, value in raw.named_parameters()}
        if "gamma" in raw and raw["gamma"].argmax() < len(raw["gamma"]) - 1:
            assert layer == Skip(raw["gamma"].argmax())
            skips += 1
            continue
        row = np.abs(raw["beta"][raw["alpha"].argmax()])
        descending = np.sort(row)[::-1]
        width = min(m for m in {*range(multiple, 24, multiple), 24} if descending[:m].sum() >= keep * row.sum())
        assert layer.channels == width
        assert row[list(decision.kept)].min() >= np.delete(row, decision.kept).max(initial=0)
        assert list(decision.kept) == sorted(set(decision.kept))
        np.testing.assert_allclose(decision.share, descending[:width].sum() / row.sum(), rtol=1e-12)
    assert 0 < skips < 21


def test_decisions_are_in_the_json_and_survive(tmp_path):
    architecture = hand_made(16, gamma=[1.0, 0.0])
    derivation = derive(architecture, 0.8, 4)
    path = tmp_path / "genotype.json"
    derivation.genotype.save(path)
    document = json.loads(path.read_text(encoding="utf-8"))["derivation"]
    assert (document["keep"], document["multiple"]) == (0.8, 4)
    assert [entry["layer"] for entry in document["layers"]] == NAMES
    skipped, kept = document["layers"][:2]
    p = list(derivation.decisions["EB1.1"].gamma_weights)
    assert skipped == {"layer": "EB1.1", "op": "skip", "source": 0, "gamma_weights": p}
    assert kept == {
        "layer": "EB1.2",
        "op": "conv_3x3",
        "channels": 16,
        "gamma_weights": [1 / 3] * 3,
        "alpha_weights": [1 / 7] * 7,
        "kept": list(range(16)),
        "share": 1.0,
    }
    again = Genotype.load(path)
    assert (again, again.derivation) == (derivation.genotype, derivation.genotype.derivation)
    assert again.to_json() == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("name", "parameter"),
    [(name, parameter) for name in ("EB1.1", "DB2.3") for parameter in ("alpha", "beta", "gamma")]
    + [(name, parameter) for name in ("EB3 down", "DB3 up") for parameter in ("alpha", "beta")],
)
def test_nan_names_the_layer(name, parameter, value):
    architecture = Architecture(8)
    layers = named_layers(architecture)
    with torch.no_grad():
        getattr(layers[name], parameter).view(-1)[-1] = value  # of β, an operation that is not chosen
        if hasattr(layers[name], "gamma") and parameter != "gamma":
            layers[name].gamma[0] = 1  # and a layer that is skipped
    with pytest.raises(ModnasError, match=f"^{parameter} of layer {name} holds NaN") as caught:
        derive(architecture)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep": 1.01}, "keep is 1.01"),
        ({"keep": -0.1}, "keep is -0.1"),
        ({"keep": float("nan")}, "keep is nan"),
        ({"keep": 90}, "keep is 90; it is the share"),
        ({"multiple": 0}, "multiple is 0"),
        ({"multiple": -8}, "multiple is -8"),
        ({"multiple": 8.0}, "multiple is 8.0"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(ModnasError, match=says):
        derive(Architecture(8), **options)


def test_deriving_changes_nothing():
    torch.manual_seed(0)
    architecture = Architecture(8)
    before = {name: value.clone() for name, value in architecture.state_dict().items()}
    random_state = torch.get_rng_state()
    assert derive(architecture) == derive(architecture)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in architecture.state_dict().items())


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "my-search"
    save_supernet(folder / "supernet.safetensors", small_supernet(2, 16), Degradation("awgn", (25,)))
    return folder


def test_command_writes_genotype_and_weights(run_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    output, weights = tmp_path / "new" / "genotype.json", tmp_path / "new" / "weights.safetensors"
    command = ["derive", str(run_folder), "-o", str(output), "--inherit", str(weights), "--keep", "0.7"]
    assert main([*command, "--multiple", "4"]) == 0
    printed = capsys.readouterr().out
    genotype = Genotype.load(output)
    supernet = load_supernet(run_folder / "supernet.safetensors")
    expected = derive(supernet.architecture, 0.7, 4)
    assert (genotype, genotype.name, genotype.derivation) == (
        expected.genotype,
        "my-search",
        expected.genotype.derivation,
    )
    net = load(weights)
    assert (net.genotype, len(net.stages), net.degradation) == (genotype, 2, Degradation("awgn", (25,)))
    assert net.genotype.derivation == genotype.derivation
    summary = summarize(genotype)
    assert f"my-search, one stage, gray 48x48: {summary.parameters:,} parameters, " in printed
    assert f"{summary.macs / 1e9:.4f} G MACs ({summary.macs_with_bias / 1e9:.4f} G with biases)" in printed
    lines = printed.splitlines()
    assert lines[-2:] == [str(output), str(weights)]
    for line, (name, decision) in zip(lines[1:], expected.decisions.items(), strict=False):
        assert line.startswith(f"{name:8}  {decision.op if decision.source is None else 'skip -> '}")
        if decision.source is None:
            assert f"{100 * decision.share:.1f} %  {max(decision.alpha_weights):6.3f}" in line
    assert sorted(path.name for path in output.parent.iterdir()) == ["genotype.json", "weights.safetensors"]


def test_command_takes_a_file_and_replaces_only_when_told(run_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    source, output = run_folder / "supernet.safetensors", tmp_path / "genotype.json"
    assert main(["derive", str(source), "-o", str(output)]) == 0
    assert Genotype.load(output).name == "supernet"
    before = output.read_bytes()
    again = ["derive", str(source), "-o", str(output), "--keep", "0.3", "--multiple", "1"]
    assert main(again) == 2
    assert "genotype.json exists; choose another name, or add --overwrite" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert main([*again, "--overwrite"]) == 0
    assert output.read_bytes() != before


def test_command_refuses_clearly(run_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    source, output = str(run_folder / "supernet.safetensors"), str(tmp_path / "genotype.json")
    file = tmp_path / "file"
    file.touch()
    whole = Path(source).read_bytes()
    for arguments, says in (
        ([str(tmp_path), "-o", output], "no such file; give a supernet.safetensors"),
        ([str(file), "-o", output], "not a readable safetensors file"),
        ([source, "-o", output, "--keep", "2"], "keep is 2.0"),
        ([source, "-o", output, "--multiple", "0"], "multiple is 0"),
        ([source, "-o", source, "--overwrite"], "is the supernet itself"),
        ([source, "-o", output, "--inherit", source, "--overwrite"], "is the supernet itself"),
        ([source, "-o", output, "--inherit", output], "is both the genotype and the weights"),
        ([source, "-o", str(tmp_path), "--overwrite"], "is a folder"),
        ([source, "-o", output, "--inherit", str(file)], "file exists"),
        ([source, "-o", str(file / "genotype.json")], "file"),
    ):
        assert main(["derive", *arguments]) == 2, arguments
        captured = capsys.readouterr()
        assert says in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    assert Path(source).read_bytes() == whole
    assert not Path(output).exists()
