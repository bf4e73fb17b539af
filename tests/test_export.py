"""Exported networks in the software that they are for, against the derived network in float64."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from modnas_fast import DerivedNet, Genotype, ModnasError, load
from modnas_fast.cli import main
from modnas_fast.engine.export import describe, export_program
from modnas_fast.engine.onnx_graph import INPUT, build_onnx
from tests.cases import random_genotype
from tests.parity import assert_parity
from tests.test_tiling import random_net

MODEL = "modnas-b-t1-gray-s25"
SIZES = ((1, 1, 1), (3, 1, 9), (1, 7, 3), (2, 24, 16), (1, 41, 67))

Run = Callable[[Tensor], Tensor]


def in_onnxruntime(model: bytes) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda y: torch.from_numpy(session.run(None, {INPUT: y.numpy()})[0])


def in_openvino(model: bytes) -> Run:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed (the extra `rivals`)")
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    return lambda y: torch.from_numpy(compiled({INPUT: y.numpy()})[0])


def assert_export_parity(run: Run, net: DerivedNet, *shape: int) -> None:
    assert_parity(
        run,
        torch.inference_mode()(copy.deepcopy(net).double().forward),
        torch.rand(shape[0], net.channels_in, *shape[1:]),
        reduction=1,
        gradients=False,
        tolerance=1e-5,
        reason="the bound that the engine promises for a whole network",
    )


@pytest.mark.parametrize("runtime", [in_onnxruntime, in_openvino])
@pytest.mark.parametrize(("name", "stages", "channels"), [("modnas-b", 1, 1), ("modnas-b", 3, 3), ("modnas-ar", 3, 1)])
def test_onnx_of_published_networks(name: str, stages: int, channels: int, runtime: Callable[[bytes], Run]) -> None:
    net = random_net(Genotype.load(name), stages, channels)
    run = runtime(build_onnx(net, {}).SerializeToString())
    for shape in SIZES:
        assert_export_parity(run, net, *shape)


@pytest.mark.parametrize("runtime", [in_onnxruntime, in_openvino])
def test_onnx_of_every_operation(runtime: Callable[[bytes], Run]) -> None:
    """Seeds 0…23 together hold every operation, skip pattern and width up to 12."""
    for seed in range(24):
        net = random_net(random_genotype(seed), 1 + seed % 2, 1 + 2 * (seed % 2))
        run = runtime(build_onnx(net, {}).SerializeToString())
        assert_export_parity(run, net, *SIZES[seed % len(SIZES)])


def test_torch_export_of_any_size() -> None:
    net = random_net(Genotype.load("modnas-b"), 2)
    run = torch.inference_mode()(export_program(net).module().forward)
    for shape in (*SIZES, (1, 8, 8), (1, 64, 130)):
        assert_export_parity(run, net, *shape)


@pytest.mark.parametrize(("form", "suffix"), [("onnx", ".onnx"), ("torch", ".pt2")])
def test_the_command(form: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"model{suffix}"
    assert main(["export", MODEL, "--format", form, "-o", str(file)]) == 0
    if form == "onnx":
        model = onnx.load(file)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        run = in_onnxruntime(file.read_bytes())
    else:
        metadata = dict.fromkeys(describe(load(MODEL), MODEL), "")
        run = torch.inference_mode()(torch.export.load(file, extra_files=metadata).module().forward)
    assert_export_parity(run, load(MODEL), 1, 13, 22)
    assert metadata["model"] == MODEL
    assert metadata["sigma"] == "25"
    assert Genotype.from_json(metadata["genotype"]) == Genotype.load("modnas-b")
    assert json.loads(metadata["card"])["name"] == MODEL
    assert metadata["licence"].startswith("Apache-2.0; trained on")
    assert main(["export", MODEL, "--format", form, "-o", str(file)]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "caffe", "-o", "model.onnx"], "format is 'caffe'; choose from onnx, torch"),
        (["--format", "torch", "-o", "model.onnx"], "the format torch ends in .pt2"),
    ],
)
def test_bad_requests(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", MODEL, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_the_package_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModnasError, match="pip install"):
        build_onnx(load(MODEL), {})


def test_what_an_unnamed_network_is_called(tmp_path: Path) -> None:
    net = random_net(random_genotype(1))
    metadata = describe(net, str(tmp_path / "best.safetensors"))
    assert metadata["model"] == "best.safetensors"
    assert "sigma" not in metadata
    assert "card" not in metadata
    assert metadata["stages"] == "1"
