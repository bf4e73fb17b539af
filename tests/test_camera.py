"""The noise of cameras."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modnas_fast import denoise
from modnas_fast.cli import main
from modnas_fast.errors import ModnasError
from modnas_fast.images.camera import Camera, _demosaiced, _mosaic, camera_noise, draw_camera, enlarged
from modnas_fast.images.colour import luma
from modnas_fast.images.degradations import Degradation
from modnas_fast.images.noise import is_white
from modnas_fast.networks import load
from modnas_fast.runs.config import config_from_mapping
from modnas_fast.training import TrainConfig
from modnas_fast.training.loop import train
from tests.cases import random_genotype

PLAIN = Camera(
    shot=0.0,
    read=0.0,
    matrix=np.eye(3),
    gains=(1.0, 1.0, 1.0),
    contrast=False,
    demosaicing="none",
    luma_blur=0.0,
    chroma_blur=0.0,
    coarse=0.0,
    sharpening=0.0,
    quality=0,
    subsampled=False,
)
SENSORS = ("none", "bilinear", "gradient")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    with Image.open(Path(__file__).parent.parent / "examples" / "chelsea.png") as image:
        return np.asarray(image.convert("RGB"))[:128, :161]


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_same_stream_gives_the_same_photo(photo: np.ndarray) -> None:
    first, again, other = (camera_noise(photo, random(seed)) for seed in (1, 1, 2))
    assert first.shape == photo.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("sensor", SENSORS)
def test_without_noise_the_photo_stays_as_it_is(photo: np.ndarray, sensor: str) -> None:
    """Demosaicing, white balance and tone curve change what is real, and none of that is in the result."""
    drawn = replace(draw_camera(random()), shot=0.0, read=0.0, demosaicing=sensor, quality=0)
    np.testing.assert_array_equal(camera_noise(photo, random(), drawn), photo)


@pytest.mark.parametrize("subsampled", [False, True])
def test_jpeg_is_pillows(photo: np.ndarray, subsampled: bool) -> None:
    coded = io.BytesIO()
    Image.fromarray(photo).save(coded, "JPEG", quality=75, subsampling=2 if subsampled else 0)
    with Image.open(coded) as decoded:
        expected = np.asarray(decoded)
    camera = replace(PLAIN, quality=75, subsampled=subsampled)
    np.testing.assert_array_equal(camera_noise(photo, random(), camera), expected)


@pytest.mark.parametrize("level", [30, 128, 200])
def test_variance_is_shot_times_signal_plus_read(level: int) -> None:
    """On a flat photo: the deviation of raw, √(λ_shot·x + λ_read), times the slope of the sRGB curve at x."""
    camera = replace(PLAIN, shot=1e-4, read=1e-6)
    noisy = camera_noise(np.full((256, 256, 3), level, np.uint8), random(), camera)
    x = ((level / 255 + 0.055) / 1.055) ** 2.4
    slope = 1.055 / 2.4 * x ** (1 / 2.4 - 1)
    expected = 255 * slope * np.sqrt(1e-4 * x + 1e-6)
    deviation = np.sqrt(noisy.astype(float).var() - 1 / 12)  # rounding has its own
    assert deviation == pytest.approx(expected, rel=0.02)


def test_white_balance_makes_red_and_blue_noisier() -> None:
    camera = replace(PLAIN, shot=1e-3, gains=(2.0, 1.0, 1.5))
    noisy = camera_noise(np.full((256, 256, 3), 100, np.uint8), random(), camera)
    red, green, blue = noisy.astype(float).std(axis=(0, 1))
    assert red / green == pytest.approx(2**0.5, rel=0.05)  # half the light, twice the gain
    assert blue / green == pytest.approx(1.5**0.5, rel=0.05)


def test_where_white_is_reached_noise_is_cut_off() -> None:
    noisy = camera_noise(np.full((64, 64, 3), 255, np.uint8), random(), replace(PLAIN, shot=4e-3))
    assert 0.4 < (noisy == 255).mean() < 0.6
    assert noisy.min() < 250


@pytest.mark.parametrize("method", ["bilinear", "gradient"])
def test_demosaicing_is_exact_on_a_ramp(method: str) -> None:
    """Of gray, where all channels agree; away from borders, where a reflection bends the ramp."""
    rows, columns = np.mgrid[:20, :24]
    plane = torch.from_numpy((0.1 + 0.01 * rows + 0.02 * columns).astype(np.float32))
    ramp = plane.expand(1, 3, 20, 24)
    full = _demosaiced(_mosaic(ramp), method)
    torch.testing.assert_close(full[..., 2:-2, 2:-2], ramp[..., 2:-2, 2:-2])
    own = _mosaic(torch.ones(1, 3, 20, 24)) > 0
    torch.testing.assert_close(full[own], ramp[own])


def test_interpolated_noise_is_coarse(photo: np.ndarray) -> None:
    white, *coarse = (
        camera_noise(photo, random(), replace(PLAIN, shot=4e-3, demosaicing=sensor)) for sensor in SENSORS
    )
    assert is_white(white / 255.0)
    blurred = camera_noise(photo, random(), replace(PLAIN, shot=4e-3, luma_blur=0.8, chroma_blur=1.5))
    assert not is_white(blurred / 255.0)
    assert [is_white(image / 255.0) for image in coarse] == [False, False]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_enlarged_part_is_as_large_as_the_photo_and_smoother(photo: np.ndarray, channels: int) -> None:
    clean = photo[..., :channels]
    parts = [enlarged(clean, random(seed)) for seed in range(4)]
    assert all(part.shape == clean.shape and part.dtype == np.uint8 for part in parts)
    assert len({part.tobytes() for part in parts}) == 4

    def sharpness(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image.astype(float), axis=0)).mean())

    assert all(sharpness(part) < 0.9 * sharpness(clean) for part in parts)


def test_a_gray_photo_has_the_luma_of_a_coloured_ones_noise(photo: np.ndarray) -> None:
    gray = luma(photo)
    coloured = camera_noise(np.repeat(gray, 3, axis=2), random(3))
    np.testing.assert_array_equal(camera_noise(gray, random(3)), luma(coloured))


@pytest.mark.parametrize("shape", [(24, 24, 3), (25, 24, 3), (33, 50, 3)])
def test_small_and_odd_sizes(shape: tuple[int, ...]) -> None:
    clean = random().integers(0, 256, shape, np.uint8)
    for seed in range(8):
        assert camera_noise(clean, random(seed)).shape == shape


@pytest.mark.parametrize(
    "photo", [np.zeros((23, 40, 3), np.uint8), np.zeros((40, 40, 2), np.uint8), np.zeros((40, 40, 3), np.float32)]
)
def test_what_is_no_photo(photo: np.ndarray) -> None:
    with pytest.raises(ModnasError, match=r"the photo is .*; the noise of cameras is for uint8 \[H, W, 3\] or"):
        camera_noise(photo, random())


@pytest.mark.parametrize("channels", [1, 3])
def test_trained_and_scored(
    photo: np.ndarray, channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_genotype(3, 4).save(tmp_path / "tiny.json")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, place in (("a", np.s_[:64, :64]), ("b", np.s_[64:, :80])):
        Image.fromarray(photo[place]).save(folder / f"{name}.png")
    settings = {
        "output": str(tmp_path / "run"),
        "data": [str(folder)],
        "genotype": str(tmp_path / "tiny.json"),
        "channels_in": channels,
        "degradation": "camera",
        "levels": [0, 55],
        "conditioned": True,
        "patch": 32,
        "batch": 2,
        "steps": 4,
        "precision": "fp32",
        "validation": str(folder),
        "device": "cpu",
    }
    lines: list[str] = []
    weights = train(config_from_mapping(TrainConfig, settings), say=lines.append)
    net = load(weights)
    assert net.degradation == Degradation("camera", (0, 55), between=True)
    assert main(["evaluate", "--data", str(folder), "--model", str(weights), "--camera", "--json"]) == 0
    captured = capsys.readouterr()
    assert f"{json.loads(captured.out)['mean']['psnr']:.3f} dB" in lines[-1]
    assert "was trained for" not in captured.err
    image = np.concatenate([photo, photo])[..., :channels] / np.float32(255)
    told = [denoise(image.squeeze(), sigma, weights) for sigma in (2, 30)]
    assert not np.allclose(*told, atol=1e-3)
    with pytest.raises(ModnasError, match="was trained for the noise of cameras, σ = 0 to 55, not for σ = 70"):
        denoise(image.squeeze(), 70, weights)


def test_the_image_that_is_too_small_is_named(tmp_path, capsys) -> None:
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / "small.png")
    assert main(["evaluate", "--data", str(tmp_path), "--camera", "--rgb", "--model", "modnas-b-t1-rgb-photo"]) == 2
    assert "small.png: the photo is uint8 [30, 20, 3]" in capsys.readouterr().err
