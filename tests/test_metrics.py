"""PSNR, SSIM, luma and the test degradations against scikit-image, Pillow and NumPy's own streams."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from modnas_fast.errors import ModnasError
from modnas_fast.images.colour import luma, studio_luma
from modnas_fast.images.degradations import Degradation, add_test_noise, jpeg_compress
from modnas_fast.images.metrics import psnr, ssim

SHAPES = [(11, 11), (12, 17), (37, 23), (64, 48), (37, 23, 3), (11, 40, 3), (20, 21, 1)]


def picture(shape, seed=0):
    """uint8 with smooth areas, edges and texture."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]] / 7.0
    smooth = 120 + 60 * np.sin(rows) * np.cos(columns) + 50 * (rows > columns)
    smooth = smooth if len(shape) == 2 else smooth[..., None] + 15 * np.arange(shape[2])
    return np.clip(smooth + generator.normal(0, 6, shape), 0, 255).astype(np.uint8)


def distorted(image, sigma, seed=1):
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [0.5, 5, 25, 80])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_psnr_is_scikit_images(shape, sigma):
    clean = picture(shape)
    noisy = distorted(clean, sigma)
    expected = peak_signal_noise_ratio(clean, noisy, data_range=255)
    assert psnr(noisy, clean) == pytest.approx(expected, abs=1e-4)
    assert psnr(noisy.astype(np.float32), clean) == pytest.approx(expected, abs=1e-4)


def test_psnr_by_hand():
    clean = np.zeros((4, 5), np.uint8)
    assert psnr(clean, clean) == np.inf
    assert psnr(clean + 255, clean) == 0.0
    one = clean.copy()
    one[0, 0] = 100
    assert psnr(one, clean) == pytest.approx(10 * np.log10(255**2 / (100**2 / 20)))
    assert psnr(clean, one) == psnr(one, clean)  # no unsigned wrap


@pytest.mark.parametrize("sigma", [0.5, 5, 25, 80])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ssim_is_scikit_images_over_the_valid_region(shape, sigma):
    clean = picture(shape)
    noisy = distorted(clean, sigma)
    _, scores = structural_similarity(
        clean.astype(np.float64),
        noisy.astype(np.float64),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=2 if len(shape) == 3 else None,
        full=True,
    )
    expected = scores[5:-5, 5:-5].mean()
    assert ssim(noisy, clean) == pytest.approx(expected, abs=1e-6)
    assert ssim(clean, noisy) == pytest.approx(expected, abs=1e-6)
    assert expected < 0.99999


def test_ssim_of_equal_images_is_one():
    clean = picture((16, 19, 3))
    assert ssim(clean, clean) == pytest.approx(1.0, abs=1e-12)
    assert ssim(255 - clean, clean) < 0.5


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_shapes_must_agree(metric):
    with pytest.raises(ModnasError, match=r"shapes \[12, 12\] and \[12, 13\]"):
        metric(np.zeros((12, 12)), np.zeros((12, 13)))
    with pytest.raises(ModnasError, match="shapes"):
        metric(np.zeros((12, 12, 1)), np.zeros((12, 12, 3)))


@pytest.mark.parametrize("shape", [(10, 11), (11, 10), (1, 1), (10, 40, 3)])
def test_ssim_needs_its_window(shape):
    with pytest.raises(ModnasError, match=f"at least 11×11, got {shape[0]}×{shape[1]}"):
        ssim(np.zeros(shape), np.zeros(shape))


def test_luma_is_pillows_for_every_colour():
    """Every red and blue with every second green, and both ends of green: 256 · 129 · 256 colours."""
    red, blue = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for green in [*range(0, 256, 2), 255]:
        colour = np.stack((red, np.full_like(red, green), blue), -1)
        expected = np.asarray(Image.fromarray(colour).convert("L"))
        assert np.array_equal(luma(colour), expected[..., None])


