"""Training patches, cut by one gather a batch from images that stay in memory as uint8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modnas_fast.errors import ModnasError
from modnas_fast.images.camera import camera_noise, enlarged
from modnas_fast.images.degradations import jpeg_compress
from modnas_fast.images.frames import to_float
from modnas_fast.images.noise import estimate_coarse_sigma

Array = np.ndarray[Any, np.dtype[Any]]


class _Windows(NamedTuple):
    """All places that a patch of one size has in all images, numbered image by image."""

    columns: Tensor  # of an image, as are starts and ends
    starts: Tensor
    ends: Tensor
    total: int

    @classmethod
    def of(cls, height: Tensor, width: Tensor, side: int) -> _Windows:
        columns = width - side + 1
        places = (height - side + 1) * columns
        ends = places.cumsum(0)
        return cls(columns, ends - places, ends, int(ends[-1]))  # once: reading it from a GPU waits for all that runs


class PatchSampler:
    """Random patches with random flips and transposes, on the device that holds the images.

    Every position of every image is equally likely. All images lie in one flat pixel array; a batch is an index
    computation and a gather, with no Python a patch, on CPU and GPU alike.

    Args:
        images: uint8 [H, W, C], all with one C; those smaller than a patch are left out.
        patch: side in pixels.
        device: where images, indices and patches live.

    Raises:
        ModnasError: no image is large enough.
    """

    def __init__(self, images: Sequence[Array], patch: int, device: torch.device) -> None:
        large = [image for image in images if min(image.shape[:2]) >= patch]
        if not large:
            raise ModnasError(
                f"none of {len(images)} training images is at least {patch}×{patch} pixels; lower `patch`"
            )
        self.patch = patch
        self.image_count = len(large)
        self.pixels = torch.from_numpy(np.concatenate([image.reshape(-1, image.shape[2]) for image in large])).to(
            device
        )
        height, width = (torch.tensor([image.shape[axis] for image in large], device=device) for axis in (0, 1))
        self._height, self._width = height, width
        areas = height * width
        self._ends = areas.cumsum(0)
        self._offsets = self._ends - areas
        self._windows: dict[int, _Windows] = {}  # by side

    def draw(self, count: int, generator: torch.Generator, side: int = 0) -> Tensor:
        """Indices of `count` random patches into `pixels`, int64 [count, side, side]; `side` is at most `patch`, or 0
        for that.
        """
        device, side = self.pixels.device, side or self.patch
        if side not in self._windows:
            self._windows[side] = _Windows.of(self._height, self._width, side)
        windows = self._windows[side]
        position = torch.randint(windows.total, (count,), generator=generator, device=device)
        symmetry = torch.randint(8, (count, 1, 1), generator=generator, device=device)
        image = torch.searchsorted(windows.ends, position, right=True)
        inside = position - windows.starts[image]
        top, left = inside // windows.columns[image], inside % windows.columns[image]
        rows = torch.arange(side, device=device).view(1, -1, 1)
        columns = rows.view(1, 1, -1)
        rows, columns = (
            torch.where(symmetry & 1 > 0, side - 1 - rows, rows),
            torch.where(symmetry & 2 > 0, side - 1 - columns, columns),
        )
        width = self._width[image].view(-1, 1, 1)
        inner = torch.where(symmetry & 4 > 0, columns * width + rows, rows * width + columns)
        return (self._offsets[image] + top * self._width[image] + left).view(-1, 1, 1) + inner

    def images_of(self, indices: Tensor) -> Tensor:
        """The numbers [N] of the images that patches [N, side, side] come from; left out ones do not count."""
        return torch.searchsorted(self._ends, indices[:, 0, 0].contiguous(), right=True)

    def gather(self, indices: Tensor, pixels: Tensor | None = None) -> Tensor:
        """The patches at `indices` as float32 [N, C, patch, patch] in [0, 1], channels-last in memory.

        `pixels` replaces the sampler's own by an array of the same layout (a degraded copy of the images, say).
        """
        source = self.pixels if pixels is None else pixels
        return (source[indices].float() / 255.0).permute(0, 3, 1, 2)


class PairSampler:
    """Training batches: degraded patches, the clean ones, and how much each was degraded.

    AWGN is drawn anew for every patch. JPEG copies of the images are made once a quality, and patches are cut from
    both alike; and so from photos and their noisy partners. Cameras take each image, and a part of it enlarged.

    Args:
        images: clean uint8 images [H, W, C].
        patch: side in pixels.
        degradation, levels: see `TrainConfig`.
        between: σ is drawn uniformly between the two `levels`; of a camera's photo it is estimated, and is one of the
            two if it is beyond.
        partners: of "pairs", the noisy photos, each of its clean one's size.
        device: where batches are made.
        seed: of positions, symmetries, levels and noise.
    """

    def __init__(
        self,
        images: Sequence[Array],
        patch: int,
        degradation: str,
        levels: Sequence[float],
        device: torch.device,
        seed: int,
        between: bool = False,
        partners: Sequence[Array] = (),
    ) -> None:
        if degradation == "camera":
            images = _with_enlarged([image for image in images if min(image.shape[:2]) >= patch], seed) or images
        self.clean = PatchSampler(images, patch, device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self._between = between
        copies = _copies(images, degradation, levels, seed, partners)
        self._degraded: Tensor | None = None  # all copies of all pixels
        if copies:
            self._degraded = torch.stack([PatchSampler(copy, patch, device).pixels for copy in copies])
        self._estimates: Tensor | None = None  # σ of each photo that a camera took
        if degradation == "camera":
            estimates = [estimate_coarse_sigma(to_float(photo)) for photo in copies[0]]
            self._estimates = torch.tensor(estimates, dtype=torch.float32, device=device).clamp(*levels)
        self._levels = torch.tensor(levels or (0.0,) * len(copies), dtype=torch.float32, device=device)

    def sample(self, batch: int, share: slice = slice(None), side: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """The next `batch` patches, or this process's `share` of them: degraded and clean, both float
        [N, C, side, side], and the levels [N]. `side` is at most `patch`, or 0 for that.

        Random numbers are drawn for the whole batch whatever the share, so several processes see together what one
        would.
        """
        device = self.clean.pixels.device
        indices = self.clean.draw(batch, self.generator, side)
        copy: Tensor | int = 0
        if self._estimates is not None:
            levels = self._estimates[self.clean.images_of(indices)]
        elif self._between:
            low, high = self._levels
            levels = low + (high - low) * torch.rand(batch, generator=self.generator, device=device)
        else:
            copy = torch.randint(len(self._levels), (batch, 1, 1), generator=self.generator, device=device)
            levels = self._levels[copy.flatten()]
        if self._degraded is not None:
            clean = self.clean.gather(indices[share])
            copies = self._degraded.flatten(0, 1)
            degraded = self.clean.gather((indices + copy * self.clean.pixels.shape[0])[share], copies)
            return degraded, clean, levels[share]
        size = (batch, *indices.shape[1:], self.clean.pixels.shape[1])
        noise = torch.randn(size, generator=self.generator, device=device)[share].permute(0, 3, 1, 2)
        clean = self.clean.gather(indices[share])
        sigma = levels[share]
        return torch.addcmul(clean, noise, sigma.view(-1, 1, 1, 1) / 255.0), clean, sigma


def _with_enlarged(images: Sequence[Array], seed: int) -> Sequence[Array]:
    return [*images, *(enlarged(image, np.random.default_rng((seed, i))) for i, image in enumerate(images))]


def _copies(
    images: Sequence[Array], degradation: str, levels: Sequence[float], seed: int, partners: Sequence[Array]
) -> Sequence[Sequence[Array]]:
    """The degraded images that patches are cut from, one a level; none where noise is drawn anew."""
    if degradation == "jpeg":
        return [[_jpeg(image, int(quality)) for image in images] for quality in levels]
    if degradation == "camera":
        return [[camera_noise(image, np.random.default_rng((seed, i))) for i, image in enumerate(images)]]
    return [partners] if degradation == "pairs" else []


def _jpeg(image: Array, quality: int) -> Array:
    compressed = jpeg_compress(image[..., 0] if image.shape[2] == 1 else image, quality)
    return compressed.reshape(image.shape)
