"""What a run's precision costs on its device."""

from __future__ import annotations

import torch

from modnas_fast.ops import convolution_dtype


def precision_advice(precision: str, device: torch.device) -> str:
    """A line for the user where "bf16" was asked for and "fp32" is faster; otherwise empty."""
    if precision == "bf16" and convolution_dtype(torch.bfloat16, device) != torch.bfloat16:
        return "note: this processor convolves faster in float32 than in bfloat16; precision=fp32 takes less time"
    return ""
