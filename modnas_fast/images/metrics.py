"""PSNR and SSIM as the denoising literature computes them: on [0, 255], in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from modnas_fast.errors import ModnasError

Array = np.ndarray[Any, np.dtype[Any]]

_WINDOW = 11
_SIGMA = 1.5


def psnr(image: Array, reference: Array) -> float:
    """10·log₁₀(255² / MSE) in dB over all pixels and channels; infinite for identical images.

    Args:
        image, reference: arrays of one shape, values on the 0–255 scale.

    Raises:
        ModnasError: shapes differ.
    """
    _check_shapes(image, reference)
    mse = float(np.mean((image.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return float("inf") if mse == 0.0 else 10.0 * float(np.log10(255.0**2 / mse))


def ssim(image: Array, reference: Array) -> float:
    """Mean structural similarity (Wang et al. 2004) over the valid region.

    Gaussian window of 11×11 and σ = 1.5, K₁ = 0.01, K₂ = 0.03.

    Args:
        image, reference: [H, W] or [H, W, C] of one shape with H, W ≥ 11, values on the 0–255 scale; channels are
            averaged.

    Raises:
        ModnasError: shapes differ, or an image is smaller than the window.
    """
    _check_shapes(image, reference)
    if min(image.shape[:2]) < _WINDOW:
        raise ModnasError(f"SSIM needs images of at least {_WINDOW}×{_WINDOW}, got {image.shape[0]}×{image.shape[1]}")
    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    score /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(score.mean())


def _check_shapes(image: Array, reference: Array) -> None:
    if image.shape != reference.shape:
        raise ModnasError(f"cannot compare images of shapes {list(image.shape)} and {list(reference.shape)}")


def _blur(image: Array) -> Array:
    """The Gaussian window as two 1-D passes over the valid region."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    taps = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    taps /= taps.sum()
    rows = image.shape[0] - _WINDOW + 1
    columns = image.shape[1] - _WINDOW + 1
    vertical = sum(tap * image[i : i + rows] for i, tap in enumerate(taps))
    return np.asarray(sum(tap * vertical[:, i : i + columns] for i, tap in enumerate(taps)))
