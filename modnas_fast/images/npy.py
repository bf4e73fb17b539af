"""NumPy's .npy as an image: [H, W], or [H, W, n] of gray, gray + alpha, RGB, RGBA for n = 1, 2, 3, 4."""

from __future__ import annotations

import math
import os
from typing import Any, BinaryIO

import numpy as np

from modnas_fast.images.frames import Frame, ImageError, ImageFile, check_pixels, to_float

_format: Any = np.lib.format  # without annotations in NumPy
_HEADER_READERS = {(1, 0): _format.read_array_header_1_0, (2, 0): _format.read_array_header_2_0}


def decode_npy(stream: BinaryIO, max_pixels: int) -> ImageFile:
    """The array in stream: uint8, uint16, or a float, which becomes float32. Nothing is ever unpickled."""
    version = _format.read_magic(stream)
    if version not in _HEADER_READERS:
        raise ImageError(f"is .npy version {version}; save it again with numpy.save")
    shape, column_major, dtype = _HEADER_READERS[version](stream)
    if dtype.kind not in "uf" or dtype.itemsize > {"u": 2, "f": 8}[dtype.kind]:
        raise ImageError(f"holds {dtype}; convert it to uint8, uint16 or float32")
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] > 4):
        raise ImageError(f"has the shape {list(shape)}; an image is [H, W], or [H, W, n] with n from 1 to 4")
    check_pixels(shape[0] * shape[1], max_pixels)
    start = stream.tell()
    size = math.prod(shape) * dtype.itemsize
    if stream.seek(0, os.SEEK_END) - start < size:
        raise ImageError("is cut off; fetch it again")
    stream.seek(start)
    samples = np.frombuffer(stream.read(size), dtype).reshape(shape, order="F" if column_major else "C")
    samples = samples.astype(dtype.newbyteorder("="), copy=False)
    return ImageFile((Frame.from_samples(to_float(samples) if dtype.kind == "f" else samples),))


def encode_npy(image: ImageFile, stream: BinaryIO) -> None:
    """Write the only frame, [H, W] for gray; no metadata."""
    np.save(stream, image.frames[0].samples, allow_pickle=False)
