"""The deployed engine: a derived network, compiled, planned once, no Python between layers; NumPy is all it needs.

engine = Engine.from_pretrained("modnas-b-t1-gray-s25")                 # device="cuda" on a GPU
clean = engine(noisy)          # float32 [N, 1, H, W] in [0, 1]; a NumPy array or anything that speaks DLPack
print(engine.plan(512, 512))   # what runs, layer by layer
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from modnas_fast.engine import cpu, cuda
from modnas_fast.engine.arrays import Cancelled, OnProgress, device_index, to_array
from modnas_fast.engine.plan import Plan, PlanRow
from modnas_fast.engine.program import Array, build_program
from modnas_fast.engine.windows import round_up
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Genotype

__all__ = ["Cancelled", "Engine", "Plan", "PlanRow", "engine_obstacle"]


def engine_obstacle(device: object = "cpu") -> str:
    """Why the compiled engine cannot run on this device; empty if it can."""
    index = device_index(device)
    return cpu.cpu_obstacle() if index is None else cuda.cuda_obstacle(index)


class Engine:
    """A derived network that is ready to run.

    Args:
        genotype: the architecture.
        weights: arrays (or CPU tensors) under the names of `DerivedNet`'s state dict. The stages and the image's
            channels follow from them.
        device: "cpu", "cuda" or "cuda:N".
        dtype: what activations are stored as between layers, and, on a GPU, multiplied in; images and sums are float32
            in any case. On the CPU "float32" (the default) or "bfloat16", which halves memory and its traffic. On CUDA
            "float16" (the default), "bfloat16" (from compute capability 8.0), both on tensor cores, or "float32",
            which is exact and slow. Where float16 goes beyond its range the call is done again in float32, and a
            RuntimeWarning says so.
        threads: on the CPU, how many share one image, the caller's included; default: the processors that this process
            may use.
        memory_limit: bytes that an image (on CUDA: a batch) may take beyond weights, input and output; more images are
            computed in turn, larger ones by tiles, seam-free. Default: no limit; on CUDA, what is free.
        variant: on the CPU, "avx512_bf16", "avx512", "avx2" or "portable"; default: the fastest that it runs.

    Calls may come from several threads; they take turns, since one image already uses all of a device.

    Raises:
        ModnasError: the engine is not built or finds no device, weights that do not fit the genotype, or an unknown
            argument.
    """

    def __init__(
        self,
        genotype: Genotype,
        weights: Mapping[str, Any],
        device: str = "cpu",
        dtype: str | None = None,
        threads: int | None = None,
        memory_limit: int | None = None,
        variant: str = "",
    ) -> None:
        index = device_index(device)
        dtypes = cpu.DTYPES if index is None else cuda.DTYPES
        dtype = dtype or dtypes[0]
        _check_choices(dtype, dtypes, threads, memory_limit)
        if index is not None and (threads is not None or variant):
            raise ModnasError("threads and variant are for the CPU; leave them out on CUDA")
        obstacle = engine_obstacle(device)
        if obstacle:
            raise ModnasError(f"the compiled engine is not there: {obstacle}; use modnas_fast.load to run with PyTorch")
        arrays = {name: to_array(value) for name, value in weights.items()}
        self.genotype = genotype
        self.stages, self.channels_in = _shape_of_network(arrays)
        program = build_program(genotype, arrays, self.stages, self.channels_in)
        self._backend: cpu.CpuBackend | cuda.CudaBackend
        if index is None:
            self._backend = cpu.CpuBackend(program, self.channels_in, genotype, dtype, threads, memory_limit, variant)
        else:
            self._backend = cuda.CudaBackend(program, self.channels_in, genotype, dtype, index, memory_limit)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], sigma: float | None = None, **settings: Any
    ) -> Engine:
        """The engine of a shipped model, by name, or of a weight file; `settings` are `Engine`'s other arguments.

        A model for every σ has to be told which (0–255 scale); it is built in, so another takes another engine. To
        other models `sigma` is what the caller expects them to be for.

        Raises:
            ModnasError: as `networks.load`, `networks.plain_net` and `Engine`.
        """
        from modnas_fast.networks import load, plain_net

        net = plain_net(load(name_or_path), sigma, os.fspath(name_or_path))
        return cls(net.genotype, net.state_dict(), **settings)

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:N"."""
        return self._backend.device

    @property
    def dtype(self) -> str:
        """What activations are stored as."""
        return self._backend.dtype

    @property
    def memory_limit(self) -> int | None:
        """Bytes, as they were given."""
        return self._backend.memory_limit

    @property
    def threads(self) -> int:
        """Threads that share an image; 0 on CUDA."""
        return self._backend.threads

    @property
    def variant(self) -> str:
        """What runs: "avx512_bf16", "avx512", "avx2" or "portable" kernels, or a GPU, by number and name."""
        return self._backend.variant

    def __call__(self, x: Any, out: Any = None, progress: OnProgress | None = None, stream: int | None = None) -> Any:
        """Denoise a batch.

        Args:
            x: float32 [N, C, H, W] with this network's C and any H, W ≥ 1, strided as it may be: a NumPy array or
                anything that speaks DLPack, in the host's memory or, for an engine on CUDA, on its device. Read only.
            out: written and returned if given: float32 of x's shape, strided as it may be, in the same place as x,
                sharing no memory with it.
            progress: called now and then with the share of the work done, 0–1; returning False cancels the call.
            stream: on CUDA, for x on the device: the number of the stream on which x is made and the result is read,
                1 for the default stream. Left out: PyTorch's current one for its tensors, and for others what DLPack
                arranges.

        Returns:
            [N, C, H, W], the estimates as `DerivedNet` computes them, not clipped: a NumPy array for x in the host's
            memory, a tensor for a tensor on the device, for other arrays there one that speaks DLPack.

        Raises:
            ModnasError: an input or `out` of another kind, or in another place.
            Cancelled: `progress` returned False.
        """
        return self._backend.run(x, out, progress, None, stream)

    def run_tiled(self, x: Any, tile: int, progress: OnProgress | None = None) -> Any:
        """As a call, but by tiles of at most `tile` pixels, whatever the memory limit; equal up to rounding.

        Raises:
            ModnasError: as a call, or `tile` below 1.
        """
        if tile < 1:
            raise ModnasError(f"tile is {tile}; give a side in pixels of at least 1")
        return self._backend.run(x, None, progress, round_up(tile), None)

    def warmup(self, height: int, width: int, images: int = 1) -> None:
        """Plan for batches of this size, and touch all memory that they need, so that the first call is as fast.

        Raises:
            ModnasError: a size below 1.
        """
        _check_size(height, width, images)
        self._backend.warmup(height, width, images)

    def plan(self, height: int, width: int, timed: bool = False) -> Plan:
        """What runs on an image of this size.

        Args:
            height, width: in pixels.
            timed: run it first, to have times. On the CPU they are the means of all calls so far in any case; on CUDA
                each launch is repeated by itself.

        Raises:
            ModnasError: a size below 1.
        """
        _check_size(height, width)
        return self._backend.plan(height, width, timed)

    def working_bytes(self, height: int, width: int) -> int:
        """Bytes that an image of this size takes beyond weights, input and output.

        Raises:
            ModnasError: a size below 1.
        """
        _check_size(height, width)
        return self._backend.working_bytes(height, width)

    def release(self) -> None:
        """Give the memory of activations back; the next call takes it again."""
        self._backend.release()


def _check_choices(dtype: str, dtypes: tuple[str, ...], threads: int | None, memory_limit: int | None) -> None:
    if dtype not in dtypes:
        raise ModnasError(f"dtype is {dtype!r}; on this device the engine computes in {', '.join(dtypes)}")
    for name, value in (("threads", threads), ("memory_limit", memory_limit)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ModnasError(f"{name} is {value!r}; give a whole number of at least 1")


def _check_size(height: int, width: int, images: int = 1) -> None:
    if min(height, width, images) < 1:
        raise ModnasError(f"{images} image{'s' * (images != 1)} of {height}x{width} pixels; give sizes of at least 1")


def _shape_of_network(arrays: Mapping[str, Array]) -> tuple[int, int]:
    """(stages, image channels), as the weights' names and shapes tell them."""
    stages = sum(1 for name in arrays if name.startswith("stages.") and name.endswith(".delta"))
    first = arrays.get("stages.0.stem.0.weight")
    if stages == 0 or first is None or first.ndim != 4 or 0 in first.shape:
        raise ModnasError(
            "the weights are not those of a derived network: stages.0.stem.0.weight or a delta is missing"
        )
    return stages, int(first.shape[1])
