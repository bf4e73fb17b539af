"""Which precision convolutions run in where autocast offers a lower one."""

from __future__ import annotations

import functools
import time

import torch

from modnas_fast.ops.convolution import convolution_fwd

_ROUNDS = 5
_CLEARLY = 0.8  # of float32's time: a choice that noise could turn around would make runs that resume depart


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def convolution_dtype(offered: torch.dtype, device: torch.device) -> torch.dtype:
    """`offered`, autocast's dtype, where convolutions of tensors stored in it are clearly faster than in float32.

    Many processors take bfloat16 without having fast arithmetic for it: an Intel Xeon of the Sapphire Rapids family
    whose AMX a virtual machine hides takes twice as long as in float32. And Winograd's minimal filtering, which needs
    float32, saves more than bfloat16's dot products do. On a CPU it is measured, once a process, in about 30 ms;
    elsewhere the offer stands.
    """
    if device.type != "cpu" or offered in (torch.float32, torch.float64):
        return offered
    return offered if _is_faster(offered) else torch.float32


@functools.cache
def _is_faster(dtype: torch.dtype) -> bool:
    """Whether a 3×3 convolution of 48 channels takes clearly less time in `dtype` than in float32; best of some."""
    x = torch.zeros(8, 48, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.zeros(48, 48, 3, 3)
    fastest: dict[torch.dtype, float] = {}
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for candidate in (torch.float32, dtype) * (_ROUNDS + 1):
            cast_weight = weight.to(candidate, memory_format=torch.channels_last)
            started = time.perf_counter()
            convolution_fwd(x, cast_weight)
            fastest[candidate] = min(fastest.get(candidate, float("inf")), time.perf_counter() - started)
    return fastest[dtype] < _CLEARLY * fastest[torch.float32]
