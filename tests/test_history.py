"""The search's history: records say what the architecture is, and the file survives crashes and resumptions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modnas_fast import Genotype, ModnasError
from modnas_fast.genotype import PRIMITIVES, Skip
from modnas_fast.networks.summary import summarize
from modnas_fast.search import SuperNet
from modnas_fast.search.architecture import Architecture
from modnas_fast.search.derive import derive
from modnas_fast.search.history import append_record, epoch_record, layer_kind, read_history, truncate_history
from tests.search_histories import LAYERS, healthy_history


def random_architecture(seed: int = 0, channels: int = 16) -> Architecture:
    torch.manual_seed(seed)
    architecture = Architecture(channels)
    for parameter in architecture.parameters():
        torch.nn.init.normal_(parameter)
    return architecture


def record_of(architecture: Architecture, **changes: Any) -> dict[str, Any]:
    arguments = {"stages": 2, "channels_in": 1, "train_psnr": 28.5, "validation_psnr": 28.9, "seconds": 60.0}
    return epoch_record(7, "alternate", architecture, rate=1e-3, **(arguments | changes))


def test_record_holds_the_activated_parameters() -> None:
    architecture = random_architecture()
    record = record_of(architecture)
    assert list(record["alpha"]) == LAYERS
    assert list(record["gamma"]) == [name for name in LAYERS if "." in name]
    first, up = architecture.encoder[0], architecture.decoder[2].up
    np.testing.assert_allclose(record["alpha"]["EB1.2"], F.softmax(first.layers[1].alpha, 0).tolist(), atol=1e-6)
    np.testing.assert_allclose(record["alpha"]["DB3 up"], F.softmax(up.alpha, 0).tolist(), atol=1e-6)
    np.testing.assert_allclose(record["gamma"]["EB1.3"], F.softmax(first.layers[2].gamma, 0).tolist(), atol=1e-6)
    for name, weights in record["alpha"].items():
        assert len(weights) == len(PRIMITIVES[layer_kind(name)])
    given = {key: record[key] for key in ("epoch", "phase", "train_psnr", "validation_psnr", "seconds", "rate")}
    assert given == {
        "epoch": 7,
        "phase": "alternate",
        "train_psnr": 28.5,
        "validation_psnr": 28.9,
        "seconds": 60.0,
        "rate": 1e-3,
    }


def test_record_holds_the_derived_network_and_its_costs() -> None:
    architecture = random_architecture(1)
    record = record_of(architecture, stages=3, channels_in=3)
    genotype = Genotype.from_json(json.dumps(record["genotype"]))
    assert genotype == derive(architecture).genotype
    assert not genotype.derivation
    costs = summarize(genotype, 3, 3)
    assert [record[key] for key in ("parameters", "macs", "macs_with_bias")] == [
        costs.parameters,
        costs.macs,
        costs.macs_with_bias,
    ]
    kept = sum(row.used and row.source is None and "." in row.name and "B" in row.name for row in costs.layers)
    assert record["skipped_layers"] == pytest.approx(1 - kept / 21)
    assert any(isinstance(layer, Skip) for _, block in genotype.blocks() for layer in block.layers)


def test_entropy_is_one_at_the_start_and_zero_when_decided() -> None:
    architecture = Architecture(4)
    assert record_of(architecture)["alpha_entropy"] == pytest.approx(1, abs=1e-12)
    for name, parameter in architecture.named_parameters():
        if name.endswith("alpha"):
            parameter.data[0] = 1000
    assert record_of(architecture)["alpha_entropy"] == 0


def test_beta_histogram_counts_the_leading_operations() -> None:
    architecture = random_architecture(2)
    beta = record_of(architecture)["beta"]
    edges, counts = np.array(beta["edges"]), np.array(beta["counts"])
    values = []
    for name, block in zip(("EB1", "EB2", "EB3", "DB1", "DB2", "DB3", "DB4"), architecture.blocks(), strict=True):
        for position, layer in enumerate(block.layers, 1):
            leader = int(layer.alpha.argmax())
            assert beta["operations"][f"{name}.{position}"] == PRIMITIVES["normal"][leader]
            values.append(layer.beta[leader])
        if block.resample is not None:
            values.append(block.resample.beta[int(block.resample.alpha.argmax())])
    flat = torch.cat(values).detach().double().numpy()
    assert counts.sum() == len(flat) == 27 * 16
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0])
    assert np.array_equal(counts, np.histogram(flat, edges)[0])
    assert edges[0] <= flat.min() < edges[1]
    assert edges[-2] <= flat.max() < edges[-1]


@pytest.mark.parametrize(("scale", "width"), [(0.0, 0.05), (100.0, 12.8)])
def test_beta_bins_fit_any_range(scale: float, width: float) -> None:
    architecture = Architecture(4)
    for name, parameter in architecture.named_parameters():
        if name.endswith("beta"):
            parameter.data = 1 + scale * torch.linspace(-4, 4, 4).expand_as(parameter)
    beta = record_of(architecture)["beta"]
    assert len(beta["counts"]) <= 80
    assert beta["edges"][1] - beta["edges"][0] == pytest.approx(width)
    assert sum(beta["counts"]) == 27 * 4


def test_record_leaves_the_architecture_alone() -> None:
    architecture = random_architecture(3)
    before = {name: value.clone() for name, value in architecture.state_dict().items()}
    record_of(architecture)
    assert all(torch.equal(before[name], value) for name, value in architecture.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in architecture.parameters())


def test_record_of_a_broken_architecture_says_what_it_can(tmp_path: Path) -> None:
    architecture = SuperNet(stages=1, channels=4).architecture
    architecture.get_parameter("decoder.1.layers.0.alpha").data[2] = math.nan
    record = record_of(architecture, validation_psnr=None, train_psnr=math.nan)
    for key in ("genotype", "parameters", "macs", "macs_with_bias", "skipped_layers", "beta", "validation_psnr"):
        assert record[key] is None
    append_record(tmp_path / "history.jsonl", record)
    (read,) = read_history(tmp_path / "history.jsonl")
    assert math.isnan(read["train_psnr"])
    assert math.isnan(read["alpha"]["DB2.1"][0])


@pytest.mark.parametrize(("epoch", "phase"), [(0, "weights"), (1, "warmup")])
def test_impossible_epochs_are_refused(epoch: int, phase: str) -> None:
    with pytest.raises(ModnasError, match="epochs count from 1"):
        epoch_record(epoch, phase, Architecture(4), 1, 1, 28.0, None, 1.0, 1e-3)


def write(path: Path, epochs: int) -> list[dict[str, Any]]:
    records = healthy_history(epochs, warmup=1)
    for record in records:
        append_record(path, record)
    return records


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert read_history(path) == []
    assert read_history(tmp_path / "missing" / "history.jsonl") == []
    assert write(path, 3) == read_history(path)
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("torn", [1, 100, -2, -1])
def test_a_torn_last_line_is_passed_over_and_repaired(tmp_path: Path, torn: int) -> None:
    """Cut anywhere in the last line; without its newline alone, it is whole."""
    path = tmp_path / "history.jsonl"
    records = write(path, 3)
    last = path.read_bytes().splitlines(keepends=True)[-1]
    path.write_bytes(path.read_bytes()[: -len(last)] + last[:torn])
    whole = records if torn == -1 else records[:2]
    assert read_history(path) == whole
    append_record(path, records[0])
    assert read_history(path) == [*whole, records[0]]
    assert path.read_bytes().endswith(b"\n")


def test_zeros_that_a_power_cut_left_are_torn_too(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    records = write(path, 1)
    with path.open("ab") as file:
        file.write(bytes(9999))
    append_record(path, records[0])
    assert read_history(path) == [*records, *records]


def test_truncating_drops_the_epochs_that_come_again(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    truncate_history(path, 1)
    assert not path.exists()
    records = write(path, 4)
    truncate_history(path, 5)
    assert read_history(path) == records
    truncate_history(path, 3)
    assert read_history(path) == records[:2]
    truncate_history(path, 1)
    assert read_history(path) == []
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{broken", "line 2 is broken"), ("3", "line 2 is no record"), ('{"epoch": 2}', "lacks 'alpha'")],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "history.jsonl"
    write(path, 1)
    whole = path.read_text()
    path.write_text(f"{whole}{line}\n{whole}")
    for use in (read_history, lambda path: append_record(path, {}), lambda path: truncate_history(path, 1)):
        with pytest.raises(ModnasError, match=message):
            use(path)
    assert path.read_text() == f"{whole}{line}\n{whole}"


def test_unwritable_and_unreadable_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModnasError, match="cannot be written"):
        append_record(tmp_path / "missing" / "history.jsonl", {})
    with pytest.raises(ModnasError, match="cannot be read"):
        read_history(tmp_path)
