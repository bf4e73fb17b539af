"""The estimate of an image's noise level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modnas_fast.images.noise import estimate_sigma

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A photo with fur, edges and blurred places, in colour."""
    with Image.open(ROOT / "examples" / "chelsea.png") as image:
        return np.asarray(image.convert("RGB"), np.float64) / 255


def noise(shape: tuple[int, ...], sigma: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, sigma / 255, shape)


@pytest.mark.parametrize("sigma", [5, 10, 15, 25, 50])
def test_a_photo_with_noise(photo: np.ndarray, sigma: float) -> None:
    noisy = photo + noise(photo.shape, sigma)
    assert estimate_sigma(noisy) == pytest.approx(sigma, abs=0.7)
    assert estimate_sigma(noisy[..., 0]) == pytest.approx(sigma, abs=0.9)
    rounded = np.clip(np.round(noisy * 255), 0, 255) / 255
    assert estimate_sigma(rounded) == pytest.approx(sigma, abs=0.05 * sigma + 0.5)


def test_a_clean_photo(photo: np.ndarray) -> None:
    assert estimate_sigma(photo) < 2.5


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_image(value: float) -> None:
    assert estimate_sigma(np.full((64, 64), value)) == 0


def test_clipped_places_do_not_count(photo: np.ndarray) -> None:
    """A third of the image is burnt out: no noise is left there, and yet the image has it."""
    noisy = np.clip(photo + noise(photo.shape, 20), 0, 1)
    noisy[: noisy.shape[0] // 3] = 1
    assert estimate_sigma(noisy) == pytest.approx(20, abs=1.5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 2), (3, 5, 3), (16, 9), (33, 31, 1)])
def test_any_size(shape: tuple[int, ...]) -> None:
    estimate = estimate_sigma(0.5 + noise(shape, 20))
    assert np.isfinite(estimate)
    assert 0 <= estimate < 60
    assert estimate == 0 or min(shape[:2]) > 1


def test_a_small_flat_crop() -> None:
    estimates = [estimate_sigma(0.5 + noise((24, 24), sigma)) for sigma in (5, 20, 40)]
    np.testing.assert_allclose(estimates, (5, 20, 40), rtol=0.25)
