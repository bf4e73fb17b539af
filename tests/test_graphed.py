"""Steps as CUDA graphs: when they are captured, and that training by them is training."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from modnas_fast.runs.graphed import EAGER_STEPS, GraphedStep, build_adam, set_rate
from modnas_fast.training import loop as training_loop
from tests.test_training import run, scalars, settings, stop_after, tensors_of  # noqa: F401

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_it_is_captured_after_eager_steps_and_anew_for_other_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = mock.MagicMock()
    cuda.stream.side_effect = cuda.graph.side_effect = lambda _: nullcontext()
    monkeypatch.setattr(torch, "cuda", cuda)
    seen: list[Tensor] = []

    def step(x: Tensor) -> Tensor:
        seen.append(x)
        return x.sum()

    graphed = GraphedStep(step)
    for side in (2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3):
        graphed(torch.rand(side))
    assert cuda.CUDAGraph.call_count == 2
    assert cuda.CUDAGraph.return_value.replay.call_count == (6 - EAGER_STEPS) + (5 - EAGER_STEPS)
    assert [x.numel() for x in seen] == [2] * (EAGER_STEPS + 1) + [3] * (EAGER_STEPS + 1)


def test_a_rate_is_set_in_place_where_a_graph_reads_it() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    for captured in (False, True):
        adam = build_adam([weight], 0.5, captured=captured)
        before = adam.param_groups[0]["lr"]
        set_rate(adam, 0.25)
        assert float(adam.param_groups[0]["lr"]) == 0.25
        assert (adam.param_groups[0]["lr"] is before) == captured


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    "changes", [{}, {"patch_growth": [8]}, {"optimizer": "muon"}, {"conditioned": True, "levels": [0.0, 55.0]}]
)
def test_a_captured_training_equals_an_eager_one(
    settings: dict[str, Any],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    """In its first steps, by the same kernels: of what rounding decides, later ones make more."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    changes = {"device": "cuda", "steps": 12, "lr": 1e-4, "lr_final": 1e-5, "ema": 0.5} | changes
    captured = tensors_of(run(settings, tmp_path / "captured", **changes) / "weights.safetensors")
    monkeypatch.setattr(training_loop, "GraphedStep", lambda step: step)
    eager = tensors_of(run(settings, tmp_path / "eager", **changes) / "weights.safetensors")
    start = tensors_of(run(settings, tmp_path / "start", **changes | {"steps": 1}) / "weights.safetensors")
    assert captured.keys() == eager.keys()
    assert sum(not torch.equal(captured[name], start[name]) for name in start) > len(start) / 2
    for name, value in eager.items():
        torch.testing.assert_close(captured[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_training_resumes_and_learns(
    settings: dict[str, Any],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    changes = {"device": "cuda", "precision": precision, "steps": 400, "validate_every": 100}
    changes["validation"] = str(tmp_path / "validation")
    with monkeypatch.context() as patch:
        stop_after(patch, 150)
        with pytest.raises(training_loop.Interrupted):
            run(settings, tmp_path / "run", **changes)
    folder = run(settings, tmp_path / "run", **changes)
    psnr = scalars(folder, "validation/psnr")
    assert sorted(psnr) == [100, 200, 300, 400]
    assert psnr[400] > psnr[100]
