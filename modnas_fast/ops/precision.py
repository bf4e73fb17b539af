"""Which precision convolutions run in where autocast offers a lower one."""

from __future__ import annotations

import functools
import time

import torch

from modnas_fast.ops.convolution import convolution_fwd

_ROUNDS = 5


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def convolution_dtype(offered: torch.dtype, device: torch.device) -> torch.dtype:
    """`offered`, autocast's dtype, or float32 where that is faster.

    Many processors take bfloat16 without having fast arithmetic for it: an Intel Xeon of the Sapphire Rapids family
    whose AMX a virtual machine hides takes twice as long as in float32. On a CPU it is measured, once a process, in
    about 20 ms; elsewhere the offer stands.
    """
    if device.type != "cpu" or offered in (torch.float32, torch.float64):
        return offered
    return offered if _is_faster(offered) else torch.float32


@functools.cache
def _is_faster(dtype: torch.dtype) -> bool:
    """Whether a 3×3 convolution of 48 channels takes less time in `dtype` than in float32; the fastest of some runs."""
    x, weight = torch.zeros(2, 48, 32, 32), torch.zeros(48, 48, 3, 3)
    fastest: dict[torch.dtype, float] = {}
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for candidate in (torch.float32, dtype) * (_ROUNDS + 1):
            cast_x, cast_weight = (t.to(candidate, memory_format=torch.channels_last) for t in (x, weight))
            started = time.perf_counter()
            convolution_fwd(cast_x, cast_weight)
            fastest[candidate] = min(fastest.get(candidate, float("inf")), time.perf_counter() - started)
    return fastest[dtype] < fastest[torch.float32]
