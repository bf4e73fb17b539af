"""Denoising images as people have them: NumPy arrays, Pillow images and tensors, of any size, gray or RGB."""

from __future__ import annotations

import copy
import functools
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from modnas_fast.engine import choice
from modnas_fast.engine.engine import Engine, engine_obstacle
from modnas_fast.engine.highlights import bands_of, denoise_in_bands
from modnas_fast.engine.tiling import OnTile, ignore_progress, portion, run_tiled
from modnas_fast.errors import ModnasError
from modnas_fast.images.degradations import as_level
from modnas_fast.images.frames import FAR_ABOVE_WHITE, OTHER_UNIT, Frame, ImageError, from_float, to_float
from modnas_fast.images.noise import is_white
from modnas_fast.networks import ConditionedNet, DerivedNet, load, models_for, plain_net
from modnas_fast.networks.device import choose_device
from modnas_fast.networks.levels import check_level, estimated_level, suggestion, within

if TYPE_CHECKING:
    from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]
Picture = TypeVar("Picture", Array, Tensor, "Image.Image")

_EVERY_LEVEL = "modnas-b-t1-gray"
_ONE_LEVEL = {level: f"modnas-b-t1-gray-s{level:g}" for level in (15.0, 25.0, 50.0)}
_RGB = "modnas-b-t1-rgb"
_PHOTO, _RGB_PHOTO = "modnas-b-t1-gray-photo", "modnas-b-t1-rgb-photo"

# Without tiling up to this many pixels; the tile beyond it. Set by memory: about 1 KiB a pixel and image in float32.
_WHOLE_PIXELS = 1 << 20
_AUTO_TILE = 768
_ENGINE_BYTES = 2 << 30  # what the engine may take before it tiles: about eight megapixels


def default_model(sigma: float | None, channels: int = 1) -> str:
    """The shipped model for noise of σ (0–255 scale) in images of 3 channels, RGB, or of another number: the one for
    just that σ, or for every σ (None: unknown)."""
    if channels == 3:
        return _RGB
    return _EVERY_LEVEL if sigma is None else _ONE_LEVEL.get(sigma, _EVERY_LEVEL)


