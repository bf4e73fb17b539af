"""The engine's half for the CPU: one image at a time, shared by a team of threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modnas_fast.engine.arrays import Cancelled, OnProgress, host_images, part
from modnas_fast.engine.plan import Plan, PlanRow
from modnas_fast.engine.program import Array, Step, native_layer
from modnas_fast.engine.windows import halo_of, largest_tile, windows
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import SIZE_MULTIPLE, Genotype

DTYPES = ("float32", "bfloat16")


def cpu_obstacle() -> str:
    """Why the compiled engine cannot run here; empty if it can."""
    try:
        import modnas_fast._engine  # noqa: F401
    except ImportError as error:
        note = Path(__file__).parent.parent / "_engine_missing.txt"
        return note.read_text(encoding="utf-8").strip() if note.exists() else f"it is not built ({error})"
    return ""


class CpuBackend:
    """See `Engine`.

    Raises:
        ModnasError: an unknown variant.
    """

    device = "cpu"

    def __init__(
        self,
        program: Sequence[Sequence[Step]],
        channels: int,
        genotype: Genotype,
        dtype: str,
        threads: int | None,
        memory_limit: int | None,
        variant: str,
    ) -> None:
        from modnas_fast import _engine

        if variant and variant not in _engine.variants():
            raise ModnasError(f"variant is {variant!r}; this processor runs {', '.join(_engine.variants())}")
        self.stages, self._channels, self._genotype = len(program), channels, genotype
        self.dtype, self.memory_limit = dtype, memory_limit
        count = threads if threads is not None else _usable_processors()
        layers = [[native_layer(_engine, step) for step in stage] for stage in program]
        self.network = _engine.Network(channels, layers, count, variant, dtype == "bfloat16")
        self.threads, self.variant = int(self.network.threads), str(self.network.variant)

    def run(self, x: Any, out: Any, progress: OnProgress | None, tile: int | None, stream: int | None) -> Array:
        del stream  # of GPUs
        noisy, result = host_images(x, out, self._channels)
        if tile is None:
            tile = self.tile_within_limit(*noisy.shape[2:])
        for index in range(len(noisy)):
            self._run_one(noisy[index], result[index], tile, part(progress, index, len(noisy)))
        return result

    def _run_one(self, y: Array, out: Array, tile: int, progress: OnProgress | None) -> None:
        """One image [C, H, W]: whole if `tile` is 0, else stage by stage and tile by tile, as `tiling.run_tiled`."""
        height, width = y.shape[1:]
        if tile == 0 or tile >= max(height, width):
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
                    part(progress, stage * len(tiles) + count, self.stages * len(tiles)),
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
            done = self.network.run(first, last, x, y, out, *origin, progress)
        except MemoryError:
            need = self.working_bytes(*y.shape[1:]) / 2**20
            raise ModnasError(
                f"{y.shape[1]}x{y.shape[2]} pixels take {need:.0f} MiB, which is not there; give a memory_limit"
            ) from None
        if not done:
            raise Cancelled("cancelled by the progress callback")

    def tile_within_limit(self, height: int, width: int) -> int:
        """The largest tile that keeps to the memory limit; 0 where the whole image does."""
        limit = self.memory_limit
        if limit is None:
            return 0
        tile = largest_tile(height, width, self._halo, lambda *size: self.working_bytes(*size) <= limit)
        if tile is None:
            side = SIZE_MULTIPLE + 2 * self._halo
            least = self.working_bytes(min(height, side), min(width, side))
            raise ModnasError(f"memory_limit is {limit}; the smallest tile of this network takes {least} bytes")
        return tile

    @cached_property
    def _halo(self) -> int:
        return halo_of(self._genotype)

    def plan(self, height: int, width: int, timed: bool) -> Plan:
        if timed:
            self.warmup(height, width)
        rows = tuple(PlanRow(**row) for row in self.network.report(height, width))
        return Plan(self.variant, self.threads, self.stages, rows, self.working_bytes(height, width), self.dtype)

    def warmup(self, height: int, width: int, images: int = 1) -> None:
        self.run(np.zeros((images, self._channels, height, width), np.float32), None, None, None, None)

    def working_bytes(self, height: int, width: int) -> int:
        return int(self.network.working_bytes(height, width))

    def release(self) -> None:
        self.network.release()


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
