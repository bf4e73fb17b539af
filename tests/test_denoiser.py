"""The public `denoise` and `Denoiser`: kinds of images, depths, alpha, σ, devices, ensembles."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import modnas_fast
from modnas_fast import Denoiser, DerivedNet, ModnasError, load
from modnas_fast.engine import denoiser as module
from modnas_fast.engine.highlights import bands_of
from modnas_fast.images.camera import camera_noise, draw_camera
from modnas_fast.images.degradations import Degradation, add_test_noise
from modnas_fast.images.files import Frame, from_float, read_image
from modnas_fast.images.metrics import psnr
from modnas_fast.networks import save_weights
from tests.cases import random_genotype

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """A smooth uint8 picture of 61×45 with an edge: what any denoiser must improve."""
    rows, columns = np.mgrid[0:61, 0:45]
    picture = 128 + 60 * np.sin(rows / 9) + 50 * np.cos(columns / 7) + 20 * (rows > columns)
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def noisy(clean: np.ndarray) -> np.ndarray:
    return add_test_noise(clean / 255.0, 25)


@pytest.fixture
def net() -> DerivedNet:
    torch.manual_seed(0)
    return DerivedNet(random_genotype(3), stages=2).eval()


def test_shipped_model_denoises(clean: np.ndarray, noisy: np.ndarray) -> None:
    restored = modnas_fast.denoise(noisy, sigma=25)
    assert restored.dtype == np.float32
    assert psnr(restored * 255, clean) > psnr(noisy * 255, clean) + 8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_array_kinds_agree_up_to_their_rounding(noisy: np.ndarray, dtype: type) -> None:
    expected = np.clip(modnas_fast.denoise(np.clip(noisy, 0, 1)), 0, 1)
    scale = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    image = (np.clip(noisy, 0, 1) * scale).astype(dtype)
    restored = modnas_fast.denoise(image)
    assert restored.dtype == dtype
    assert restored.shape == image.shape
    assert np.abs(restored / scale - expected).max() < 3 / 255
    assert np.abs(restored / scale - np.clip(noisy, 0, 1)).max() > 0.05


def test_a_read_only_array(noisy: np.ndarray) -> None:
    """As those of mapped files are: it works, and PyTorch has nothing to warn of."""
    frozen = noisy.copy()
    frozen.setflags(write=False)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(modnas_fast.denoise(frozen), modnas_fast.denoise(noisy))
    finally:
        torch.set_warn_always(False)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_the_other_byte_order(dtype: type, noisy: np.ndarray) -> None:
    """As FITS files have it."""
    scale = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    image = (np.clip(noisy, 0, 1) * scale).astype(dtype)
    restored = modnas_fast.denoise(image.astype(image.dtype.newbyteorder(">")))
    assert restored.dtype == image.dtype.newbyteorder(">")
    np.testing.assert_array_equal(restored, modnas_fast.denoise(image))


@pytest.mark.parametrize("model", ["modnas-b-t1-gray", "modnas-b-t1-gray-s25"])
@pytest.mark.parametrize("brightness", [1.3, 1.5, 1.99, 2.5, 3.7])
def test_what_is_brighter_than_white_is_denoised_and_stays_as_bright(model: str, brightness: float) -> None:
    clean = np.full((64, 64), 0.5, np.float32)
    clean[:32] = brightness
    noise = np.random.default_rng(0).normal(0, 25 / 255, clean.shape).astype(np.float32)
    restored = modnas_fast.denoise(clean + noise, sigma=25, model=model)
    for part, expected in ((restored[:28], brightness), (restored[36:], 0.5)):
        assert part.mean() == pytest.approx(expected, abs=0.012)
        assert part.std() < 0.3 * noise.std()


def test_what_is_far_brighter_than_white_is_carried_over(noisy: np.ndarray) -> None:
    bright = noisy.copy()
    bright[:16] += 20
    restored = modnas_fast.denoise(bright, sigma=25)
    np.testing.assert_allclose(restored[:12], bright[:12], atol=0.1)
    assert restored[20:].max() < 1.1


def test_highlights_of_one_image_of_a_batch_change_no_other(noisy: np.ndarray) -> None:
    batch = torch.from_numpy(np.stack([noisy, noisy]))[:, None]
    batch[1, :, :16] += 1
    shares: list[float] = []
    restored = Denoiser("modnas-b-t1-gray-s25")(batch, shares.append)
    torch.testing.assert_close(restored[0], Denoiser("modnas-b-t1-gray-s25")(batch[:1])[0], rtol=0, atol=0)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert restored[1, 0, :12].mean() == pytest.approx(float(batch[1, 0, :12].mean()), abs=0.02)


def test_highlights_in_colour_are_left_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = Denoiser("modnas-b-t1-rgb", sigma=25)
    bright = 1 + torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    restored = denoiser(bright)
    monkeypatch.setattr(module, "bands_of", lambda image: 1)
    torch.testing.assert_close(restored, denoiser(bright), rtol=0, atol=0)


def test_noise_on_white_is_no_highlight() -> None:
    white = torch.ones(1, 64, 64) + 55 / 255 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert white.max() > 1.7
    assert bands_of(white) == 1
    assert [bands_of(torch.full((1, 5, 70), value)) for value in (1.1, 1.3, 2.1, 9.0)] == [1, 2, 3, 4]
    assert [bands_of(torch.full((1, 9, 9), value)) for value in (torch.nan, torch.inf, -torch.inf)] == [1, 1, 1]


def test_the_result_may_be_part_of_what_is_differentiated(noisy: np.ndarray) -> None:
    restored = modnas_fast.denoise(torch.from_numpy(noisy)[None, None])
    layer = torch.nn.Conv2d(1, 1, 3)
    layer(restored).sum().backward()
    assert layer.weight.grad is not None


def test_sixteen_bit_is_not_halved(noisy: np.ndarray) -> None:
    image = (np.clip(noisy, 0, 1) * 65535).astype(np.uint16)
    restored = modnas_fast.denoise(image)
    assert len(np.unique(restored)) > 300


def test_a_gray_model_runs_the_channels_of_rgb_one_by_one_and_says_so(noisy: np.ndarray) -> None:
    rgb = np.stack([noisy, noisy[::-1], noisy * 0.5], axis=2)
    with pytest.warns(UserWarning, match="3 channels one by one"):
        restored = modnas_fast.denoise(rgb, sigma=20, model="modnas-b-t1-gray")
    for channel in range(3):
        alone = modnas_fast.denoise(np.ascontiguousarray(rgb[..., channel]), sigma=20)
        np.testing.assert_allclose(restored[..., channel], alone, atol=1e-6)


@pytest.mark.parametrize("sigma", [None, 25, 40])
def test_rgb_has_a_model_of_its_own(sigma: float | None) -> None:
    """Which sees what the channels have in common: that is worth 1 dB and more on a photo."""
    clean = np.asarray(Image.open(ROOT / "examples" / "chelsea.png"))
    noisy = add_test_noise(clean / 255.0, sigma or 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = modnas_fast.denoise(noisy, sigma)
    np.testing.assert_array_equal(restored, modnas_fast.denoise(noisy, sigma, "modnas-b-t1-rgb"))
    batch = torch.from_numpy(noisy).permute(2, 0, 1)[None]
    of_batch = modnas_fast.denoise(batch, sigma)[0].permute(1, 2, 0)
    np.testing.assert_allclose(of_batch.numpy(), restored, atol=1e-6)
    one_by_one = np.stack([modnas_fast.denoise(noisy[..., channel], sigma or 30) for channel in range(3)], axis=2)
    assert psnr(restored * 255, clean) > psnr(one_by_one * 255, clean) + 1


@pytest.mark.parametrize("model", [None, "modnas-b-t1-gray"])
def test_gray_in_three_channels_is_gray(noisy: np.ndarray, model: str | None) -> None:
    """The noise of such a picture is the same in all of them, which a model for RGB takes for what is to stay."""
    rgb = np.repeat(noisy[..., None], 3, axis=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = modnas_fast.denoise(rgb, 30, model)
    for channel in range(3):
        np.testing.assert_array_equal(restored[..., channel], modnas_fast.denoise(noisy, 30))


def test_alpha_is_carried_as_it_is() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (24, 17, 4), dtype=np.uint8)
    restored = modnas_fast.denoise(rgba)
    np.testing.assert_array_equal(restored[..., 3], rgba[..., 3])
    assert (restored[..., :3] != rgba[..., :3]).mean() > 0.5


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pillow_images_keep_mode_and_info(mode: str) -> None:
    rng = np.random.default_rng(1)
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "I;16": ()}[mode]
    dtype = np.uint16 if mode == "I;16" else np.uint8
    pixels = rng.integers(0, np.iinfo(dtype).max, (20, 31, *channels), dtype=dtype)
    image = Image.fromarray(pixels)
    image.info["icc_profile"] = b"profile"
    restored = modnas_fast.denoise(image)
    assert (restored.mode, restored.size, restored.info["icc_profile"]) == (mode, (31, 20), b"profile")
    np.testing.assert_array_equal(np.asarray(restored), modnas_fast.denoise(pixels))


@pytest.mark.filterwarnings("ignore:.*one by one")
@pytest.mark.parametrize("shape", [(19, 23), (1, 19, 23), (3, 19, 23), (2, 1, 19, 23), (2, 3, 9, 8), (0, 1, 8, 8)])
def test_tensors_keep_shape_and_dtype(shape: tuple[int, ...], net: DerivedNet) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        y = torch.rand(shape).to(dtype)
        restored = modnas_fast.denoise(y, model=net)
        assert restored.shape == y.shape
        assert restored.dtype == dtype
        with torch.inference_mode():
            expected = net(y.float().reshape(-1, 1, *shape[-2:])).reshape(shape).to(dtype)
        torch.testing.assert_close(restored, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3)])
def test_smallest_images(size: tuple[int, int]) -> None:
    image = np.full(size, 100, np.uint8)
    assert modnas_fast.denoise(image).shape == size


def test_tiles_change_nothing(noisy: np.ndarray) -> None:
    whole = Denoiser(tile=0)(torch.from_numpy(noisy)[None, None])
    tiled = Denoiser(tile=16)(torch.from_numpy(noisy)[None, None])
    assert (tiled - whole).abs().max() <= 1e-5


def test_auto_tiles_only_large_images(net: DerivedNet, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles: list[int] = []
    monkeypatch.setattr(module, "run_tiled", lambda net, y, tile, on_tile: tiles.append(tile) or y)
    denoiser = Denoiser(net)
    denoiser(torch.rand(1, 1, 64, 64))
    assert tiles == []
    denoiser(torch.rand(1, 1, 1025, 1024))
    assert tiles == [768]


def test_x8_is_the_mean_over_the_symmetries_and_equivariant(net: DerivedNet) -> None:
    y = torch.rand(1, 1, 21, 34)
    denoiser = Denoiser(net, x8=True)
    restored = denoiser(y)
    torch.testing.assert_close(denoiser(y.rot90(1, (-2, -1))), restored.rot90(1, (-2, -1)), rtol=0, atol=1e-5)
    torch.testing.assert_close(denoiser(y.flip(-2)), restored.flip(-2), rtol=0, atol=1e-5)
    assert (restored - Denoiser(net)(y)).abs().max() > 1e-4


def test_sigma_must_be_the_models(noisy: np.ndarray, net: DerivedNet) -> None:
    """Errors name what to use instead: no model for other noise, and not the refused one."""
    instead = r"not for σ = 30; use modnas-b-t1-gray \(gray\) or modnas-b-t1-rgb \(RGB\), or leave sigma out"
    with pytest.raises(ModnasError, match=r"model modnas-b-t1-gray-s25 was trained for σ = 25, " + instead):
        modnas_fast.denoise(noisy, sigma=30, model="modnas-b-t1-gray-s25")
    with pytest.raises(ModnasError, match=r"trained for σ = 0 to 55, not for σ = 60; give a σ from 0 to 55, .*RGB$"):
        modnas_fast.denoise(noisy, sigma=60, model="modnas-b-t1-gray")
    for image in (noisy, np.zeros((9, 9, 3), np.uint8)):  # of which another model is the default
        with pytest.raises(ModnasError, match=r"no shipped model is for σ = 60; give a σ from 0 to 55, .* and RGB$"):
            modnas_fast.denoise(image, sigma=60)
    modnas_fast.denoise(noisy, sigma=50, model=net)  # says nothing about its training
    net.degradation = Degradation("jpeg", (20,))
    with pytest.raises(ModnasError, match=r"JPEG q = 20, not for σ = 25; use modnas-b-t1-gray \(gray\) or"):
        modnas_fast.denoise(noisy, sigma=25, model=net)


@pytest.mark.parametrize("sigma", [25, np.float32(25), np.array(25), torch.tensor(25.0), torch.tensor(25)])
def test_sigma_is_one_number_of_any_kind(sigma: object, noisy: np.ndarray) -> None:
    np.testing.assert_array_equal(modnas_fast.denoise(noisy, sigma), modnas_fast.denoise(noisy, 25.0))


def test_the_value_of_a_tensor_counts(noisy: np.ndarray) -> None:
    """And not which tensor it is."""
    sigma = torch.tensor(10.0)
    first = modnas_fast.denoise(noisy, sigma)
    sigma.fill_(40)
    assert not np.array_equal(modnas_fast.denoise(noisy, sigma), first)


@pytest.mark.parametrize("sigma", ["25", [25], True, np.array([15, 25]), torch.tensor([25.0]), 25j, torch.zeros(99)])
def test_what_is_no_sigma(sigma: object, noisy: np.ndarray) -> None:
    for call in (lambda: modnas_fast.denoise(noisy, sigma), lambda: Denoiser("modnas-b-t1-gray-s25", sigma=sigma)):
        with pytest.raises(ModnasError, match=r"^sigma is \S.{,90}; give one number on the 0–255 scale$"):
            call()


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf"), torch.tensor(-0.5)])
def test_levels_below_zero_and_beyond_all(sigma: object, noisy: np.ndarray) -> None:
    with pytest.raises(ModnasError, match=r"; σ must be a finite number of at least 0, on the 0–255 scale$"):
        modnas_fast.denoise(noisy, sigma)


def test_a_file_that_was_replaced_is_read_again(noisy: np.ndarray, net: DerivedNet, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_weights(path, net)
    first = modnas_fast.denoise(noisy, model=path)
    with torch.no_grad():
        net.stages[0].delta.add_(3)
    save_weights(path, net)
    second = modnas_fast.denoise(noisy, model=path)
    np.testing.assert_allclose(second, modnas_fast.denoise(noisy, model=load(path)), atol=1e-5)
    assert not np.allclose(first, second, atol=1e-5)


def test_the_shipped_model_is_the_one_for_the_noise(noisy: np.ndarray) -> None:
    assert Denoiser().name == Denoiser(sigma=30).name == "modnas-b-t1-gray"
    assert [Denoiser(sigma=sigma).name[-4:] for sigma in (15, 25, 50)] == ["-s15", "-s25", "-s50"]
    assert Denoiser(sigma=25).for_channels(3).name == Denoiser().for_channels(3).name == "modnas-b-t1-rgb"
    assert Denoiser("modnas-b-t1-gray").for_channels(3).name == "modnas-b-t1-gray"
    of_model = modnas_fast.denoise(noisy, model="modnas-b-t1-gray-s25")
    np.testing.assert_array_equal(modnas_fast.denoise(noisy, sigma=25), of_model)
    assert not np.array_equal(modnas_fast.denoise(noisy, sigma=30), of_model)


def test_a_photo_with_a_cameras_noise_has_a_model_of_its_own() -> None:
    """Image by image, whatever it comes as; not where σ, or a model, was given."""
    clean = read_image(ROOT / "examples" / "chelsea.png").frames[0].colour[:96, :128]
    camera = replace(draw_camera(np.random.default_rng(1)), shot=2e-3, demosaicing="bilinear")
    taken = camera_noise(clean, np.random.default_rng(0), camera)
    white = from_float(add_test_noise(clean / np.float32(255), 20), np.uint8)
    denoiser = Denoiser()
    names = [denoiser.for_frame(Frame(image)).name for image in (taken, white, taken[..., :1], white[..., :1])]
    assert names == ["modnas-b-t1-rgb-photo", "modnas-b-t1-rgb", "modnas-b-t1-gray-photo", "modnas-b-t1-gray"]
    restored = [modnas_fast.denoise(colour) for colour in (taken, white)]
    np.testing.assert_array_equal(restored[0], modnas_fast.denoise(taken, model="modnas-b-t1-rgb-photo"))
    np.testing.assert_array_equal(restored[1], modnas_fast.denoise(white, model="modnas-b-t1-rgb"))
    batch = torch.from_numpy(np.stack((taken, white))).permute(0, 3, 1, 2) / 255
    together = modnas_fast.denoise(batch).permute(0, 2, 3, 1).clamp(0, 1).numpy()
    for one, other in zip(together, restored, strict=True):
        np.testing.assert_array_equal(from_float(one, np.uint8), other)
    assert psnr(restored[0], clean) > psnr(taken, clean) + 2
    told = modnas_fast.denoise(taken, sigma=20)
    np.testing.assert_array_equal(told, modnas_fast.denoise(taken, sigma=20, model="modnas-b-t1-rgb"))
    assert Denoiser(sigma=20).for_frame(Frame(taken)).name == "modnas-b-t1-rgb"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[0.5]], "cannot denoise a list"),
        (np.zeros((4, 4, 5), np.uint8), "C from 1 to 4"),
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (np.zeros((2, 4, 4, 3), np.uint8), "give .H, W. or"),
        (np.zeros((4, 4), np.int32), "int32"),
        (np.zeros((0, 4), np.uint8), "at least 1"),
        (np.full((4, 4), np.nan, np.float32), "NaN"),
        (torch.full((1, 4, 4), torch.inf), "NaN or Inf"),
        (np.full((4, 4), 128.0), "divide them by what white is"),
        (torch.full((1, 1, 4, 4), 128.0), "the tensor has most samples above 2"),
        (torch.zeros(4, 4, dtype=torch.uint8), "float in"),
        (torch.zeros(1, 1, 1, 4, 4), "H, W"),
        (torch.zeros(1, 0, 4), "H, W"),
        (Image.new("CMYK", (4, 4)), "CMYK"),
    ],
)
def test_other_images_are_refused(image: object, message: str) -> None:
    with pytest.raises(ModnasError, match=message):
        modnas_fast.denoise(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "modnas-z"}, "modnas-b-t1-gray-s25"),
        ({"device": "tpu"}, "choose auto, cpu or cuda"),
        ({"device": "mps"}, "choose auto, cpu or cuda"),
        ({"tile": -8}, "tile is -8"),
        ({"tile": "big"}, "tile is 'big'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModnasError, match=message):
        modnas_fast.denoise(np.zeros((8, 8), np.uint8), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(ModnasError, match="no CUDA device"):
        Denoiser(device="cuda")


def test_rgb_model_refuses_gray() -> None:
    with pytest.raises(ModnasError, match="choose a gray model"):
        modnas_fast.denoise(np.zeros((8, 8), np.uint8), model=DerivedNet(random_genotype(0), channels_in=3))
