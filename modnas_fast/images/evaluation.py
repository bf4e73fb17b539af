"""Scores of a denoiser on a test set, by the protocol of the paper's tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modnas_fast.errors import ModnasError
from modnas_fast.images.camera import camera_noise
from modnas_fast.images.colour import luma, studio_luma
from modnas_fast.images.degradations import add_test_noise, jpeg_compress
from modnas_fast.images.files import from_float, list_images, read_image
from modnas_fast.images.frames import to_float
from modnas_fast.images.metrics import psnr, ssim

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Score:
    """One image's result: PSNR in dB and SSIM against the clean image, milliseconds for the network alone."""

    name: str
    psnr: float
    ssim: float
    ms: float
    output: Array  # uint8 [H, W, C], what was scored


class EvaluationSet:
    """The clean images of a folder, read one at a time.

    Args:
        folder: where they are; not searched recursively.
        channels: 1 or 3; colour becomes luma for 1, see `read_clean_image`.
        degradation: "awgn", "jpeg" or "camera".

    Raises:
        ModnasError: no images; when iterated, an unreadable one, one that is not 8 bit, or a gray one for 3 channels.
    """

    def __init__(self, folder: str | Path, channels: int, degradation: str) -> None:
        self._files = list_images([folder])
        self._channels, self._degradation = channels, degradation

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[tuple[str, Array]]:
        """(name, uint8 [H, W, channels]) of each image."""
        for path, relative in self._files:
            yield str(relative), read_clean_image(path, self._channels, self._degradation)


def read_clean_image(path: Path, channels: int, degradation: str) -> Array:
    """One 8-bit image as uint8 [H, W, channels], alpha dropped.

    For channels = 1 colour becomes luma as the literature on the degradation has it: full range for "awgn", studio
    range for "jpeg".

    Raises:
        ModnasError: unreadable, not 8 bit, or gray where colour is needed.
    """
    colour = read_image(path).frames[0].colour
    if colour.dtype != np.uint8:
        raise ModnasError(f"{path}: {colour.dtype} pixels; training and test images must have 8 bit")
    if channels == 3 and colour.shape[2] == 1:
        raise ModnasError(f"{path}: a gray image; this model works on RGB")
    if channels == 3:
        return colour
    return studio_luma(colour) if degradation == "jpeg" else luma(colour)


def read_clean_images(folders: Sequence[str | Path], channels: int, degradation: str) -> list[Array]:
    """All images in the folders and the folders in them, as `read_clean_image` gives them."""
    return [read_clean_image(path, channels, degradation) for path, _ in list_images(folders, recursive=True)]


def evaluate(
    denoiser: Callable[[Tensor], Tensor],
    images: Iterable[tuple[str, Array]],
    degradation: str,
    level: float,
    device: str | torch.device = "cpu",
) -> Iterator[Score]:
    """Degrade, denoise, round to uint8 and score each image.

    Args:
        denoiser: float [1, C, H, W] in [0, 1] to the same shape.
        images: (name, clean uint8 [H, W, C]) pairs.
        degradation: "awgn" with the fixed test noise (see `add_test_noise`), "jpeg", or "camera", where the first image
            is always of the same camera, and so is every other.
        level: σ on the 0–255 scale, or the JPEG quality; without a meaning for cameras.
        device: where the denoiser runs.

    Yields:
        One `Score` an image, in order.

    Raises:
        ModnasError: an image below 24×24 pixels for the noise of cameras; it names the image.
    """
    for index, (name, clean) in enumerate(images):
        if degradation == "jpeg":
            plane = clean[..., 0] if clean.shape[2] == 1 else clean
            degraded = to_float(jpeg_compress(plane, int(level)).reshape(clean.shape))
        elif degradation == "camera":
            try:
                degraded = to_float(camera_noise(clean, np.random.default_rng(index)))
            except ModnasError as error:
                raise ModnasError(f"{name}: {error}") from None
        else:
            degraded = add_test_noise(clean / 255.0, level)
        yield _score(denoiser, name, clean, degraded, device)


def evaluate_pairs(
    denoiser: Callable[[Tensor], Tensor], pairs: Iterable[tuple[str, Array, Array]], device: str | torch.device = "cpu"
) -> Iterator[Score]:
    """As `evaluate`, of pairs: (name, clean, noisy), uint8 [H, W, C] both."""
    for name, clean, noisy in pairs:
        yield _score(denoiser, name, clean, to_float(noisy), device)


def _score(
    denoiser: Callable[[Tensor], Tensor], name: str, clean: Array, degraded: Array, device: str | torch.device
) -> Score:
    batch = torch.from_numpy(degraded).permute(2, 0, 1)[None].to(device)
    started = time.perf_counter()
    with torch.inference_mode():
        restored = denoiser(batch)
    output = from_float(restored[0].permute(1, 2, 0).float().cpu().numpy(), np.uint8)  # waits for the device
    ms = (time.perf_counter() - started) * 1e3
    similarity = ssim(output, clean) if min(clean.shape[:2]) >= 11 else float("nan")
    return Score(name, psnr(output, clean), similarity, ms, output)


def mean_scores(scores: Sequence[Score]) -> tuple[float, float]:
    """Mean PSNR in dB and mean SSIM over images, as the tables give them."""
    return float(np.mean([score.psnr for score in scores])), float(np.mean([score.ssim for score in scores]))
