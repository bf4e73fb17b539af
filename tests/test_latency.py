"""Latency tables: hand-made ones with known laws, a stopped clock, files, and `modnas-fast profile-ops`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from modnas_fast import Genotype, ModnasError
from modnas_fast.cli import VERBS, main
from modnas_fast.genotype import PRIMITIVES, Skip
from modnas_fast.networks.summary import summarize
from modnas_fast.runs.config import ConfigError
from modnas_fast.search import profiling
from modnas_fast.search.architecture import Architecture
from modnas_fast.search.config import SearchConfig
from modnas_fast.search.cost import expected_cost
from modnas_fast.search.history import append_record
from modnas_fast.search.latency import (
    LATENCY_FILE,
    LatencyError,
    LatencyTable,
    NetworkTime,
    OperationTime,
    Settings,
    penalty_table,
    predict_latency,
)
from modnas_fast.search.parts import LEVELS, PARTS
from modnas_fast.search.profiling import profile, profiled_widths
from modnas_fast.search.report import write_report
from tests.cases import random_genotype
from tests.search_histories import healthy_history

SETTINGS = Settings("a machine", "cpu", 1, "2.11", "2026-01-01T00:00:00+00:00", 48, 1, 48, 9)


def law(part, u, v):
    """Milliseconds, different for every part, and none of them of the laws' making alone."""
    weight = 1 + PARTS.index(part)
    return 0.02 * weight + 1e-4 * u + 2e-4 * v + 1e-6 * weight * u * v + 3e-6 * u * u


def table_of(cost, settings=SETTINGS, widths=(16, 32, 48), validation=()):
    operations = [
        OperationTime(part.kind, part.op, part.level, u, v, cost(part, u, v), cost(part, u, v), cost(part, u, v))
        for part in PARTS
        for u, v in part.widths(widths, settings.channels_in)
    ]
    return LatencyTable(settings, tuple(operations), validation)


@pytest.fixture(scope="module")
def table():
    return table_of(law)


def live_parts(genotype: Genotype) -> Iterator[tuple]:
    """(part, u, v) of every row of the network's summary, told by name."""
    parts = {(part.kind, part.op, part.level): part for part in PARTS}
    levels = dict(zip(("EB1", "EB2", "EB3", "DB1", "DB2", "DB3", "DB4"), LEVELS, strict=True))
    fixed = {"stem.1": ("stem", "first", 0), "stem.2": ("stem", "second", 0), "out": ("out", "conv_1x1", 0)}
    fixed["delta"] = ("relaxation", "relaxation", 0)
    for row in summarize(genotype).layers:
        if row.op == "skip" or not row.used:
            continue
        kind = row.name.partition(" ")[2] or "normal"
        key = fixed.get(row.name) or (kind, row.op, levels[row.name[:3]])
        yield parts[key], *((row.channels_in, row.channels_out) if row.name != "delta" else (1, 1))


def even_genotype(seed):
    """Random, with even widths, so that a fuse's half is whole."""
    genotype = random_genotype(seed, max_channels=24)

    def even(layer):
        return layer if layer is None or isinstance(layer, Skip) else replace(layer, channels=2 * layer.channels)

    def blocks(old):
        return tuple(
            replace(block, layers=tuple(map(even, block.layers)), resample=even(block.resample)) for block in old
        )

    return replace(
        genotype, channels=2 * genotype.channels, encoder=blocks(genotype.encoder), decoder=blocks(genotype.decoder)
    )


@pytest.mark.parametrize("name", ["modnas-b", "modnas-ar", 0, 1, 2, 3])
def test_prediction_is_the_sum_of_the_parts(table, name):
    genotype = Genotype.load(name) if isinstance(name, str) else even_genotype(name)
    expected = sum(law(*part) for part in live_parts(genotype))
    assert predict_latency(genotype, table) == pytest.approx(expected, rel=1e-6, abs=0.5 * 1e-3)
    assert predict_latency(genotype, table, stages=3) == pytest.approx(3 * predict_latency(genotype, table))


def test_laws_fit_noise_and_never_fall(table):
    """Times that fall with width are noise: the law stays level."""
    costs = table_of(lambda part, u, v: 1 / (u + v)).costs(48)
    for laws in (costs.normal, costs.down, costs.up, costs.fuse, costs.out):
        assert laws.min() >= 0
    assert costs.normal[..., 1:].max() < 1e-9
    assert costs.unit == "ms"


def test_latency_is_a_penalty(table):
    architecture = Architecture(24)
    cost = expected_cost(architecture, table.costs(24))
    assert cost.item() == pytest.approx(1)
    cost.backward()
    alpha = architecture.encoder[0].layers[2].alpha.grad
    assert alpha.abs().max() > 0
    slowest = max(range(7), key=lambda k: law(PARTS[k], 24, 24))
    assert alpha.argmax() == slowest


