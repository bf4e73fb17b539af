"""Which precision convolutions run in."""

from __future__ import annotations

import time

import pytest
import torch

from modnas_fast.ops import convolution_dtype, precision
from modnas_fast.runs.precision import precision_advice

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_stands(dtype: torch.dtype) -> None:
    assert convolution_dtype(dtype, CPU) == dtype


def test_a_gpu_takes_what_autocast_offers() -> None:
    assert convolution_dtype(torch.bfloat16, CUDA) == torch.bfloat16


@pytest.mark.parametrize("slow", [torch.bfloat16, torch.float32])
def test_a_cpu_takes_the_faster(slow: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    def convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        assert x.dtype == weight.dtype
        if x.dtype == slow:
            time.sleep(0.003)
        return x

    monkeypatch.setattr(precision, "convolution_fwd", convolution)
    precision._is_faster.cache_clear()
    fast = torch.float32 if slow == torch.bfloat16 else torch.bfloat16
    assert convolution_dtype(torch.bfloat16, CPU) == fast
    precision._is_faster.cache_clear()


def test_it_is_measured_once_and_says_the_same_to_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    precision._is_faster.cache_clear()
    expected = convolution_dtype(torch.bfloat16, CPU)
    monkeypatch.setattr(precision, "convolution_fwd", None)  # measuring again would fail
    compiled = torch.compile(lambda x: x.to(convolution_dtype(torch.bfloat16, CPU)), fullgraph=True, backend="eager")
    assert compiled(torch.zeros(2)).dtype == expected


@pytest.mark.parametrize("fast", [True, False])
def test_advice_where_bfloat16_is_slow(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_is_faster", lambda dtype: fast)
    assert bool(precision_advice("bf16", CPU)) == (not fast)
    assert not precision_advice("fp32", CPU)
    assert not precision_advice("bf16", CUDA)
