"""The deployed engine: a derived network on the CPU with NumPy alone, compiled, planned once, no Python between layers.

engine = Engine.from_pretrained("modnas-b-t1-gray-s25")
clean = engine(noisy)          # float32 [N, 1, H, W] in [0, 1]; a NumPy array or anything that speaks DLPack
print(engine.plan(512, 512))   # what runs, layer by layer
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modnas_fast.engine.program import Array, Step, build_program
from modnas_fast.engine.windows import round_up, windows
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import SIZE_MULTIPLE, Genotype

DTYPES = ("float32", "bfloat16")

OnProgress = Callable[[float], Any]


class Cancelled(ModnasError):
    """The progress callback asked to stop; what was written to `out` so far is undefined."""


def engine_obstacle() -> str:
    """Why the compiled engine cannot run here; empty if it can."""
    try:
        import modnas_fast._engine  # noqa: F401
    except ImportError as error:
        note = Path(__file__).parent.parent / "_engine_missing.txt"
        return note.read_text(encoding="utf-8").strip() if note.exists() else f"it is not built ({error})"
    return ""


class Engine:
    """A derived network that is ready to run.

    Args:
        genotype: the architecture.
        weights: arrays (or CPU tensors) under the names of `DerivedNet`'s state dict. The stages and the image's
            channels follow from them.
        device: "cpu".
        dtype: what activations are stored as between layers: "float32" or "bfloat16", which halves memory and its
            traffic. Images, sums and products are float32 either way.
        threads: how many share one image, the caller's included; default: the processors that this process may use.
        memory_limit: bytes that an image may take beyond weights, input and output; larger images are computed by
            tiles, seam-free. Default: no limit.
        variant: "avx512_bf16", "avx512", "avx2" or "portable"; default: the fastest that the processor runs.

    Calls may come from several threads; they take turns, since one image already uses all `threads`.

    Raises:
        ModnasError: the engine is not built, weights that do not fit the genotype, or an unknown argument.
    """

    def __init__(
        self,
        genotype: Genotype,
        weights: Mapping[str, Any],
        device: str = "cpu",
        dtype: str = "float32",
        threads: int | None = None,
        memory_limit: int | None = None,
        variant: str = "",
    ) -> None:
        _check_choices(device, dtype, threads, memory_limit)
        obstacle = engine_obstacle()
        if obstacle:
            raise ModnasError(f"the compiled engine is not there: {obstacle}; use modnas_fast.load to run with PyTorch")
        from modnas_fast import _engine

        if variant and variant not in _engine.variants():
            raise ModnasError(f"variant is {variant!r}; this processor runs {', '.join(_engine.variants())}")
        arrays = {name: _to_array(value) for name, value in weights.items()}
        self.genotype = genotype
        self.stages, self.channels_in = _shape_of_network(arrays)
        program = build_program(genotype, arrays, self.stages, self.channels_in)
        self.memory_limit = memory_limit
        self.dtype = dtype
        count = threads if threads is not None else _usable_processors()
        layers = [[_native_layer(_engine, step) for step in stage] for stage in program]
        self._network = _engine.Network(self.channels_in, layers, count, variant, dtype == "bfloat16")

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], sigma: float | None = None, **settings: Any
    ) -> Engine:
        """The engine of a shipped model, by name, or of a weight file; `settings` are `Engine`'s other arguments.

        A model for every σ has to be told which (0–255 scale); it is built in, so another takes another engine.

        Raises:
            ModnasError: as `networks.load`, `networks.plain_net` and `Engine`.
        """
        from modnas_fast.networks import load, plain_net

        net = plain_net(load(name_or_path), sigma, os.fspath(name_or_path))
        return cls(net.genotype, net.state_dict(), **settings)

    @property
    def threads(self) -> int:
        """Threads that share an image."""
        return int(self._network.threads)

    @property
    def variant(self) -> str:
        """The kernels that run: "avx512_bf16", "avx512", "avx2" or "portable"."""
        return str(self._network.variant)

    def __call__(self, x: Any, out: Any = None, progress: OnProgress | None = None) -> Array:
        """Denoise a batch.

        Args:
            x: float32 [N, C, H, W] with this network's C and any H, W ≥ 1, strided as it may be: a NumPy array or
                anything that speaks DLPack. Read only.
            out: written and returned if given: float32 of x's shape, strided as it may be, sharing no memory with x.
            progress: called now and then with the share of the work done, 0–1; returning False cancels the call.

        Returns:
            [N, C, H, W], the estimates as `DerivedNet` computes them, not clipped.

        Raises:
            ModnasError: an input or `out` of another kind.
            Cancelled: `progress` returned False.
        """
        noisy = self._check_input(x)
        result = np.empty(noisy.shape, np.float32) if out is None else _to_array(out)
        flags = result.flags
        if result.shape != noisy.shape or result.dtype != np.float32 or not (flags.writeable and flags.aligned):
            raise ModnasError(
                f"out is {result.dtype} {list(result.shape)}; give writeable, aligned float32 {list(noisy.shape)}"
            )
        if np.may_share_memory(noisy, result):
            raise ModnasError("out shares memory with the input; give another array")
        tile = self._tile_within_limit(*noisy.shape[2:])
        for index in range(len(noisy)):
            self._run_one(noisy[index], result[index], tile, _part(progress, index, len(noisy)))
        return result

    def _check_input(self, x: Any) -> Array:
        noisy = _to_array(x)
        if noisy.ndim != 4 or noisy.shape[1] != self.channels_in or noisy.dtype != np.float32 or 0 in noisy.shape[2:]:
            raise ModnasError(
                f"expected float32 images in [0, 1] as [N, {self.channels_in}, H, W], got {noisy.dtype} "
                f"{list(noisy.shape)}"
                + ("; for a gray network run RGB one channel at a time" * (self.channels_in == 1))
            )
        return noisy if noisy.flags.aligned else noisy.copy()

    def run_tiled(self, x: Any, tile: int, progress: OnProgress | None = None) -> Array:
        """As a call, but by tiles of at most `tile` pixels, whatever the memory limit; equal up to rounding.

        Raises:
            ModnasError: as a call, or `tile` below 1.
        """
        if tile < 1:
            raise ModnasError(f"tile is {tile}; give a side in pixels of at least 1")
        noisy = self._check_input(x)
        result = np.empty(noisy.shape, np.float32)
        for index in range(len(noisy)):
            self._run_one(noisy[index], result[index], round_up(tile), _part(progress, index, len(noisy)))
        return result

    def _run_one(self, y: Array, out: Array, tile: int, progress: OnProgress | None) -> None:
        """One image [C, H, W]: whole if `tile` is 0, else stage by stage and tile by tile, as `tiling.run_tiled`."""
        height, width = y.shape[1:]
        if tile == 0 or tile >= round_up(max(height, width)):
            self._run_window(0, self.stages, y, y, out, (0, 0), progress)
            return
        y = np.pad(y, ((0, 0), (0, -height % SIZE_MULTIPLE), (0, -width % SIZE_MULTIPLE)), "edge")
        tiles = list(windows(y.shape[1], y.shape[2], tile, self._halo))
        x = y
        for stage in range(self.stages):
            result = np.empty_like(y)
            for count, (rows, columns, outer_rows, outer_columns) in enumerate(tiles):
                self._run_window(
                    stage,
                    stage + 1,
                    x[:, outer_rows, outer_columns],
                    y[:, outer_rows, outer_columns],
                    result[:, rows, columns],
                    (rows.start - outer_rows.start, columns.start - outer_columns.start),
                    _part(progress, stage * len(tiles) + count, self.stages * len(tiles)),
                )
            x = result
        out[...] = x[:, :height, :width]

    def _run_window(
        self,
        first: int,
        last: int,
        x: Array,
        y: Array,
        out: Array,
        origin: tuple[int, int],
        progress: OnProgress | None,
    ) -> None:
        try:
            done = self._network.run(first, last, x, y, out, *origin, progress)
        except MemoryError:
            need = self.working_bytes(*y.shape[1:]) / 2**20
            raise ModnasError(
                f"{y.shape[1]}x{y.shape[2]} pixels take {need:.0f} MiB, which is not there; give a memory_limit"
            ) from None
        if not done:
            raise Cancelled("cancelled by the progress callback")

    @cached_property
    def _halo(self) -> int:
        from modnas_fast.networks.receptive_field import receptive_field_radius

        return round_up(receptive_field_radius(self.genotype))

    def _tile_within_limit(self, height: int, width: int) -> int:
        """The largest tile that keeps to the memory limit; 0 where the whole image does."""
        limit = self.memory_limit
        if limit is None or self.working_bytes(height, width) <= limit:
            return 0

        def bytes_of(tile: int) -> int:
            side = tile + 2 * self._halo
            return self.working_bytes(min(height, side), min(width, side))

        if bytes_of(SIZE_MULTIPLE) > limit:
            raise ModnasError(
                f"memory_limit is {limit}; the smallest tile of this network takes {bytes_of(SIZE_MULTIPLE)} bytes"
            )
        low, high = 1, round_up(max(height, width)) // SIZE_MULTIPLE  # low fits; high, the whole image, does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if bytes_of(middle * SIZE_MULTIPLE) <= limit else (low, middle)
        return low * SIZE_MULTIPLE

    def warmup(self, height: int, width: int) -> None:
        """Plan for images of this size, and touch all memory that they need, so that the first call is as fast."""
        self(np.zeros((1, self.channels_in, height, width), np.float32))

    def plan(self, height: int, width: int) -> Plan:
        """What runs on an image of this size, with the times measured on it so far, if any."""
        rows = tuple(PlanRow(**row) for row in self._network.report(height, width))
        return Plan(self.variant, self.threads, self.stages, rows, self.working_bytes(height, width), self.dtype)

    def working_bytes(self, height: int, width: int) -> int:
        """Bytes that an image of this size takes beyond weights, input and output."""
        return int(self._network.working_bytes(height, width))

    def release(self) -> None:
        """Give the memory of activations back; the next call takes it again."""
        self._network.release()


@dataclass(frozen=True)
class PlanRow:
    """One layer of a stage: its output's size and bytes, multiply-accumulates, mean seconds (0: not measured)."""

    name: str
    kernel: str
    height: int
    width: int
    channels_in: int
    channels_out: int
    macs: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """All layers of one stage; `str` is a table."""

    variant: str
    threads: int
    stages: int
    rows: tuple[PlanRow, ...]
    working_bytes: int
    dtype: str

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of all stages, as direct convolutions would do them."""
        return self.stages * sum(row.macs for row in self.rows)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"{self.variant}, {self.dtype}, {self.threads} thread{'s' * (self.threads > 1)}, {self.stages} stage"
            f"{'s' * (self.stages > 1)}, {self.macs / 1e9:.3f} GMAC, {self.working_bytes / 2**20:.1f} MiB"
        )
        yield f"{'layer':12} {'kernel':20} {'size':>11} {'width':>9} {'MMAC':>9} {'MiB':>7} {'ms':>8} {'GMAC/s':>7}"
        for row in self.rows:
            size, width = f"{row.height}x{row.width}", f"{row.channels_in}->{row.channels_out}"
            line = f"{row.name:12} {row.kernel:20} {size:>11} {width:>9} {row.macs / 1e6:9.2f} {row.bytes / 2**20:7.2f}"
            rate = f" {row.seconds * 1e3:8.3f} {row.macs / row.seconds / 1e9:7.1f}" if row.seconds else ""
            yield line + rate


def _check_choices(device: str, dtype: str, threads: int | None, memory_limit: int | None) -> None:
    if device != "cpu":
        raise ModnasError(f"device is {device!r}; this release's engine runs on 'cpu'")
    if dtype not in DTYPES:
        raise ModnasError(f"dtype is {dtype!r}; this release's engine computes in {', '.join(DTYPES)}")
    for name, value in (("threads", threads), ("memory_limit", memory_limit)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ModnasError(f"{name} is {value!r}; give a whole number of at least 1")


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _shape_of_network(arrays: Mapping[str, Array]) -> tuple[int, int]:
    """(stages, image channels), as the weights' names and shapes tell them."""
    stages = sum(1 for name in arrays if name.startswith("stages.") and name.endswith(".delta"))
    first = arrays.get("stages.0.stem.0.weight")
    if stages == 0 or first is None or first.ndim != 4 or 0 in first.shape:
        raise ModnasError(
            "the weights are not those of a derived network: stages.0.stem.0.weight or a delta is missing"
        )
    return stages, int(first.shape[1])


def _to_array(value: Any) -> Array:
    """A NumPy view of an array or of what speaks DLPack."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # a torch tensor that requires grad refuses DLPack
        value = value.detach()
    try:
        return np.from_dlpack(value)
    except (AttributeError, TypeError, RuntimeError, BufferError) as error:
        raise ModnasError(
            f"cannot read a {type(value).__name__} as an array ({error}); give a NumPy array or a CPU tensor"
        ) from None


def _part(progress: OnProgress | None, index: int, count: int) -> OnProgress | None:
    """The progress callback of part `index` of `count` equal ones."""
    return None if progress is None else lambda share: progress((index + share) / count)


def _native_layer(native: Any, step: Step) -> Any:
    layer = native.Layer()
    layer.name, layer.op, layer.inputs, layer.output = step.name, getattr(native.Op, step.op), step.inputs, step.output
    layer.channels, layer.kernel, layer.stride, layer.dilation = step.channels, step.kernel, step.stride, step.dilation
    layer.relu, layer.shortcut, layer.delta = step.relu, step.shortcut, step.delta
    for name, array in step.weights.items():
        getattr(layer, f"set_{name}")(array)
    return layer


assert SIZE_MULTIPLE == 8, "csrc pads images to multiples of 8"