def test_round_trip(table, tmp_path):
    validated = replace(table, validation=(NetworkTime("a", 8, 11, 10, 9, 12), NetworkTime("b", 8, 9.5, 10, 9, 12)))
    validated.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == validated
    document = json.loads((tmp_path / "table.json").read_text())
    assert document["mean_absolute_relative_error"] == pytest.approx(0.075)
    assert [network.error for network in validated.validation] == pytest.approx([0.1, -0.05])
    assert table.mean_error is None
    assert table.context == 1
    assert validated.context == 1.25
    genotype = Genotype.load("modnas-b")
    assert predict_latency(genotype, validated) == pytest.approx(1.25 * predict_latency(genotype, table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="modnas_fast.genotype"), "not a latency table"),
        (lambda d: d.update(version=2), "version is 2; this release reads 1"),
        (lambda d: d.pop("validation"), "lacks the field 'validation'"),
        (lambda d: d.update(note=1), "unknown field 'note'"),
        (lambda d: d["settings"].pop("threads"), "settings: threads is missing"),
        (lambda d: d["settings"].update(size=20), "settings: size is 20; it must be a multiple of 8"),
        (lambda d: d["settings"].update(channels=0), "settings: channels is 0"),
        (lambda d: d["operations"][3].update(median_ms=float("nan")), r"operations\[3\]: median_ms is nan"),
        (lambda d: d["operations"][3].update(p20_ms="soon"), r"operations\[3\]: p20_ms is 'soon'"),
        (
            lambda d: d["operations"][0].update(op="conv_7x7"),
            r"operations\[0\]: there is no normal operation 'conv_7x7'",
        ),
        (lambda d: d["operations"].pop(), "operations lack relaxation 'relaxation' at level 0"),
        (lambda d: d.update(operations={}), "operations must be a list, not dict"),
        (lambda d: d.update(validation=[1]), r"validation\[0\] must be a JSON object, not int"),
    ],
)
def test_the_reader_is_strict(table, tmp_path, change, message):
    path = tmp_path / "table.json"
    table.save(path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(LatencyError, match=f"table.json: .*{message}"):
        LatencyTable.load(path)


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(LatencyError, match=r"No such file.*profile-ops"):
        LatencyTable.load(tmp_path / "none.json")
    for content in (b"\xff\xfe", b"{", b"[]"):
        (tmp_path / "table.json").write_bytes(content)
        with pytest.raises(LatencyError, match=r"table\.json: not "):
            LatencyTable.load(tmp_path / "table.json")


def test_nothing_wider_than_measured(table):
    small = table_of(law, replace(SETTINGS, channels=32), (8, 32))
    with pytest.raises(LatencyError, match="ends at 32 channels; profile again with --channels 48"):
        predict_latency(Genotype.load("modnas-b"), small)
    with pytest.raises(LatencyError, match="--channels 64"):
        table.costs(64)


@pytest.mark.parametrize(
    ("channels", "widths"),
    [
        (48, (8, 16, 24, 32, 40, 48)),
        (64, (16, 24, 32, 48, 56, 64)),
        (23, (8, 16, 23)),
        (16, (8, 16)),
        (12, (2, 4, 6, 8, 10, 12)),
        (4, (1, 2, 3, 4)),
        (1, (1,)),
    ],
)
def test_profiled_widths(channels, widths):
    assert profiled_widths(channels) == widths


def test_profile_with_a_clock_that_ticks(monkeypatch):
    """Every call takes 1 ms by this clock, networks too: a network's parts take as many as it has of them."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: 1e-3 * next(ticks))
    torch.manual_seed(5)
    shares = []
    table = profile(3, 8, 3, torch.device("cpu"), 1, 2, lambda share, text: shares.append(share))
    assert torch.initial_seed() == 5
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(5)))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert {entry.part for entry in table.operations} == set(PARTS)
    assert [entry.median_ms for entry in table.operations] == pytest.approx([1] * len(table.operations))
    assert [network.network for network in table.validation] == ["random-0", "random-1"]
    parts = [len(list(live_parts(profiling._random_genotype(seed, 3)))) for seed in range(2)]
    assert [network.parts_ms for network in table.validation] == pytest.approx(parts)
    assert [network.median_ms for network in table.validation] == pytest.approx([1, 1])
    assert [network.predicted_ms for network in table.validation] == pytest.approx(
        [parts[0] / parts[1], parts[1] / parts[0]]
    )
    assert table.context == pytest.approx((1 / parts[0] + 1 / parts[1]) / 2)


def test_random_networks_differ():
    genotypes = [profiling._random_genotype(seed, 48) for seed in range(9)]
    widths = {layer.channels for g in genotypes for _, b in g.blocks() for _, layer in b.live_layers()}
    ops = {layer.op for g in genotypes for _, b in g.blocks() for _, layer in b.live_layers()}
    assert widths >= {16, 24, 32, 40, 48}
    assert ops == set(PRIMITIVES["normal"])
    assert len(set(genotypes)) == 9


def test_command(tmp_path, capsys):
    path = tmp_path / "tables" / "table.json"
    threads = torch.get_num_threads()
    small = ["--channels", "2", "--size", "8", "--repeats", "1", "--device", "cpu", "--threads", "1"]
    assert main(["profile-ops", "-o", str(path), *small, "--validate", "1"]) == 0
    printed = capsys.readouterr()
    assert "random-0" in printed.out
    assert "mean absolute relative error" in printed.out
    assert printed.out.endswith(f"{path}\n")
    assert torch.get_num_threads() == threads
    table = LatencyTable.load(path)
    assert table.settings.threads == 1
    assert table.settings.torch == torch.__version__
    assert len(table.validation) == 1
    assert main(["profile-ops", "-o", str(path)]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "20"], "size is 20; it must be a multiple of 8"),
        (["--channels", "0"], "channels is 0"),
        (["--repeats", "0"], "repeats is 0"),
        (["--validate", "-1"], "--validate is -1"),
        (["--threads", "-1"], "--threads is -1"),
        (["--device", "abacus"], "device is 'abacus'"),
    ],
)
def test_command_refuses(tmp_path, capsys, options, message):
    assert main(["profile-ops", "-o", str(tmp_path / "table.json"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_verb_is_listed():
    assert "profile-ops" in VERBS


def search(**changes):
    return SearchConfig("run", ("data",), **changes)


def test_penalty_tables(table, tmp_path):
    path = str(tmp_path / "table.json")
    table.save(path)
    latency = {"penalty": "latency", "penalty_weight": 1e-4, "latency_table": path}
    assert penalty_table(search()) is None
    assert penalty_table(search(penalty="parameters", penalty_weight=1e-4, channels=16)).unit == "parameters"
    assert penalty_table(search(**latency)).channels == 48
    with pytest.raises(LatencyError, match="images of 1 channels; profile again with --channels-in 3"):
        penalty_table(search(**latency, channels_in=3))
    with pytest.raises(ModnasError, match="--channels 64"):
        penalty_table(search(**latency, channels=64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"penalty": "energy", "penalty_weight": 1}, "penalty is 'energy'; choose"),
        ({"penalty": "macs"}, "penalty_weight is 0.0; the penalty 'macs' needs a positive weight"),
        ({"penalty": "macs", "penalty_weight": -1.0}, "penalty_weight is -1.0; it must be finite"),
        ({"penalty": "macs", "penalty_weight": float("nan")}, "penalty_weight is nan"),
        ({"penalty": "macs", "penalty_weight": float("inf")}, "penalty_weight is inf"),
        ({"penalty_weight": 1e-4}, "without a penalty it does nothing"),
        ({"penalty": "latency", "penalty_weight": 1e-4}, "latency_table is ''; name the file"),
    ],
)
def test_penalty_configuration(changes, message):
    with pytest.raises(ConfigError, match=message):
        search(**changes)


def test_the_report_shows_predictions_beside_what_was_measured(tmp_path, table):
    networks = (NetworkTime("modnas-b", 9.0, 10.0, 8.0, 7.5, 8.8), NetworkTime("random <1>", 9.0, 9.0, 10.0, 9.5, 11.0))
    table = replace(table, validation=networks)
    records = healthy_history(6, warmup=2)
    for name, config in (("run", {"stages": 2}), ("empty", {})):
        (tmp_path / name).mkdir()
        table.save(tmp_path / name / LATENCY_FILE)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    for record in records:
        append_record(tmp_path / "run" / "history.jsonl", record)
    write_report([tmp_path / "run"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    predicted = predict_latency(Genotype.load("modnas-b"), table, 2)
    assert f"T = 2: <strong>{predicted:.3g} ms</strong> predicted" in page
    assert "a machine (cpu, 1 threads, torch 2.11) for one stage and a 48×48 image, 2026-01-01" in page
    assert "err by 17.5% on average" in page
    assert "<td>10.000</td><td>8.000 <small>7.500–8.800</small></td><td>+25.0%</td>" in page
    assert "random &lt;1&gt;" in page
    write_report([tmp_path / "empty"], tmp_path / "empty.html")
    assert "Predicted and measured latency" in (tmp_path / "empty.html").read_text(encoding="utf-8")
    replace(table, validation=()).save(tmp_path / "run" / LATENCY_FILE)
    write_report([tmp_path / "run"], tmp_path / "report.html")
    assert "No whole network was measured" in (tmp_path / "report.html").read_text(encoding="utf-8")