class Denoiser:
    """A network ready for images of any size and number of channels.

    Args:
        model: a shipped model's name, a weight file, or a network. Left out: `default_model` of σ and of each image's
            channels, and without σ the ones for the noise of cameras where an image's is not white (`is_white`);
            attributes are those of the one for gray, and of `for_channels(3)` those of the one for RGB.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or a torch device.
        tile: "auto" (tiles of 768 pixels from one megapixel on; the compiled engine: as 2 GiB ask for), a side in
            pixels, or 0 for never.
        x8: average over the 8 flips and rotations: eight times the work, for 0.09 dB on Set12 (σ = 25).
        sigma: the noise's standard deviation on the 0–255 scale, for a model for every σ. Left out, each image's is
            estimated (`networks.levels.estimated_level`); `estimates` lists them. Other models have their own
            (`check_level` compares).

    A model given by name or file runs on the compiled engine where it is built; on CUDA in float16, if that is faster
    there than PyTorch in float16, as is measured once a device and model. A network, which may still change, and
    everything else runs on PyTorch. `backend` says which, and why.

    Raises:
        ModnasError: unknown model, device or tile, or a σ that is none or that a model for every σ was not trained for.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | DerivedNet | None = None,
        device: str | torch.device = "auto",
        tile: str | int = "auto",
        x8: bool = False,
        sigma: float | None = None,
    ) -> None:
        if tile != "auto" and (not isinstance(tile, int) or isinstance(tile, bool) or tile < 0):
            raise ModnasError(f"tile is {tile!r}; give 'auto', a side in pixels, or 0 for no tiling")
        self.device = choose_device(device)
        sigma = None if sigma is None else as_level(sigma)
        self._shipped: Callable[[str], Denoiser] | None = None  # by name, where the model was left out
        self._sigma = sigma
        if model is None:
            if sigma is not None and not models_for("awgn", sigma):
                raise ModnasError(f"no shipped model is for σ = {sigma:g}; {suggestion(sigma)}")
            make = functools.partial(Denoiser, device=self.device, tile=tile, x8=x8, sigma=sigma)
            self._shipped = functools.cache(make)
            model = default_model(sigma)
        self.name = model.genotype.name if isinstance(model, DerivedNet) else os.fspath(model)
        self._may_change = isinstance(model, DerivedNet)
        net = model if isinstance(model, DerivedNet) else load(model)
        self.trained_for = net.degradation
        self.tile = tile
        self.x8 = x8
        self.estimates: list[float] = []
        self._at_level: Callable[[float], Denoiser] | None = None
        if isinstance(net, ConditionedNet) and sigma is None:
            self.net: DerivedNet = net
            # One for each of the last few levels. A copy makes them, so that no cycle keeps engines alive.
            self._at_level = functools.lru_cache(4)(copy.copy(self)._told)
            return
        # What else a network is asked for, its caller decides: scoring one at another level makes sense.
        self._prepare(plain_net(net, sigma, self.name) if isinstance(net, ConditionedNet) else net)

    def for_channels(self, channels: int) -> Denoiser:
        """What denoises images of so many channels: this one, or where the model was left out the one for RGB."""
        if channels != 3 or self._shipped is None:
            return self
        return self._other(self._shipped, default_model(self._sigma, 3))

    def for_frame(self, frame: Frame) -> Denoiser:
        """What denoises this picture, by its channels and its noise; a gray one in three channels is gray."""
        if frame.is_gray:
            return self._chosen(1, lambda: to_float(frame.colour[..., :1]))
        return self._chosen(3, lambda: to_float(frame.colour))

    def _chosen(self, channels: int, samples: Callable[[], Array]) -> Denoiser:
        """What denoises an image of so many channels, of which `samples` gives float [H, W, C] in [0, 1]."""
        if self._shipped is None or self._sigma is not None or is_white(samples()):
            return self.for_channels(channels)
        return self._other(self._shipped, _RGB_PHOTO if channels == 3 else _PHOTO)

    def _other(self, shipped: Callable[[str], Denoiser], name: str) -> Denoiser:
        """Another shipped model, whose estimates are listed with this one's."""
        other = shipped(name)
        other.estimates = self.estimates
        return other

    @functools.cached_property
    def backend(self) -> str:
        """What runs, and why. Where σ is estimated it is asked of one level: all have the same."""
        assert self._at_level is not None, "others know it since they were prepared"
        return self._at_level(within(0.0, self.trained_for)).backend

    def _told(self, sigma: float) -> Denoiser:
        """This one at a single level."""
        told = copy.copy(self)
        told._prepare(plain_net(self.net, sigma, self.name))
        return told

    def _prepare(self, net: DerivedNet) -> None:
        """Choose what runs `net`, a plain network."""
        self.net = net.eval()
        self._engine: Engine | None = None
        self._exact: DerivedNet | None = None  # in float32, where PyTorch runs in float16
        if self._may_change:
            self.backend = "PyTorch (a network given as a module may still change)"
        elif self.device.type == "cpu":
            self.backend = self._choose_on_cpu()
        else:
            self.backend = self._choose_on_cuda()
        self.net = self.net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _choose_on_cpu(self) -> str:
        obstacle = engine_obstacle()
        if obstacle:
            return f"PyTorch ({obstacle})"
        limit = _ENGINE_BYTES if self.tile == "auto" else None
        weights, threads = self.net.state_dict(), torch.get_num_threads()
        self._engine = Engine(self.net.genotype, weights, threads=threads, memory_limit=limit)
        return f"the engine ({self._engine.variant})"

    def _choose_on_cuda(self) -> str:
        """The engine or PyTorch, both in float16, whichever is faster on this device."""
        place = f"cuda:{torch.cuda.current_device() if self.device.index is None else self.device.index}"
        obstacle = engine_obstacle(place)
        if obstacle:
            return f"PyTorch ({obstacle})"
        engine = Engine(self.net.genotype, self.net.state_dict(), device=place)
        peer = copy.deepcopy(self.net).to(self.device, torch.float16, memory_format=torch.channels_last)  # type: ignore[call-overload]
        y = torch.rand(1, self.net.channels_in, choice.SIDE, choice.SIDE, device=place)
        candidates = {"engine": lambda: engine(y), "PyTorch": torch.inference_mode()(lambda: peer(y.half()).float())}
        try:
            times = choice.milliseconds_of(
                (torch.cuda.get_device_name(place), self.name), candidates, lambda: torch.cuda.synchronize(place)
            )
        except (ModnasError, torch.OutOfMemoryError) as error:
            return f"PyTorch (the engine could not be measured: {error})"
        said = ", ".join(f"{name} {ms:.3g} ms" for name, ms in times.items())
        measured = f"float16 at {choice.SIDE}x{choice.SIDE}: {said}"
        if times["engine"] <= times["PyTorch"]:
            self._engine = engine
            return f"the engine ({engine.variant}; {measured})"
        self._exact, self.net = self.net, peer
        return f"PyTorch ({measured})"

    def check_level(self, sigma: float | None) -> None:
        """Raise `ModnasError` if the model was trained for other noise than σ (0–255 scale); None asks nothing."""
        check_level(sigma, self.trained_for, self.name)

    def __call__(self, y: Tensor, on_tile: OnTile = ignore_progress) -> Tensor:
        """Denoise a batch.

        Args:
            y: float [N, C, H, W] in [0, 1]. A gray model takes any C and runs every channel by itself.
            on_tile: called with the share of the work done.

        Returns:
            [N, C, H, W] in y's dtype, on y's device, not clipped.
        """
        if self._shipped is None or y.ndim != 4:
            return self._restored(y, on_tile)
        restored = torch.empty_like(y)
        for index, image in enumerate(y):
            chosen = self._chosen(len(image), functools.partial(_samples, image))
            restored[index] = chosen._restored(image[None], portion(on_tile, index, len(y)))[0]
        return restored

    @torch.no_grad()  # not inference_mode, whose tensors cannot take part in what is differentiated later
    def _restored(self, y: Tensor, on_tile: OnTile) -> Tensor:
        """A batch by this network."""
        if self._at_level is not None:
            restored = torch.empty_like(y)
            for index, image in enumerate(y):
                level = estimated_level(_samples(image), self.trained_for)
                self.estimates.append(level)
                at_level = self._at_level(level)
                restored[index] = at_level._restored(image[None], portion(on_tile, index, len(y)))[0]
            return restored
        if self.net.channels_in == 1 and y.ndim == 4 and y.shape[1] > 1:
            return self._restored(y.reshape(-1, 1, *y.shape[2:]), on_tile).reshape(y.shape)
        if not self.x8:
            return self._run(y, on_tile)
        total = torch.zeros_like(y)
        for index in range(8):
            turned = torch.rot90(y.flip(-1) if index >= 4 else y, index % 4, (-2, -1))
            restored = self._run(turned, portion(on_tile, index, 8))
            restored = torch.rot90(restored, -(index % 4), (-2, -1))
            total += restored.flip(-1) if index >= 4 else restored
        return total / 8

    def _run(self, y: Tensor, on_tile: OnTile) -> Tensor:
        # One image at a time: peak memory is one image's, and small images' maps stay in the caches.
        restored = torch.empty_like(y)
        for index in range(len(y)):
            image, progress = y[index : index + 1].to(self.net.dtype), portion(on_tile, index, len(y))
            bands = bands_of(image[0]) if self.net.channels_in == 1 else 1
            if bands == 1:
                restored[index] = self._run_one(image, progress)[0]
            else:
                restored[index] = denoise_in_bands(self._run_one, image, bands, progress)[0]
        return restored

    def _run_one(self, image: Tensor, on_tile: OnTile) -> Tensor:
        if self._engine is not None:
            restored = self._run_engine(self._engine, image, on_tile)
            on_tile(1.0)
            return restored
        if isinstance(self.tile, int):
            tile = self.tile
        else:
            tile = 0 if image.shape[-2] * image.shape[-1] <= _WHOLE_PIXELS else _AUTO_TILE
        restored = self._run_torch(self.net, image, tile, on_tile)
        if self._exact is not None and not restored.isfinite().all():
            warnings.warn(
                "float16 went beyond its range, or the input is not finite: the image was done again in float32",
                RuntimeWarning,
                stacklevel=4,
            )
            restored = self._run_torch(self._exact.to(self.device), image.float(), tile, on_tile)
        return restored

    def _run_torch(self, net: DerivedNet, image: Tensor, tile: int, on_tile: OnTile) -> Tensor:
        if tile:
            return run_tiled(net, image, tile, on_tile)
        restored = net(image.to(self.device)).to(image.device)
        on_tile(1.0)
        return cast(Tensor, restored)

    def _run_engine(self, engine: Engine, image: Tensor, on_tile: OnTile) -> Tensor:
        given = image.float().to(self.device)
        if isinstance(self.tile, int) and self.tile:
            restored = engine.run_tiled(given, self.tile, on_tile)
        else:
            restored = engine(given, progress=on_tile)
        return torch.as_tensor(restored).to(image.device)

    def denoise_frame(self, frame: Frame, on_tile: OnTile = ignore_progress) -> Frame:
        """A picture of the same size and depth; its alpha is carried over as it is.

        Raises:
            ModnasError: a gray picture for an RGB model.
        """
        chosen = self.for_frame(frame)
        if chosen is not self:
            return chosen.denoise_frame(frame, on_tile)
        if self.net.channels_in == 1 and frame.colour.shape[2] == 3 and frame.is_gray:
            gray = self.denoise_frame(Frame(frame.colour[..., :1]), on_tile)
            return Frame(np.repeat(gray.colour, 3, axis=2), frame.alpha)
        # A copy where the samples are read only, as those of a mapped file: of these PyTorch warns.
        samples = np.require(to_float(frame.colour), requirements="W")
        y = torch.from_numpy(samples).permute(2, 0, 1)[None]
        if self.net.channels_in == 3 and y.shape[1] == 1:
            raise ModnasError(f"model {self.name} is for RGB and the image is gray; choose a gray model")
        restored = self._restored(y, on_tile)[0].permute(1, 2, 0).numpy()
        return Frame(from_float(np.ascontiguousarray(restored), frame.colour.dtype), frame.alpha)


