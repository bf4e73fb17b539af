"""Averaging searches of several seeds, in numbers and from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from modnas_fast.cli import main
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Genotype, Skip
from modnas_fast.search import SuperNet
from modnas_fast.search.architecture import DEPTH_SEARCHES, Architecture
from modnas_fast.search.average import average_architectures
from modnas_fast.search.derive import derive
from modnas_fast.search.weights import save_supernet


def random_architecture(seed: int, channels: int = 12, depth_search: str = "dense") -> Architecture:
    generator = torch.Generator().manual_seed(seed)
    architecture = Architecture(channels, depth_search)
    with torch.no_grad():
        for raw in architecture.parameters():
            raw.copy_(torch.randn(raw.shape, generator=generator))
    return architecture


def raw(architecture: Architecture, name: str) -> Tensor:
    return architecture.get_parameter(f"encoder.0.layers.0.{name}").detach().double()


@pytest.mark.parametrize("depth_search", DEPTH_SEARCHES)
def test_weights_are_the_mean_of_the_runs(depth_search: str) -> None:
    runs = [random_architecture(seed, depth_search=depth_search) for seed in range(3)]
    average = average_architectures(runs)
    assert average.depth_search == depth_search
    for name in [name for name, _ in average.named_parameters() if not name.endswith("beta")]:
        mean = torch.stack([run.get_parameter(name).detach().double().softmax(0) for run in runs]).mean(0)
        torch.testing.assert_close(average.get_parameter(name).softmax(0), mean, rtol=1e-12, atol=0)


def test_gates_are_averaged_by_rank_whatever_channel_and_scale() -> None:
    runs = [Architecture(3), Architecture(3)]
    with torch.no_grad():
        runs[0].encoder[0].layers[0].beta[0] = torch.tensor([1.0, -6.0, 3.0])  # shares 0.6, 0.3, 0.1
        runs[1].encoder[0].layers[0].beta[0] = torch.tensor([0.02, 0.04, 0.14])  # 0.7, 0.2, 0.1
        runs[1].encoder[0].layers[0].beta[1] = 0.0
    average = average_architectures(runs)
    torch.testing.assert_close(raw(average, "beta")[0], torch.tensor([0.65, 0.25, 0.1], dtype=torch.float64))
    torch.testing.assert_close(raw(average, "beta")[1], torch.full((3,), 1 / 6, dtype=torch.float64))
    assert runs[0].encoder[0].layers[0].beta[0].tolist() == [1.0, -6.0, 3.0]


@pytest.mark.parametrize("depth_search", DEPTH_SEARCHES)
@pytest.mark.parametrize("seed", range(3))
def test_the_average_of_one_run_derives_what_the_run_does(seed: int, depth_search: str) -> None:
    architecture = random_architecture(seed, depth_search=depth_search)
    average = average_architectures([architecture])
    assert derive(average, multiple=2).genotype == derive(architecture, multiple=2).genotype


def test_the_many_outvote_the_one() -> None:
    runs = [Architecture(8) for _ in range(3)]
    with torch.no_grad():
        for run, skips in zip(runs, (True, False, False), strict=True):
            run.encoder[1].layers[2].gamma[1 if skips else 3] = 1.0
    assert derive(runs[0]).genotype.encoder[1].layers[2] == Skip(1)
    assert derive(average_architectures(runs)).genotype.encoder[1].layers[2] != Skip(1)


def test_decided_runs_stay_finite() -> None:
    runs = [Architecture(8), Architecture(8)]
    with torch.no_grad():
        for run in runs:
            run.encoder[0].layers[0].alpha[3] = 1e4
    average = average_architectures(runs)
    assert all(bool(parameter.isfinite().all()) for parameter in average.parameters())
    assert derive(average).genotype.encoder[0].layers[0].op == "sep_conv_5x5"


def test_what_cannot_be_averaged() -> None:
    with pytest.raises(ModnasError, match="no architecture"):
        average_architectures([])
    for other in (Architecture(16), Architecture(8, "skip")):
        with pytest.raises(ModnasError, match="differ in channels or depth_search"):
            average_architectures([Architecture(8), other])


def test_derive_averages_several_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for seed in range(2):
        net = SuperNet(1, 8)
        net.architecture.load_state_dict(random_architecture(seed, 8).state_dict())
        files.append(str(tmp_path / f"seed{seed}.safetensors"))
        save_supernet(files[-1], net)
    output = tmp_path / "found.json"
    assert main(["derive", *files, "-o", str(output)]) == 0
    found = Genotype.load(output)
    assert found.name == "average of 2 searches"
    expected = derive(average_architectures([random_architecture(seed, 8) for seed in range(2)])).genotype
    assert (found.encoder, found.decoder) == (expected.encoder, expected.decoder)
    assert main(["derive", *files, "-o", str(tmp_path / "b.json"), "--inherit", str(tmp_path / "w.safetensors")]) == 2
    assert "name one run" in capsys.readouterr().err
    assert main(["derive", *files, "-o", files[1], "--overwrite"]) == 2
    assert "the supernet itself" in capsys.readouterr().err
