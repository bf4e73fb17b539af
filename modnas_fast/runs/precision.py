"""A run's precision, and what it costs on its device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from modnas_fast.ops import convolution_dtype, native


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Within it, "bf16" convolves in bfloat16 and "fp32" changes nothing.

    Weights are converted at every use: a CUDA graph must not read copies from before its capture.
    """
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False) if precision == "bf16" else nullcontext()


def precision_advice(precision: str, device: torch.device, converts: bool) -> str:
    """A line for the user where "bf16" was asked for and "fp32" is faster; otherwise empty.

    `converts`: convolutions in float32 have their operands converted, which takes more than bfloat16's memory saves.
    The engine's own take bfloat16 as it is.
    """
    wide = precision == "bf16" and convolution_dtype(torch.bfloat16, device) != torch.bfloat16
    if wide and (converts or not native.BUILT):
        return "note: this processor convolves faster in float32 than in bfloat16; precision=fp32 takes less time"
    return ""