def _samples(image: Tensor) -> Array:
    """[H, W, C] of [C, H, W], in the host's memory."""
    return cast(Array, image.float().permute(1, 2, 0).cpu().numpy())


def denoise(
    image: Picture,
    sigma: float | None = None,
    model: str | os.PathLike[str] | DerivedNet | None = None,
    device: str | torch.device = "auto",
    tile: str | int = "auto",
    x8: bool = False,
) -> Picture:
    """Remove the noise from an image.

    Args:
        image: a NumPy array [H, W] or [H, W, C] with C = 1, 2, 3, 4 (gray, gray + alpha, RGB, RGBA), uint8, uint16 or
            float in [0, 1]; or a Pillow image; or a tensor [H, W], [C, H, W] or [N, C, H, W], float in [0, 1].
        sigma: the noise's standard deviation on the 0–255 scale. Left out: the one that the model was trained for, or
            for a model for every σ an estimate from the image.
        model: a shipped model's name (see `modnas-fast models`), a weight file, or a network; left out, the shipped
            one for σ and for gray or RGB, or without σ for a photo with a camera's noise the one for that (see
            `Denoiser`). Gray models run the channels of RGB images one by one, and warn.
        device, tile, x8: see `Denoiser`.

    Returns:
        The same kind, shape and dtype; integers are rounded and clipped, floats are not clipped. Alpha is carried over.
        Floats may be brighter than white: gray models denoise what goes beyond 1 for itself (`engine.highlights`); RGB
        models, which know [0, 1], darken it.

    Raises:
        ModnasError: an image of another kind or unit, or with NaN or Inf; an unknown model; a σ that is no number of
            at least 0, or that the model was not trained for.
    """
    sigma = None if sigma is None else as_level(sigma)
    if isinstance(model, DerivedNet):
        denoiser = Denoiser(model, device, tile, x8, sigma)
    else:
        path = None if model is None else os.fspath(model)
        denoiser = _denoiser(path, _version(path), device, tile, x8, sigma)
    denoiser.check_level(sigma)
    if isinstance(image, Tensor):
        return _denoise_tensor(denoiser, image)
    if isinstance(image, np.ndarray):
        return _denoise_array(denoiser, image)
    if hasattr(image, "getexif"):  # a Pillow image, told without importing Pillow
        return _denoise_pillow(denoiser, image)
    raise ModnasError(f"cannot denoise a {type(image).__name__}; give a NumPy array, a Pillow image or a torch tensor")


