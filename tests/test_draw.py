"""Networks drawn from a search's probabilities, and `modnas-fast draw`."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from modnas_fast import Genotype, ModnasError
from modnas_fast.cli import main
from modnas_fast.genotype import PRIMITIVES, Layer, Skip
from modnas_fast.images.degradations import Degradation
from modnas_fast.search.architecture import Architecture
from modnas_fast.search.derive import derive
from modnas_fast.search.draw import draw, draw_within
from modnas_fast.search.latency import LatencyTable, predict_latency
from modnas_fast.search.weights import save_supernet
from tests.test_latency import law, table_of
from tests.test_supernet_files import small_supernet

DRAWS = 600


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return table_of(law)


def agrees(counts: Counter, probabilities: dict, total: int) -> bool:
    """By χ², at about one in a million."""
    expected = {key: total * p for key, p in probabilities.items()}
    assert counts.keys() <= expected.keys()
    chi_square = sum((counts[key] - value) ** 2 / value for key, value in expected.items())
    degrees = len(expected) - 1
    return chi_square < degrees + 7 * np.sqrt(2 * degrees) + 8


def test_every_choice_has_its_probability() -> None:
    architecture = Architecture(8)
    layer, resample = architecture.encoder[0].layers[1], architecture.decoder[0].up
    with torch.no_grad():
        layer.gamma.copy_(torch.tensor([0.5, -1.0, 1.0]))
        layer.alpha.copy_(torch.linspace(-1, 1, len(PRIMITIVES["normal"])))
        resample.alpha.copy_(torch.linspace(1, -1, len(PRIMITIVES["up"])))
    before = {name: value.clone() for name, value in architecture.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    drawn = [draw(architecture, generator) for _ in range(DRAWS)]
    assert all(torch.equal(value, before[name]) for name, value in architecture.state_dict().items())
    second = [genotype.encoder[0].layers[1] for genotype in drawn]
    p = layer.gamma.softmax(0).tolist()
    sources = Counter(found.source if isinstance(found, Skip) else 2 for found in second)
    assert agrees(sources, dict(enumerate(p)), DRAWS)
    operations = Counter(found.op for found in second if isinstance(found, Layer))
    assert agrees(operations, dict(zip(PRIMITIVES["normal"], layer.alpha_weights.tolist(), strict=True)), sources[2])
    ups = Counter(genotype.decoder[0].resample.op for genotype in drawn)
    assert agrees(ups, dict(zip(PRIMITIVES["up"], resample.alpha_weights.tolist(), strict=True)), DRAWS)


def test_a_decided_search_is_derived() -> None:
    torch.manual_seed(0)
    architecture = Architecture(16)
    with torch.no_grad():
        for name, parameter in architecture.named_parameters():
            parameter.copy_(torch.randn_like(parameter) if name.endswith("beta") else 1e3 * torch.randn_like(parameter))
    assert draw(architecture, torch.Generator().manual_seed(0), 0.7) == derive(architecture, 0.7).genotype


def test_latencies_lie_between(table: LatencyTable) -> None:
    torch.manual_seed(0)
    architecture = Architecture(48)
    with torch.no_grad():
        for layer in architecture.mixtures("normal"):
            layer.beta.copy_(torch.randn_like(layer.beta))
    generator = torch.Generator().manual_seed(9)
    usual = sorted(predict_latency(draw(architecture, generator, 0.6), table) for _ in range(30))
    least, most = usual[5], usual[20]

    def drawn(seed: int) -> list[tuple[Genotype, float]]:
        return list(itertools.islice(draw_within(architecture, table, least, most, seed, 0.3), 6))

    found = drawn(1)
    assert found == drawn(1)
    assert found != drawn(2)
    assert len({genotype for genotype, _ in found}) == 6
    for genotype, latency in found:
        assert latency == predict_latency(genotype, table)
        assert least <= latency <= most
    widths = {layer.channels for g, _ in found for _, b in g.blocks() for layer in b.layers if isinstance(layer, Layer)}
    assert len(widths) > 3
    with pytest.raises(ModnasError, match=r"the range is 4 to 3 ms; give the least latency first"):
        next(draw_within(architecture, table, 4, 3, 0))


def test_nothing_within_reach_ends(table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modnas_fast.search.draw._MOST_TRIES", 20)
    with pytest.raises(ModnasError, match=r"no network of 0 to 0\.001 ms in 20 draws; widen the range"):
        next(draw_within(Architecture(48), table, 0, 1e-3, 0))


def test_command(table: LatencyTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, latency, output = tmp_path / "run", tmp_path / "latency.json", tmp_path / "new" / "drawn"
    supernet = small_supernet(2, 16)
    save_supernet(run / "supernet.safetensors", supernet, Degradation("awgn", (25,)))
    table.save(latency)
    command = ["draw", str(run), "--latency", str(latency), "-o", str(output), "--count", "3", "--keep", "0.5"]
    assert main([*command, "--between", "0", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    drawn = draw_within(supernet.architecture, table, 0, 1000, 0, 0.5)
    for number, (line, (genotype, ms)) in enumerate(zip(lines[1:-1], itertools.islice(drawn, 3), strict=True), 1):
        assert Genotype.load(output / f"draw-0{number}.json") == genotype
        assert line.split()[:2] == [f"draw-0{number}", f"{ms:.1f}"]
    assert lines[-1] == str(output)
    for options, says in (
        (["--between", "0", "1000"], "holds drawn networks already; choose another folder"),
        (["--between", "9", "1", "-o", str(tmp_path / "other")], "the range is 9 to 1 ms"),
        (["--between", "1", "9", "-o", str(tmp_path / "other"), "--count", "0"], "count is 0; it must be at least 1"),
        (["--between", "1", "9", "-o", str(tmp_path / "other"), "--keep", "2"], "keep is"),
    ):
        assert main([*command, *options]) == 2
        assert says in capsys.readouterr().err
    assert len(list(output.iterdir())) == 3
    assert not (tmp_path / "other").exists()
