"""The degradations of the paper's experiments, as its tests apply them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from modnas_fast.errors import ModnasError

Array = np.ndarray[Any, np.dtype[Any]]

KINDS = ("awgn", "jpeg", "pairs", "camera")
_PHOTOS = ("pairs", "camera")  # the noise of photos, each with its own, which no level names


@dataclass(frozen=True)
class Degradation:
    """What a model was trained to undo.

    Args:
        kind: "awgn", additive white Gaussian noise, "jpeg", compression of the luma, "pairs", what photos had, or
            "camera", what cameras would have added (`images.camera`).
        levels: the σ on the 0–255 scale, or the JPEG qualities, it was trained at; of pairs there are none.
        between: `levels` are the lowest and the highest, and everything between was trained too; always of cameras,
            whose σ is `images.noise.estimate_coarse_sigma`'s.
    """

    kind: str
    levels: tuple[float, ...]
    between: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(float(level) for level in self.levels))
        if self.kind not in KINDS:
            raise ModnasError(f"degradation is {self.kind!r}; choose from {', '.join(KINDS)}")
        if self.kind == "pairs":
            if self.levels or self.between:
                raise ModnasError(f"levels is {self.levels}; pairs have none, nor a range of them: give []")
            return
        if not self.levels or not all(np.isfinite(level) and level >= 0 for level in self.levels):
            raise ModnasError(f"levels is {self.levels}; give at least one, none negative")
        if self.between and (self.kind == "jpeg" or len(self.levels) != 2 or self.levels[0] >= self.levels[1]):
            raise ModnasError(f"levels is {self.levels}; give the lowest and the highest σ of a range")
        if self.kind == "camera" and not self.between:
            raise ModnasError("cameras have noise of every level; give a range of σ, and conditioned: true")
        if self.kind == "jpeg" and not all(level in range(1, 96) for level in self.levels):
            raise ModnasError(f"levels is {self.levels}; JPEG qualities are whole, 1 to 95")

    def __str__(self) -> str:
        if self.kind == "pairs":
            return "the noise of its pairs"
        unit = {"awgn": "σ", "camera": "the noise of cameras, σ", "jpeg": "JPEG q"}[self.kind]
        return f"{unit} = " + (" to " if self.between else ", ").join(f"{level:g}" for level in self.levels)

    def covers(self, kind: str, level: float) -> bool:
        """Whether it was trained for this; of photos' noise the level says nothing."""
        if kind in _PHOTOS or self.kind == "pairs":
            return kind in _PHOTOS and self.kind in _PHOTOS
        return kind == self.kind and self._holds(level)

    def takes(self, sigma: float) -> bool:
        """Whether a network for it can be told σ, or is for just that one."""
        return self.kind in ("awgn", "camera") and self._holds(sigma)

    def _holds(self, level: float) -> bool:
        return self.levels[0] <= level <= self.levels[1] if self.between else level in self.levels

    def to_json(self) -> str:
        entry: dict[str, Any] = {"kind": self.kind, "levels": list(self.levels)}
        if self.between:
            entry["between"] = True
        return json.dumps(entry)

    @classmethod
    def from_mapping(cls, entry: Mapping[str, Any]) -> Degradation:
        return cls(entry["kind"], tuple(entry["levels"]), bool(entry.get("between", False)))


def as_level(sigma: object, unit: str = "on the 0–255 scale") -> float:
    """A noise level as a float: of a number, or of an array or tensor without dimensions.

    Raises:
        ModnasError: something else, or a number that is negative or not finite.
    """
    value: Any = sigma
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        said = " ".join(repr(sigma).split())
        raise ModnasError(f"sigma is {said if len(said) < 60 else said[:60] + '…'}; give one number {unit}")
    if not 0 <= value < math.inf:  # NaN neither
        raise ModnasError(f"sigma is {value}; σ must be a finite number of at least 0, {unit}")
    return float(value)


def add_test_noise(clean: Array, sigma: float, seed: int = 0) -> Array:
    """y = x + σ/255 · n with the field's fixed test noise: NumPy's legacy stream, seeded anew for every image.

    Args:
        clean: float image in [0, 1], [H, W] or [H, W, C].
        sigma: standard deviation on the 0–255 scale.
        seed: seed of the stream; 0 in every table.

    Returns:
        float32 of the same shape, not clipped.
    """
    noise = np.random.RandomState(seed).randn(*clean.shape)
    return (clean + noise * (sigma / 255.0)).astype(np.float32)


def jpeg_compress(image: Array, quality: int) -> Array:
    """The image after a JPEG round trip.

    Args:
        image: uint8 [H, W] or [H, W, 3]; RGB is coded with 4:2:0 chroma, JPEG's default.
        quality: 1 (worst) to 95, as libjpeg counts.

    Returns:
        uint8 of the same shape.

    Raises:
        ModnasError: quality outside 1…95.
    """
    if not 1 <= quality <= 95:
        raise ModnasError(f"JPEG quality is {quality}; it must be between 1 and 95")
    return jpeg_round_trip(image, quality)


def jpeg_round_trip(image: Array, quality: int, subsampling: int = -1) -> Array:
    """`image` coded and decoded, in Pillow's terms: subsampling 0 is 4:4:4, 2 is 4:2:0, −1 JPEG's default."""
    coded = io.BytesIO()
    Image.fromarray(image).save(coded, format="JPEG", quality=quality, subsampling=subsampling)
    with Image.open(coded) as decoded:
        return np.array(decoded)