def test_studio_luma_is_scikit_images():
    from skimage.color import rgb2ycbcr

    colour = np.random.default_rng(0).integers(0, 256, (64, 50, 3), dtype=np.uint8)
    assert np.array_equal(studio_luma(colour), np.rint(rgb2ycbcr(colour)[..., :1]).astype(np.uint8))
    assert studio_luma(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)).tolist() == [[[16], [235]]]
    gray = np.zeros((2, 2, 1), np.uint8)
    assert studio_luma(gray) is gray


def test_luma_keeps_depth_and_range():
    deep = np.array([[[65535, 65535, 65535], [0, 0, 0], [65535, 0, 0]]], np.uint16)
    assert luma(deep).dtype == np.uint16
    assert luma(deep).tolist() == [[[65535], [0], [round(0.299 * 65535)]]]
    floating = np.random.default_rng(0).random((5, 4, 3), np.float32)
    assert luma(floating).dtype == np.float32
    np.testing.assert_allclose(luma(floating)[..., 0], floating @ [0.299, 0.587, 0.114], atol=1e-6)
    gray = picture((5, 4, 1))
    assert luma(gray) is gray


@pytest.mark.parametrize("shape", [(7, 5), (6, 4, 3)])
def test_test_noise_is_the_legacy_stream(shape):
    clean = picture(shape) / 255.0
    state = np.random.get_state()  # noqa: NPY002
    noisy = add_test_noise(clean, 25)
    untouched = zip(state, np.random.get_state(), strict=True)  # noqa: NPY002
    assert all(np.array_equal(before, after) for before, after in untouched)
    np.random.seed(0)  # noqa: NPY002 the field's protocol
    expected = (clean + np.random.randn(*shape) * (25 / 255)).astype(np.float32)  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002
    assert noisy.dtype == np.float32
    assert np.array_equal(noisy, expected)
    assert np.array_equal(noisy, add_test_noise(clean, 25))
    assert not np.array_equal(noisy, add_test_noise(clean, 25, seed=1))


def test_test_noise_starts_as_numpy_documents_and_is_not_clipped():
    first = add_test_noise(np.zeros((1, 3)), 255.0)
    np.testing.assert_allclose(first, [[1.76405235, 0.40015721, 0.97873798]], atol=1e-7)
    noise = add_test_noise(np.full((200, 200), 0.5), 50.0) - 0.5
    assert noise.std() * 255 == pytest.approx(50, rel=0.01)
    assert noise.min() < -0.5


@pytest.mark.parametrize("shape", [(33, 17), (24, 40, 3), (1, 1)])
@pytest.mark.parametrize("quality", [1, 20, 95])
def test_jpeg_is_pillows_round_trip(shape, quality):
    image = picture(shape)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    again = jpeg_compress(image, quality)
    assert again.dtype == np.uint8
    assert again.shape == shape
    assert np.array_equal(again, np.asarray(Image.open(stream)))


def test_jpeg_quality_orders_the_loss():
    image = picture((64, 64))
    losses = [psnr(jpeg_compress(image, quality), image) for quality in (5, 20, 50, 95)]
    assert losses == sorted(losses)
    assert 20 < losses[0] < losses[-1] < 60


@pytest.mark.parametrize("quality", [0, 96, -3])
def test_jpeg_quality_is_checked(quality):
    with pytest.raises(ModnasError, match=f"JPEG quality is {quality}; it must be between 1 and 95"):
        jpeg_compress(picture((8, 8)), quality)


def test_degradation_round_trip_and_words():
    noise = Degradation("awgn", (15, 25, 50))
    assert Degradation.from_mapping({"kind": "awgn", "levels": [15.0, 25.0, 50.0]}) == noise
    assert str(noise) == "σ = 15, 25, 50"
    assert str(Degradation("jpeg", (20,))) == "JPEG q = 20"


@pytest.mark.parametrize("levels", [(), (-1,), (25, float("nan")), (float("inf"),)], ids=str)
def test_degradation_levels_are_checked(levels):
    with pytest.raises(ModnasError, match="levels"):
        Degradation("awgn", levels)
    with pytest.raises(ModnasError, match="degradation is 'blur'; choose from awgn, jpeg"):
        Degradation("blur", (1,))
