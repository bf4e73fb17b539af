"""What engines are given: arrays and devices as NumPy, torch and others have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from modnas_fast.engine.program import Array
from modnas_fast.errors import ModnasError

OnProgress = Callable[[float], Any]


class Cancelled(ModnasError):
    """The progress callback asked to stop; what was written to `out` so far is undefined."""


def part(progress: OnProgress | None, index: int, count: int) -> OnProgress | None:
    """The progress callback of part `index` of `count` equal ones."""
    return None if progress is None else lambda share: progress((index + share) / count)


def device_index(device: object) -> int | None:
    """The number of a CUDA device, named as torch names them; None for the CPU.

    Raises:
        ModnasError: another name.
    """
    name = str(device)
    found = re.fullmatch(r"cuda(?::(\d{1,4}))?", name)
    if found is None and name != "cpu":
        raise ModnasError(f"device is {name!r}; the engine runs on 'cpu', 'cuda' or 'cuda:N'")
    return None if found is None else int(found[1] or 0)


def to_array(value: Any) -> Array:
    """A NumPy view of an array or of what speaks DLPack.

    Raises:
        ModnasError: something else, or something that is not in the host's memory.
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # a torch tensor that requires grad refuses DLPack
        value = value.detach()
    try:
        return np.from_dlpack(value)
    except (AttributeError, TypeError, RuntimeError, BufferError) as error:
        raise ModnasError(
            f"cannot read a {type(value).__name__} as an array ({error}); give a NumPy array or a CPU tensor"
        ) from None


def check_images(shape: tuple[int, ...], dtype: object, channels: int) -> None:
    """Raise `ModnasError` unless these are float32 images [N, channels, H, W] with at least a pixel each."""
    if len(shape) != 4 or shape[1] != channels or str(dtype) != "float32" or 0 in shape[2:]:
        raise ModnasError(
            f"expected float32 images in [0, 1] as [N, {channels}, H, W], got {dtype} {list(shape)}"
            + ("; for a gray network run RGB one channel at a time" * (channels == 1))
        )


def host_images(x: Any, out: Any, channels: int) -> tuple[Array, Array]:
    """The input, aligned, and where the result goes, both in the host's memory.

    Raises:
        ModnasError: an input or `out` of another kind, or one that is part of the other.
    """
    noisy = to_array(x)
    check_images(noisy.shape, noisy.dtype, channels)
    if not noisy.flags.aligned:
        noisy = noisy.copy()
    result = np.empty(noisy.shape, np.float32) if out is None else to_array(out)
    flags = result.flags
    if result.shape != noisy.shape or result.dtype != np.float32 or not (flags.writeable and flags.aligned):
        raise ModnasError(
            f"out is {result.dtype} {list(result.shape)}; give writeable, aligned float32 {list(noisy.shape)}"
        )
    if np.may_share_memory(noisy, result):
        raise ModnasError("out shares memory with the input; give another array")
    return noisy, result
