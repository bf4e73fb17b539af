"""Latency tables of the compiled engine: which of its layers make up a part, and `modnas-fast profile-ops --engine`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modnas_fast.cli import main
from modnas_fast.engine import profiling
from modnas_fast.engine.engine import Engine, Plan, engine_obstacle
from modnas_fast.engine.profiling import profile_engine
from modnas_fast.search.latency import LatencyTable, predict_latency
from modnas_fast.search.parts import PARTS

pytestmark = pytest.mark.skipif(bool(engine_obstacle()), reason=f"engine: {engine_obstacle()}")

# Milliseconds that the operations take if each of the engine's layers takes one; others are one layer.
TWO_LAYERS = {
    "normal": {"sep_conv_3x3", "sep_conv_5x5", "res_block_3x3"},
    "up": {"bilinear", "nearest", "area"},
}


class SteadyEngine(Engine):
    """Every layer of every call takes 1 ms."""

    def plan(self, height: int, width: int, timed: bool = False) -> Plan:
        plan = super().plan(height, width, timed)
        return replace(plan, rows=tuple(replace(row, seconds=1e-3) for row in plan.rows))


@pytest.fixture(scope="module")
def table():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiling, "Engine", SteadyEngine)
        torch.manual_seed(5)
        shares = []
        table = profile_engine(16, 8, 1, 1, 3, 2, lambda share, text: shares.append(share))
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(5)))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    return table


def test_every_part_is_measured_at_several_widths(table):
    assert {entry.part for entry in table.operations} == set(PARTS)
    for part in PARTS:
        widths = {(entry.channels_in, entry.channels_out) for entry in table.operations if entry.part == part}
        assert len(widths) >= (1 if part.kind == "relaxation" else 2), part


def test_a_part_is_the_sum_of_its_layers(table):
    for entry in table.operations:
        if entry.kind == "relaxation":
            continue
        expected = 2 if entry.op in TWO_LAYERS.get(entry.kind, ()) else 1
        assert entry.median_ms == pytest.approx(expected), entry
        assert entry.p20_ms == pytest.approx(entry.p80_ms)


def test_predictions_are_sums_of_layers(table):
    rest = [entry.median_ms for entry in table.operations if entry.kind == "relaxation"]
    assert len(rest) == 40
    assert [network.network for network in table.validation] == ["random-0", "random-1"]
    assert table.settings.device.startswith("cpu, the engine's ")
    assert table.settings.threads == 1
    genotype = profiling.checked_genotypes(16, 1)[0]
    engine = SteadyEngine(genotype, profiling.DerivedNet(genotype).state_dict(), threads=1)
    layers = len(engine.plan(8, 8).rows)
    alone = replace(table, validation=())
    assert predict_latency(genotype, alone) == pytest.approx(layers, rel=0.05, abs=max(rest))


def test_command(tmp_path, capsys):
    path = tmp_path / "table.json"
    small = ["--channels", "8", "--size", "8", "--repeats", "1", "--threads", "1", "--validate", "1"]
    assert main(["profile-ops", "--engine", "-o", str(path), *small]) == 0
    assert "the engine's" in capsys.readouterr().out
    table = LatencyTable.load(path)
    assert table.settings.threads == 1
    assert len(table.validation) == 1
    assert main(["profile-ops", "--engine", "--device", "cuda", "-o", str(tmp_path / "other.json")]) == 2
    assert "--engine measures on the CPU" in capsys.readouterr().err