def _version(path: str | None) -> tuple[int, int] | None:
    """What tells a file from the one that it replaced; None where there is no file."""
    try:
        status = os.stat(path or "")
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4)
def _denoiser(
    model: str | None,
    version: tuple[int, int] | None,
    device: str | torch.device,
    tile: str | int,
    x8: bool,
    sigma: float | None,
) -> Denoiser:
    """Denoisers by name, or path and its `_version`, kept so that a loop over images loads the weights once."""
    return Denoiser(model, device, tile, x8, sigma)


def _note_channels(denoiser: Denoiser, channels: int) -> None:
    if denoiser.net.channels_in == 1 and channels > 1:
        warnings.warn(
            f"model {denoiser.name} is for gray images; it runs the {channels} channels one by one", stacklevel=4
        )


def _denoise_tensor(denoiser: Denoiser, image: Tensor) -> Tensor:
    if not 2 <= image.ndim <= 4 or not image.is_floating_point() or 0 in image.shape[-2:]:
        raise ModnasError(
            f"the tensor is {image.dtype} {list(image.shape)}; give [H, W], [C, H, W] or [N, C, H, W], float in [0, 1]"
        )
    if not image.isfinite().all():
        raise ImageError("the tensor holds NaN or Inf; replace them, for example by torch.nan_to_num")
    if (image > FAR_ABOVE_WHITE).sum() > image.numel() / 2:
        raise ImageError(f"the tensor {OTHER_UNIT}")
    batch = image[(None,) * (4 - image.ndim)]
    _note_channels(denoiser.for_channels(batch.shape[1]), batch.shape[1])
    return denoiser(batch).reshape(image.shape)


def _denoise_array(denoiser: Denoiser, image: Array) -> Array:
    native = image.dtype.newbyteorder("=")
    if native in (np.float64, np.float16) or native != image.dtype:
        plain = np.float32 if native.kind == "f" else native
        return _denoise_array(denoiser, image.astype(plain)).astype(image.dtype)
    if image.ndim not in (2, 3) or (image.ndim == 3 and not 1 <= image.shape[2] <= 4):
        raise ModnasError(
            f"the array is {list(image.shape)}; give [H, W] or [H, W, C] with C from 1 to 4, channels last"
        )
    frame = Frame.from_samples(image)
    if not frame.is_gray:
        _note_channels(denoiser.for_channels(3), 3)
    return denoiser.denoise_frame(frame).samples.reshape(image.shape)


def _denoise_pillow(denoiser: Denoiser, image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        raise ModnasError(f"the Pillow image has mode {image.mode}; convert it to L, LA, RGB, RGBA or I;16")
    restored = Image.fromarray(_denoise_array(denoiser, np.asarray(image)))
    restored.info = dict(image.info)
    return restored
