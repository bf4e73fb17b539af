"""Training patches: true windows of the images, their symmetries, noise, compression and shares."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from modnas_fast.errors import ModnasError
from modnas_fast.images.camera import camera_noise, enlarged
from modnas_fast.images.degradations import jpeg_compress
from modnas_fast.images.noise import estimate_coarse_sigma
from modnas_fast.images.patches import PairSampler, PatchSampler

CPU = torch.device("cpu")


def numbered_images(*sizes, channels=1):
    """Images in which no two pixels of all images are alike (up to 256 pixels; else up to their colours)."""
    values = itertools.count()
    images = []
    for height, width in sizes:
        flat = np.array([next(values) for _ in range(height * width)], np.int64)
        stacked = np.stack([(flat * (2 * c + 1) + 7 * c) % 256 for c in range(channels)], -1)
        images.append(stacked.astype(np.uint8).reshape(height, width, channels))
    return images


def every_patch(images, size):
    """The 8 symmetries of every window, by NumPy: bytes → number of its (image, top, left)."""
    found = {}
    windows = itertools.count()
    for image in images:
        for top in range(image.shape[0] - size + 1):
            for left in range(image.shape[1] - size + 1):
                window, number = image[top : top + size, left : left + size], next(windows)
                for turned in (np.rot90(window, turns) for turns in range(4)):
                    for flipped in (turned, turned[:, ::-1]):
                        assert found.setdefault(flipped.tobytes(), number) == number
    return found, next(windows)


@pytest.mark.parametrize("patch", [3, 4])  # patches, and smaller ones of those images that hold them
@pytest.mark.parametrize("channels", [1, 3])
def test_every_patch_is_a_symmetry_of_a_true_window_and_each_comes_as_often(channels, patch):
    images = numbered_images((3, 5), (4, 3), (6, 6), channels=channels)
    size, count = 3, 8000
    truth, windows = every_patch([image for image in images if min(image.shape[:2]) >= patch], size)
    assert windows == (3 + 2 + 16 if patch == size else 16)
    assert len(truth) == 8 * windows
    sampler = PatchSampler(images, patch, CPU)
    patches = sampler.gather(sampler.draw(count, torch.Generator().manual_seed(0), size))
    assert patches.shape == (count, channels, size, size)
    assert patches.dtype == torch.float32
    assert patches.is_contiguous(memory_format=torch.channels_last)
    pixels = (patches * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    assert np.array_equal(pixels.astype(np.float32) / np.float32(255), patches.permute(0, 2, 3, 1).numpy())
    drawn = [patch.tobytes() for patch in pixels]
    assert set(drawn) == set(truth)  # nothing else, and all of them
    expected = count / len(truth)
    often = np.array([drawn.count(patch) for patch in truth])
    chi_square = ((often - expected) ** 2 / expected).sum()
    degrees = len(truth) - 1
    assert abs(chi_square - degrees) < 4.5 * math.sqrt(2 * degrees)


def test_small_images_are_left_out():
    images = numbered_images((2, 9), (4, 4), (9, 2), (3, 3))
    sampler = PatchSampler(images, 3, CPU)
    assert sampler.image_count == 2
    truth, _ = every_patch([images[1], images[3]], 3)
    patches = sampler.gather(sampler.draw(500, torch.Generator().manual_seed(0)))
    assert {(patch * 255).round().to(torch.uint8).numpy().tobytes() for patch in patches} <= set(truth)
    with pytest.raises(ModnasError, match=r"none of 4 training images is at least 5×5 pixels; lower `patch`"):
        PatchSampler(images, 5, CPU)
    with pytest.raises(ModnasError, match="none of 0"):
        PatchSampler([], 5, CPU)


def test_patch_as_large_as_the_image():
    (image,) = numbered_images((8, 8))
    sampler = PatchSampler([image], 8, CPU)
    truth, _ = every_patch([image], 8)
    patches = sampler.gather(sampler.draw(100, torch.Generator().manual_seed(0)))
    assert {(patch * 255).round().to(torch.uint8).numpy().tobytes() for patch in patches} == set(truth)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_its_level(channels):
    image = np.full((32, 32, channels), 128, np.uint8)
    sampler = PairSampler([image], 32, "awgn", (15, 50), CPU, seed=3)
    noisy, clean, told = sampler.sample(64)
    assert noisy.shape == clean.shape == (64, channels, 32, 32)
    assert (clean == 128 / 255).all()
    noise = (noisy - clean) * 255
    levels = noise.std(dim=(1, 2, 3))
    low = levels < 30
    assert 16 < int(low.sum()) < 48
    torch.testing.assert_close(levels, torch.where(low, 15.0, 50.0), rtol=0.15, atol=0)
    assert torch.equal(told, torch.where(low, 15.0, 50.0))
    for value, chosen in ((15.0, low), (50.0, ~low)):
        assert float(noise[chosen].std()) == pytest.approx(value, rel=0.01)
        assert abs(float(noise[chosen].mean())) < 0.02 * value
    correlation = (noise[0, 0, :, :-1] * noise[0, 0, :, 1:]).mean() / noise[0, 0].square().mean()
    assert abs(float(correlation)) < 0.15
    assert not torch.equal(sampler.sample(64)[0], noisy)


def test_noise_of_any_level_between() -> None:
    image = np.full((32, 32, 1), 128, np.uint8)
    noisy, clean, told = PairSampler([image], 32, "awgn", (5, 55), CPU, seed=3, between=True).sample(256)
    assert told.min() > 5
    assert told.max() < 55
    assert float(told.mean()) == pytest.approx(30, abs=3)
    torch.testing.assert_close(((noisy - clean) * 255).std(dim=(1, 2, 3)), told, rtol=0.12, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_pairs_are_aligned(channels):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (size, 20, channels), np.uint8) for size in (16, 24, 5)]
    qualities = (10, 60)
    sampler = PairSampler(images, 16, "jpeg", qualities, CPU, seed=1)
    degraded, clean, told = sampler.sample(60)
    truth = {}
    for image, quality in itertools.product(images[:2], qualities):
        coded = jpeg_compress(image if channels == 3 else image[..., 0], quality).reshape(image.shape)
        both = np.concatenate((coded, image), -1)
        truth |= dict.fromkeys(every_patch([both], 16)[0], quality)
    pairs = (torch.cat((degraded, clean), 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    assert [truth[pair.tobytes()] for pair in pairs] == told.tolist()
    assert set(told.tolist()) == set(qualities)
    assert (degraded - clean).abs().mean() > 0.01


def test_cameras_take_each_photo_and_a_part_of_it_enlarged():
    rows, columns = np.mgrid[:28, :26]
    wave = (128 + 50 * np.sin(rows / 3)[..., None] + 60 * np.cos(columns[..., None] / (3, 5, 7))).astype(np.uint8)
    images = [wave[:5], wave[:25], wave[::-1]]
    noisy, clean, told = PairSampler(images, 24, "camera", (0.1, 55), CPU, 1, between=True).sample(60)
    large = images[1:]
    seen = [*large, *(enlarged(image, np.random.default_rng((1, i))) for i, image in enumerate(large))]
    truth, sigmas = {}, []
    for index, image in enumerate(seen):
        photo = camera_noise(image, np.random.default_rng((1, index)))
        truth |= dict.fromkeys(every_patch([np.concatenate((photo, image), -1)], 24)[0], index)
        sigmas.append(min(max(estimate_coarse_sigma(photo / np.float32(255)), 0.1), 55))
    pairs = (torch.cat((noisy, clean), 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    numbers = [truth[pair.tobytes()] for pair in pairs]
    assert set(numbers) == set(range(4))
    assert told.tolist() == pytest.approx([sigmas[number] for number in numbers])
    assert len(set(told.tolist())) > 2


@pytest.mark.parametrize(("degradation", "levels"), [("awgn", (15, 25, 50)), ("jpeg", (10, 40)), ("camera", (0, 55))])
def test_shares_are_slices_of_the_whole_batch(degradation, levels):
    images = numbered_images((30, 27), (24, 24), channels=3)

    def samplers():
        return PairSampler(images, 24, degradation, levels, CPU, 7, between=degradation == "camera")

    whole = samplers()
    parts = [samplers() for _ in range(3)]
    for _ in range(3):
        noisy, clean, level = whole.sample(6)
        for rank, part in enumerate(parts):
            share = slice(rank, None, 3)
            mine = part.sample(6, share)
            assert torch.equal(mine[0], noisy[share])
            assert torch.equal(mine[1], clean[share])
            assert torch.equal(mine[2], level[share])
