"""Which of two ways to denoise on a GPU is faster there: measured once a device and model, then remembered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

SIDE = 512  # pixels; of the square image that is measured
_WARMUP, _REPEATS = 3, 7

_measured: dict[Hashable, dict[str, float]] = {}
_lock = threading.Lock()


def milliseconds_of(
    key: Hashable, candidates: Mapping[str, Callable[[], Any]], wait: Callable[[], Any]
) -> dict[str, float]:
    """The median time of every candidate, in ms, taken in turn; measured at the first call with this key.

    Args:
        key: what the times depend on.
        candidates: name → what is timed.
        wait: ends a call, a device's synchronisation for instance.
    """
    with _lock:
        if key not in _measured:
            seconds: dict[str, list[float]] = {name: [] for name in candidates}
            for turn in range(_WARMUP + _REPEATS):
                for name, run in candidates.items():
                    wait()
                    started = time.perf_counter()
                    run()
                    wait()
                    if turn >= _WARMUP:
                        seconds[name].append(time.perf_counter() - started)
            _measured[key] = {name: 1e3 * float(np.median(of_name)) for name, of_name in seconds.items()}
        return dict(_measured[key])
