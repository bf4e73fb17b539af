"""The estimate of an image's noise level."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modnas_fast.images.noise import estimate_coarse_sigma, estimate_sigma, is_white

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


@pytest.mark.parametrize("sigma", [10, 25, 50])
def test_white_noise_is_white_and_blurred_noise_is_not(photo: np.ndarray, sigma: float) -> None:
    white = np.random.default_rng(0).normal(0, sigma / 255, photo.shape)
    assert is_white(np.clip(photo + white, 0, 1))
    assert is_white((photo + white)[..., 0])
    blurred = sum(np.roll(white, shift, (0, 1)) for shift in itertools.product((-1, 0, 1), repeat=2)) / 3
    assert not is_white(np.clip(photo + blurred, 0, 1))
    assert estimate_coarse_sigma(photo + white) == pytest.approx(sigma, rel=0.05, abs=1.5)
    assert 0.8 * sigma < estimate_coarse_sigma(photo + blurred) < 1.5 * sigma
    assert estimate_sigma(photo + blurred) < 0.5 * sigma


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 2), (3, 5, 3)])
def test_too_small_to_tell_counts_as_white(shape: tuple[int, ...]) -> None:
    assert is_white(0.5 + noise(shape, 20))


def test_a_drawing_without_noise_counts_as_white() -> None:
    drawing = np.zeros((64, 64))
    drawing[16:40, 20:50] = 1
    assert is_white(drawing)
