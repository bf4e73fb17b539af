"""Which precision convolutions run in."""

from __future__ import annotations

import time

import pytest
import torch

from modnas_fast.ops import convolution_dtype, native, precision
from modnas_fast.runs.precision import precision_advice

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_stands(dtype: torch.dtype) -> None:
    assert convolution_dtype(dtype, CPU) == dtype


def test_a_gpu_takes_what_autocast_offers() -> None:
    assert convolution_dtype(torch.bfloat16, CUDA) == torch.bfloat16


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [((0.002, 0.008), torch.float32), ((0.008, 0.002), torch.bfloat16), ((0.01, 0.0095), torch.float32)],
)
def test_a_cpu_takes_the_clearly_faster(seconds, taken: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of float32 and of bfloat16, both of bfloat16 images; what noise might turn around stays float32."""

    def convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.bfloat16
        time.sleep(seconds[weight.dtype == torch.bfloat16])
        return x

    monkeypatch.setattr(precision, "convolution_fwd", convolution)
    precision._is_faster.cache_clear()
    assert convolution_dtype(torch.bfloat16, CPU) == taken
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
    for built in (True, False):
        monkeypatch.setattr(native, "BUILT", built)
        assert bool(precision_advice("bf16", CPU, converts=True)) == (not fast)
        assert bool(precision_advice("bf16", CPU, converts=False)) == (not fast and not built)
        assert not precision_advice("fp32", CPU, converts=True)
        assert not precision_advice("bf16", CUDA, converts=True)
