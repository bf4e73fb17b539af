"""The engine's half for CUDA: whole batches where memory holds them, else fewer images at a time, else tiles."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modnas_fast.engine.arrays import Cancelled, OnProgress, check_images, host_images, part
from modnas_fast.engine.plan import Plan, PlanRow
from modnas_fast.engine.program import Step, native_layer
from modnas_fast.engine.windows import halo_of, largest_tile, round_up, windows
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import SIZE_MULTIPLE, Genotype

DTYPES = ("float16", "bfloat16", "float32")

_LEAST_CAPABILITY = {"float16": 75, "bfloat16": 80, "float32": 75}  # 75 for 7.5
_SHARE_OF_FREE_MEMORY = 0.9  # the rest is for what others do meanwhile
# Of a launch. A grid has 65535 blocks down, of two rows or more, and as many for images, phases and groups of channels.
_MOST_IMAGES, _MOST_ROWS, _MOST_PIXELS = 1024, 131064, 1 << 30
_LEGACY_STREAM = 1  # the default stream, as DLPack calls it
_ON_CUDA = (2, 13)  # DLPack's devices: CUDA and its managed memory


def cuda_obstacle(index: int = 0) -> str:
    """Why the engine cannot run on the CUDA device of this number; empty if it can."""
    try:
        from modnas_fast import _engine_cuda
    except ImportError as error:
        note = Path(__file__).parent.parent / "_engine_cuda_missing.txt"
        return note.read_text(encoding="utf-8").strip() if note.exists() else f"it is not built for CUDA ({error})"
    try:
        devices = _engine_cuda.devices()
    except RuntimeError as error:
        return str(error)
    if index >= len(devices):
        return f"there is no device cuda:{index}; this machine has {len(devices)}" if devices else "there is no GPU"
    name, capability, _ = devices[index]
    if capability < min(_LEAST_CAPABILITY.values()):
        return f"cuda:{index} ({name}) has compute capability {capability / 10}; the engine needs 7.5"
    return ""


class CudaBackend:
    """See `Engine`.

    Images on the device are read and written where they are. Calls in half precision end when the result is known to
    be finite; others are asynchronous on the caller's stream.

    Raises:
        ModnasError: a dtype that the device cannot run, or too little memory for the weights.
    """

    threads = 0

    def __init__(
        self,
        program: Sequence[Sequence[Step]],
        channels: int,
        genotype: Genotype,
        dtype: str,
        index: int,
        memory_limit: int | None,
    ) -> None:
        from modnas_fast import _engine_cuda

        self._native: Any = _engine_cuda
        name, capability, _ = _engine_cuda.devices()[index]
        if capability < _LEAST_CAPABILITY[dtype]:
            raise ModnasError(
                f"cuda:{index} ({name}, compute capability {capability / 10}) cannot run {dtype}; choose float16"
            )
        self._index, self.device, self.variant = index, f"cuda:{index}", f"cuda:{index} {name}"
        self.stages, self._channels, self._genotype = len(program), channels, genotype
        self.dtype, self.memory_limit = dtype, memory_limit
        self._layers = [[native_layer(_engine_cuda, step) for step in stage] for stage in program]
        self._lock = threading.Lock()
        self.network = self._make_network(dtype)
        self._exact: Any = None  # the network in float32, once a call had to be done again
        self._fitting: set[tuple[int, ...]] = set()  # shapes that run whole, and for which memory is taken
        self._staging: Any = None  # on the device: the last input from the host's memory, and its result

    def _make_network(self, dtype: str) -> Any:
        try:
            return self._native.Network(self._channels, self._layers, self._index, dtype)
        except MemoryError:
            raise ModnasError(f"{self.device} has no memory for the weights") from None
        except self._native.CudaError as error:
            raise ModnasError(f"{self.device}: {error}") from None

    def run(self, x: Any, out: Any, progress: OnProgress | None, tile: int | None, stream: int | None) -> Any:
        with self._lock:
            try:
                if not _on_cuda(x):
                    return self._run_from_host(x, out, progress, tile)
                return self._run_on_device(x, out, progress, tile, stream)
            except self._native.CudaError as error:
                raise ModnasError(f"{self.device}: {error}") from None

    def _run_from_host(self, x: Any, out: Any, progress: OnProgress | None, tile: int | None) -> Any:
        if _on_cuda(out):
            raise ModnasError("out is on a CUDA device and the input is not; give both in one place")
        noisy, result = host_images(x, out, self._channels)
        if len(noisy) == 0:
            return result
        shape, stream = noisy.shape, self.network.stream
        if self._staging is None or self._staging[0].shape != shape:
            self._staging = None  # before others are taken
            self._staging = self._array(shape), self._array(shape)
        given, made = self._staging
        given.upload(np.ascontiguousarray(noisy), stream)
        self._run_images(given.image, made.image, progress, tile, stream)
        host = result if result.flags.c_contiguous else np.empty(shape, np.float32)
        made.download(host, stream)
        if host is not result:
            result[...] = host
        return result

    def _run_on_device(
        self, x: Any, out: Any, progress: OnProgress | None, tile: int | None, stream: int | None
    ) -> Any:
        torch = sys.modules.get("torch")
        is_tensor = torch is not None and isinstance(x, torch.Tensor)
        if stream is None and is_tensor:
            stream = torch.cuda.current_stream(x.device).cuda_stream  # type: ignore[union-attr]
        of_caller = self.network.stream if stream is None else stream or _LEGACY_STREAM
        noisy = self._image(x, of_caller, "the input")
        check_images(noisy.shape, "float32", self._channels)
        if out is not None:
            result = out
        elif is_tensor:
            result = torch.empty_like(x, requires_grad=False)  # type: ignore[union-attr]
        else:
            result = self._array(noisy.shape)
        if not _on_cuda(result):
            raise ModnasError(f"out is a {type(out).__name__} elsewhere; give float32 images on {self.device}")
        target = result.image if isinstance(result, self._native.Array) else self._image(result, of_caller, "out")
        if target.shape != noisy.shape:
            raise ModnasError(f"out is {list(target.shape)}; give float32 {list(noisy.shape)}")
        if noisy.shape[0] == 0:
            return result
        if target.overlaps(noisy):
            raise ModnasError("out shares memory with the input; give another array")
        self._run_images(noisy, target, progress, tile, of_caller)
        if isinstance(result, self._native.Array):
            result.made_on(of_caller)
        if stream is None and not (is_tensor and out is None):
            # Nobody told on which stream `out` is read, or on which memory of x is used again once its owner drops it.
            self.network.settle(of_caller)
        return result

    def _image(self, array: Any, stream: int, name: str) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(array, torch.Tensor):
            if array.ndim != 4 or array.dtype != torch.float32 or array.device.index not in (None, self._index):
                raise ModnasError(
                    f"{name} is {array.dtype} {list(array.shape)} on {array.device}; "
                    f"give float32 [N, {self._channels}, H, W] on {self.device}"
                )
            return self._native.Image(array.data_ptr(), tuple(array.shape), array.stride())
        try:
            return self._native.image_in(array.__dlpack__(stream=stream), self._index)
        except (ValueError, TypeError, RuntimeError, BufferError) as error:
            raise ModnasError(f"cannot use {name}: {error}; give float32 images on {self.device}") from None

    def _array(self, shape: tuple[int, ...]) -> Any:
        try:
            return self._native.Array(self._index, shape)
        except MemoryError:
            raise ModnasError(f"{self.device} has no memory for images {list(shape)}; give fewer at a time") from None

    def _run_images(self, noisy: Any, result: Any, progress: OnProgress | None, tile: int | None, stream: int) -> None:
        self._run_on(self.network, noisy, result, progress, tile, stream)
        if self.dtype == "float32" or self.network.settle(stream):
            return
        warnings.warn(
            f"{self.dtype} went beyond its range, or the input is not finite: the call was done again in float32",
            RuntimeWarning,
            stacklevel=5,
        )
        if self._exact is None:
            self._exact = self._make_network("float32")
        self._release_network()
        self._run_on(self._exact, noisy, result, progress, tile, stream)
        self._exact.settle(stream)
        self._exact.release()

    def _run_on(
        self, network: Any, noisy: Any, result: Any, progress: OnProgress | None, tile: int | None, stream: int
    ) -> None:
        if tile is None and network is self.network and noisy.shape in self._fitting:
            try:
                network.run(0, self.stages, noisy, noisy, result, 0, 0, stream)
                _report(progress, 1.0)
                return
            except MemoryError:  # for the graph: others have taken the rest
                self._release_network()
        limit = self.memory_limit
        if limit is None:
            limit = int(_SHARE_OF_FREE_MEMORY * network.available_bytes())
        while True:
            try:
                self._run_within(network, limit, noisy, result, progress, tile, stream)
                return
            except MemoryError:
                # Others were faster. Half of what is there now is more likely to stay so.
                self._fitting.clear()
                network.release()
                limit = min(limit, int(_SHARE_OF_FREE_MEMORY * network.available_bytes())) // 2

    def _run_within(
        self,
        network: Any,
        limit: int,
        noisy: Any,
        result: Any,
        progress: OnProgress | None,
        tile: int | None,
        stream: int,
    ) -> None:
        count, _, height, width = noisy.shape
        if tile is None:
            tile = self._tile_within(network, limit, height, width)
        whole = tile == 0 or tile >= max(height, width)
        fitting = max(1, limit // network.working_bytes(1, height, width)) if whole else 1
        together = min(count, fitting, _MOST_IMAGES, max(1, _MOST_PIXELS // (height * width)))
        for first in range(0, count, together):
            last = min(first + together, count)
            box = first, last, 0, height, 0, width
            of_images = part(progress, first // together, -(-count // together))
            if whole:
                x = noisy if last - first == count else noisy.window(*box)
                out = result if last - first == count else result.window(*box)
                network.run(0, self.stages, x, x, out, 0, 0, stream)
                _report(of_images, 1.0)
            else:
                self._run_tiles(network, noisy.window(*box), result.window(*box), tile, of_images, stream)
        if whole and together == count and network is self.network:
            self._fitting.add(noisy.shape)

    def _tile_within(self, network: Any, limit: int, height: int, width: int) -> int:
        def fits(rows: int, columns: int) -> bool:
            return (
                rows <= _MOST_ROWS
                and rows * columns <= _MOST_PIXELS
                and network.working_bytes(1, rows, columns) <= limit
            )

        tile = largest_tile(height, width, self._halo, fits)
        if tile is None:
            side = SIZE_MULTIPLE + 2 * self._halo
            least = network.working_bytes(1, min(height, side), min(width, side))
            what = f"{self.device} has {limit} bytes left" if self.memory_limit != limit else f"memory_limit is {limit}"
            raise ModnasError(f"{what}; the smallest tile of this network takes {least} bytes")
        return tile

    def _run_tiles(
        self, network: Any, y: Any, result: Any, tile: int, progress: OnProgress | None, stream: int
    ) -> None:
        """One image, stage by stage and tile by tile, as `tiling.run_tiled`."""
        _, channels, height, width = y.shape
        padded = 1, channels, round_up(height), round_up(width)
        tiles = list(windows(*padded[2:], tile, self._halo))
        between = [self._native.Array(self._index, padded) for _ in range(min(2, self.stages - 1))]
        if self.stages > 1 and padded != y.shape:
            continued = self._native.Array(self._index, padded)
            network.copy(y, continued.image, stream)
            y = continued.image
        x = y
        for stage in range(self.stages):
            target = result if stage == self.stages - 1 else between[stage % 2].image
            for count, (rows, columns, outer_rows, outer_columns) in enumerate(tiles):
                network.run(
                    stage,
                    stage + 1,
                    _window(x, outer_rows, outer_columns),
                    _window(y, outer_rows, outer_columns),
                    _window(target, rows, columns),
                    rows.start - outer_rows.start,
                    columns.start - outer_columns.start,
                    stream,
                )
                _report(progress, (stage * len(tiles) + count + 1) / (self.stages * len(tiles)))
            x = target
        if self.stages > 1:
            network.wait(stream)  # before the images between stages go

    @cached_property
    def _halo(self) -> int:
        return halo_of(self._genotype)

    def plan(self, height: int, width: int, timed: bool) -> Plan:
        with self._lock:
            try:
                lines = self.network.report(1, height, width, timed)
            except MemoryError:
                raise ModnasError(f"{self.device} has no memory for {height}x{width} pixels at once") from None
            except self._native.CudaError as error:
                raise ModnasError(f"{self.device}: {error}") from None
        rows = tuple(PlanRow(**line) for line in lines)
        return Plan(self.variant, 0, self.stages, rows, self.working_bytes(height, width), self.dtype)

    def warmup(self, height: int, width: int, images: int = 1) -> None:
        noisy = np.zeros((images, self._channels, height, width), np.float32)
        for _ in range(2):  # a graph is made when a size comes again
            self.run(noisy, None, None, None, None)

    def working_bytes(self, height: int, width: int) -> int:
        return int(self.network.working_bytes(1, height, width))

    def release(self) -> None:
        with self._lock:
            self._staging = self._exact = None
            self._release_network()

    def _release_network(self) -> None:
        self._fitting.clear()
        self.network.release()


def _on_cuda(array: Any) -> bool:
    return hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] in _ON_CUDA


def _window(image: Any, rows: slice, columns: slice) -> Any:
    """Of the first image; rows and columns that its padding has and it has not are left out."""
    height, width = image.shape[2:]
    return image.window(0, 1, rows.start, min(rows.stop, height), columns.start, min(columns.stop, width))


def _report(progress: OnProgress | None, share: float) -> None:
    answer = None if progress is None else progress(share)
    if answer is not None and not answer:
        raise Cancelled("cancelled by the progress callback")
