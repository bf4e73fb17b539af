"""What `auto` on a GPU goes by: times taken in turn, once a device and model."""

from __future__ import annotations

import time

import pytest
import torch

from modnas_fast import Denoiser, ModnasError
from modnas_fast.engine import choice
from modnas_fast.engine import denoiser as module


def test_the_faster_one_has_the_smaller_time_and_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_measured", {})
    calls: list[str] = []

    def candidate(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    candidates = {"fast": lambda: candidate("fast", 0), "slow": lambda: candidate("slow", 0.02)}
    times = choice.milliseconds_of("here", candidates, lambda: calls.append("wait"))
    assert times["fast"] < 20 <= times["slow"]
    assert calls[:6] == ["wait", "fast", "wait", "wait", "slow", "wait"]
    count = len(calls)
    assert choice.milliseconds_of("here", candidates, lambda: None) == times
    assert len(calls) == count
    choice.milliseconds_of("there", candidates, lambda: None)
    assert len(calls) > count


@pytest.mark.parametrize("name", ["cuda:1", "cuda:7"])
def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ModnasError, match=f"device is '{name}', but torch sees 1 CUDA device"):
        Denoiser(device=name)


@pytest.mark.parametrize("faster", ["engine", "PyTorch"])
def test_a_denoiser_on_cuda_keeps_the_faster_one(monkeypatch: pytest.MonkeyPatch, faster: str) -> None:
    """CPU tensors and the CPU's engine stand for those of a GPU."""
    times = {"engine": 2.0, "PyTorch": 2.0, faster: 1.0}
    made: list[dict[str, object]] = []

    class OnDevice(module.Engine):
        def __init__(self, genotype, weights, **settings) -> None:
            made.append(settings)
            super().__init__(genotype, weights)

    monkeypatch.setattr(module, "Engine", OnDevice)
    monkeypatch.setattr(module, "engine_obstacle", lambda device: "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch, "rand", lambda *shape, device: torch.zeros(shape))
    monkeypatch.setattr(choice, "milliseconds_of", lambda key, candidates, wait: times)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *to, **others: self)
    monkeypatch.setattr(module, "choose_device", lambda device: torch.device("cuda:1"))
    denoiser = Denoiser(device="cuda:1", sigma=25)
    assert made == [{"device": "cuda:1"}]
    assert denoiser.backend.startswith("the engine" if faster == "engine" else "PyTorch (float16 at 512x512")
    assert f"{faster} 1 ms" in denoiser.backend
    assert (denoiser._engine is None) == (faster == "PyTorch")
