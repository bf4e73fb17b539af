"""The noise of cameras on clean photos: what a sensor adds, as it looks after the camera's own processing.

After Brooks et al., *Unprocessing Images for Learned Raw Denoising* (CVPR 2019), with their model of noise: the photo
is taken back to raw, noise is added there, and both are developed. What differs between the two is the noise, and it is
added to the photo as it was, so that a network learns to remove noise and not to undo a demosaicing filter. Then what
cameras also do: noise reduction, sharpening and JPEG. Colour matrices and gains are drawn at random, and the widths of
noise reduction such that the noise of PolyU's photos, whose neighbouring pixels correlate by 0.4 to 0.7 in luma and 0.9
in chroma, lies within.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modnas_fast.errors import ModnasError
from modnas_fast.images.colour import luma
from modnas_fast.images.degradations import jpeg_round_trip
from modnas_fast.images.frames import to_float

Array = np.ndarray[Any, np.dtype[Any]]

_SMALLEST = 24  # side in pixels: the widest blur reaches 19
_SHOT = (3e-5, 1.2e-2)  # λ_shot, log-uniform
_READ = (2.18, 1.20, 0.26)  # log λ_read is normal around 2.18 log λ_shot + 1.2
_ENLARGED = (1.3, 3.0)
_GREEN_AT = ((0, 1), (1, 0))  # of RGGB's 2×2
_RED_AT, _BLUE_AT = (0, 0), (1, 1)


@dataclass(frozen=True)
class Camera:
    """One camera and one exposure, as `draw_camera` draws them.

    Attributes:
        shot, read: λ_shot and λ_read of the noise's variance λ_shot·x + λ_read, for raw x in [0, 1].
        matrix: [3, 3], from linear RGB to the sensor's channels; rows sum to 1.
        gains: white balance, of red, green and blue.
        contrast: the tone curve 3x² − 2x³ is applied.
        demosaicing: "bilinear", "gradient" for Malvar, He and Cutler's (ICASSP 2004), or "none": every pixel has all
            three colours, as in photos that were made smaller.
        luma_blur, chroma_blur: of noise reduction, Gaussian, in pixels; 0 for none.
        coarse: of a three times wider blur so much more is left, as noise reduction is weakest there.
        sharpening: so much of what a blur of 1 pixel takes away is added; 0 for none.
        quality: of the JPEG, 0 for none; `subsampled`: with 4:2:0 chroma.
    """

    shot: float
    read: float
    matrix: Array
    gains: tuple[float, float, float]
    contrast: bool
    demosaicing: str
    luma_blur: float
    chroma_blur: float
    coarse: float
    sharpening: float
    quality: int
    subsampled: bool


def draw_camera(random: np.random.Generator) -> Camera:
    """A camera, an exposure and its settings at random."""
    shot = float(np.exp(random.uniform(*np.log(_SHOT))))
    slope, offset, spread = _READ
    read = float(np.exp(random.normal(slope * np.log(shot) + offset, spread)))
    mixing = random.uniform(0, 0.25, (3, 3)) * (1 - np.eye(3))
    return Camera(
        shot,
        read,
        mixing + np.diag(1 - mixing.sum(axis=1)),
        (float(random.uniform(1.4, 2.6)), 1.0, float(random.uniform(1.2, 2.4))),
        bool(random.random() < 0.5),
        ("none", "bilinear", "gradient")[random.choice(3, p=(0.25, 0.25, 0.5))],
        float(random.uniform(0.4, 1.2)) if random.random() < 0.75 else 0.0,
        float(random.uniform(0.7, 2.5)) if random.random() < 0.8 else 0.0,
        float(random.uniform(0, 1.0)),
        float(random.uniform(0.2, 1.2)) if random.random() < 0.3 else 0.0,
        int(random.integers(70, 99)) if random.random() < 0.85 else 0,
        bool(random.random() < 0.6),
    )


def camera_noise(clean: Array, random: np.random.Generator, camera: Camera | None = None) -> Array:
    """The photo as a camera would have taken it.

    Args:
        clean: uint8 [H, W, 3], sRGB, or [H, W, 1], gray, of at least 24 pixels a side.
        random: where the noise comes from, and without `camera` the camera.
        camera: which; left out, one at random.

    Returns:
        uint8 of the same shape; of a gray photo the luma.

    Raises:
        ModnasError: another shape or dtype, or fewer pixels.
    """
    if clean.dtype != np.uint8 or clean.ndim != 3 or clean.shape[2] not in (1, 3) or min(clean.shape[:2]) < _SMALLEST:
        raise ModnasError(
            f"the photo is {clean.dtype} {list(clean.shape)}; the noise of cameras is for uint8 [H, W, 3] or [H, W, 1] "
            f"of at least {_SMALLEST} pixels a side"
        )
    camera = camera or draw_camera(random)
    photo = torch.from_numpy(to_float(clean)).permute(2, 0, 1)[None].expand(-1, 3, -1, -1)
    raw = _to_raw(photo, camera)
    deviation = (camera.shot * raw + camera.read).clamp(min=0).sqrt()
    noise = torch.from_numpy(random.standard_normal(tuple(raw.shape), np.float32))
    residual = _develop(raw + deviation * noise, camera) - _develop(raw, camera)
    noisy = (photo + _processed(residual, camera)).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    taken = np.rint(255 * noisy).astype(np.uint8)
    if camera.quality:
        taken = jpeg_round_trip(taken, camera.quality, 2 if camera.subsampled else 0)
    return luma(taken) if clean.shape[2] == 1 else taken


def enlarged(clean: Array, random: np.random.Generator) -> Array:
    """A part of a photo, enlarged to the whole one's size: as smooth as photos are at a camera's full resolution.

    Those that data sets hold were made smaller, and are sharper; a network that has seen no others takes coarse noise
    for texture.

    Args:
        clean: uint8 [H, W, C], C = 1 or 3.
        random: where the part, 1/3 to 1/1.3 of both sides, comes from.
    """
    height, width, _ = clean.shape
    factor = random.uniform(*_ENLARGED)
    rows, columns = (int(np.ceil(side / factor)) for side in (height, width))
    top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
    part = Image.fromarray(clean[top : top + rows, left : left + columns].squeeze())
    return np.array(part.resize((width, height), Image.Resampling.BICUBIC)).reshape(clean.shape)


def _to_raw(photo: Tensor, camera: Camera) -> Tensor:
    if camera.contrast:
        photo = 0.5 - torch.sin(torch.asin((1 - 2 * photo).clamp(-1, 1)) / 3)
    linear = torch.where(photo <= 0.04045, photo / 12.92, ((photo + 0.055) / 1.055) ** 2.4)
    return _mixed(linear, camera.matrix) / torch.tensor(camera.gains).view(1, 3, 1, 1)


def _develop(raw: Tensor, camera: Camera) -> Tensor:
    seen = raw if camera.demosaicing == "none" else _demosaiced(_mosaic(raw), camera.demosaicing)
    linear = seen * torch.tensor(camera.gains).view(1, 3, 1, 1)
    linear = _mixed(linear, np.linalg.inv(camera.matrix)).clamp(0, 1)
    photo = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055)
    return 3 * photo**2 - 2 * photo**3 if camera.contrast else photo


def _mixed(image: Tensor, matrix: Array) -> Tensor:
    return torch.einsum("ij,njhw->nihw", torch.from_numpy(matrix.astype(np.float32)), image)


def _mosaic(raw: Tensor) -> Tensor:
    """What an RGGB sensor sees of [N, 3, H, W], as three channels that are zero where it has another colour."""
    seen = torch.zeros_like(raw)
    for channel, places in enumerate(((_RED_AT,), _GREEN_AT, (_BLUE_AT,))):
        for row, column in places:
            seen[:, channel, row::2, column::2] = raw[:, channel, row::2, column::2]
    return seen


_BILINEAR_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
_BILINEAR = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
# Malvar, He and Cutler's filters, times 8: green at red and blue; red and blue at green, in their row and in their
# column; red at blue and blue at red.
_AT_OTHER = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]])
_IN_ROW = np.array([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]])
_DIAGONAL = np.array([[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]])


def _demosaiced(mosaic: Tensor, method: str) -> Tensor:
    if method == "bilinear":
        kernels = [_BILINEAR, _BILINEAR_GREEN, _BILINEAR]
        return torch.cat([_filtered(mosaic[:, i : i + 1], kernel) for i, kernel in enumerate(kernels)], dim=1)
    plane = mosaic.sum(dim=1, keepdim=True)  # every pixel has one colour
    other, row, column, diagonal = (
        _filtered(plane, kernel / 8) for kernel in (_AT_OTHER, _IN_ROW, _IN_ROW.T, _DIAGONAL)
    )
    full = plane.repeat(1, 3, 1, 1)
    for at in (_RED_AT, _BLUE_AT):
        _place(full, 1, at, other)
    for channel, own, opposite in ((0, _RED_AT, _BLUE_AT), (2, _BLUE_AT, _RED_AT)):
        for at in _GREEN_AT:
            _place(full, channel, at, row if at[0] == own[0] else column)
        _place(full, channel, opposite, diagonal)
    return full


def _place(image: Tensor, channel: int, at: tuple[int, int], plane: Tensor) -> None:
    image[:, channel, at[0] :: 2, at[1] :: 2] = plane[:, 0, at[0] :: 2, at[1] :: 2]


def _filtered(plane: Tensor, kernel: Array) -> Tensor:
    """Correlation of [N, C, H, W] with one kernel, borders reflected: a reflection keeps the mosaic's pattern."""
    rows, columns = (size // 2 for size in kernel.shape)
    N, C, H, W = plane.shape
    padded = F.pad(plane.reshape(N * C, 1, H, W), (columns, columns, rows, rows), mode="reflect")
    return F.conv2d(padded, torch.from_numpy(kernel.astype(np.float32))[None, None]).reshape(N, C, H, W)


# Luma and two differences, orthonormal.
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])


def _processed(residual: Tensor, camera: Camera) -> Tensor:
    """The noise after noise reduction and sharpening."""
    opponent = _mixed(residual, _OPPONENT)
    luma = _reduced(opponent[:, :1], camera.luma_blur, camera.coarse)
    chroma = _reduced(opponent[:, 1:], camera.chroma_blur, camera.coarse)
    residual = _mixed(torch.cat((luma, chroma), dim=1), _OPPONENT.T)
    return residual + camera.sharpening * (residual - _blurred(residual, 1.0)) if camera.sharpening else residual


def _reduced(noise: Tensor, radius: float, coarse: float) -> Tensor:
    return _blurred(noise, radius) + coarse * _blurred(noise, 3 * radius) if radius else noise


def _blurred(image: Tensor, radius: float) -> Tensor:
    reach = int(np.ceil(2.5 * radius))
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)[None]
    line = line / line.sum()
    return _filtered(_filtered(image, line), line.T)
