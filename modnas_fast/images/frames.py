"""An image in memory: its frames, what is carried along with them, and the error of reading and writing."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modnas_fast.errors import ModnasError

Array = np.ndarray[Any, np.dtype[Any]]

_DTYPES = (np.uint8, np.uint16, np.float32)
FAR_ABOVE_WHITE = 2.0  # where noise and highlights have few samples, and images in another unit most
OTHER_UNIT = (
    f"has most samples above {FAR_ABOVE_WHITE:g}, but floats run from 0, black, to 1, white; "
    "divide them by what white is, for example 255"
)


class ImageError(ModnasError):
    """An image that cannot be read or written; one line that names the file, the cause and the fix."""


@dataclass(frozen=True)
class Metadata:
    """What goes from the input to the output unchanged, where the output's format can hold it.

    Args:
        icc_profile: the ICC profile of the pixels.
        exif: a TIFF-structured EXIF block, without the "Exif\\0\\0" prefix; its orientation tag, if any, is 1.
        dpi: horizontal and vertical resolution, pixels per inch.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture.

    Args:
        colour: [H, W, C], C = 1 (gray) or 3 (RGB); uint8, uint16, or float32 with [0, 1] from black to white.
        alpha: [H, W], same dtype; carried from input to output, never denoised.

    Raises:
        ImageError: on another shape or dtype, on NaN or Inf, and on floats in another unit, [0, 255] say.
    """

    colour: Array
    alpha: Array | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.colour.shape, self.colour.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape:
            raise ImageError(
                f"colour is {list(shape)}; give [H, W, 1] for gray or [H, W, 3] for RGB, H and W at least 1"
            )
        if dtype not in _DTYPES:
            raise ImageError(f"samples are {dtype}; convert them to uint8, uint16 or float32")
        if self.alpha is not None and (self.alpha.shape != shape[:2] or self.alpha.dtype != dtype):
            raise ImageError(f"alpha is {self.alpha.dtype} {list(self.alpha.shape)}; give {dtype} {list(shape[:2])}")
        planes = [self.colour] if self.alpha is None else [self.colour, self.alpha]
        if dtype == np.float32 and not all(np.isfinite(plane).all() for plane in planes):
            raise ImageError("holds NaN or Inf; replace them, for example by numpy.nan_to_num")
        if dtype == np.float32 and np.count_nonzero(self.colour > FAR_ABOVE_WHITE) > self.colour.size / 2:
            raise ImageError(OTHER_UNIT)

    @functools.cached_property
    def is_gray(self) -> bool:
        """Whether all channels are the same."""
        return bool((self.colour[..., 1:] == self.colour[..., :1]).all())

    @classmethod
    def from_samples(cls, samples: Array) -> Frame:
        """Frame of interleaved samples, [H, W] or [H, W, n]: gray, gray + alpha, RGB, RGBA for n = 1, 2, 3, 4."""
        samples = samples if samples.ndim == 3 else samples[..., None]
        has_alpha = samples.shape[2] in (2, 4)
        colour = np.ascontiguousarray(samples[..., :-1] if has_alpha else samples)
        return cls(colour, np.ascontiguousarray(samples[..., -1]) if has_alpha else None)

    @property
    def samples(self) -> Array:
        """Interleaved samples, [H, W] for gray, else [H, W, n] as `from_samples` takes them."""
        if self.alpha is not None:
            return np.concatenate([self.colour, self.alpha[..., None]], axis=2)
        return self.colour[..., 0] if self.colour.shape[2] == 1 else self.colour


@dataclass(frozen=True, eq=False)
class ImageFile:
    """The content of an image file; more than one frame only for a multi-page TIFF."""

    frames: tuple[Frame, ...]
    metadata: Metadata = field(default_factory=Metadata)


def to_float(colour: Array) -> Array:
    """Samples as float32: uint8 / 255, uint16 / 65535, floats as they are. Any shape."""
    if colour.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes Inf, which `Frame` refuses
            return colour.astype(np.float32, copy=False)
    scaled: Array = colour.astype(np.float32) / np.float32(np.iinfo(colour.dtype).max)
    return scaled


def from_float(colour: Array, dtype: Any) -> Array:
    """Float samples, [0, 1] from black to white, as uint8, uint16 or float32. Any shape.

    Integers are clipped and, in the precision of the input, rounded half to even, which undoes `to_float` exactly;
    float32 is neither clipped nor rounded.

    Raises:
        ImageError: on NaN, which no integer can hold, and on another dtype.
    """
    dtype = np.dtype(dtype)
    if dtype not in _DTYPES:
        raise ImageError(f"{dtype} samples were asked for; choose uint8, uint16 or float32")
    if dtype == np.float32:
        return colour.astype(np.float32, copy=False)
    if np.isnan(colour).any():
        raise ImageError(f"holds NaN, which {dtype} cannot; replace it, for example by numpy.nan_to_num")
    levels: Array = np.rint(np.clip(colour, 0, 1) * colour.dtype.type(np.iinfo(dtype).max))
    return levels.astype(dtype)


def check_pixels(pixels: int, max_pixels: int) -> None:
    """Refuse, from the header alone, an image that would fill the memory when decoded."""
    if pixels > max_pixels:
        raise ImageError(f"has {pixels:,} pixels, over the limit of {max_pixels:,}; raise max_pixels if you trust it")
