"""The engine's CUDA extension built against devices that csrc/tests/cuda emulates on the CPU, and arrays on them."""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from modnas_fast.engine.engine import Engine

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
COMPILER = shutil.which("g++")
NAME = "modnas_fast._engine_cuda"

ELEMENT_FILES = ("convolution", "output", "separable", "stem")
ELEMENTS = ("Float16", "Bfloat16")


def sources() -> list[tuple[Path, list[str]]]:
    """What the emulated extension is made of, and definitions; what takes longest first."""
    whole = [CSRC / "cuda/bindings.cpp"]
    whole += [path for path in sorted(CSRC.glob("cuda/*.c*")) if path.stem not in ("bindings", *ELEMENT_FILES)]
    whole += [CSRC / f"{name}.cpp" for name in ("check", "memory", "rewrite")]
    whole += [CSRC / f"tests/cuda/{name}.cpp" for name in ("emulation", "fibers", "runtime")]
    each = [
        (CSRC / f"cuda/{name}.cu", [f"-DMODNAS_FAST_ELEMENT={element}"])
        for name in ELEMENT_FILES
        for element in ELEMENTS
    ]
    return [(path, []) for path in whole[:1]] + each + [(path, []) for path in whole[1:]]


def build(folder: Path) -> Path:
    """The extension, made in this folder unless another process has made it there."""
    import pybind11

    folder.mkdir(parents=True, exist_ok=True)
    module = folder / f"_engine_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if module.exists():
            return module
        includes = [CSRC / "tests/cuda", CSRC, pybind11.get_include(), sysconfig.get_path("include")]
        flags = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]

        def compile_one(job: tuple[Path, list[str]]) -> Path:
            source, definitions = job
            target = folder / f"{source.parent.name}-{source.name}{''.join(definitions)}.o"
            speed = "-O0" if "bindings" in source.name or source.stem == "array" else "-O1"  # pybind11 takes long
            command = [COMPILER, *flags, speed, *definitions, *(f"-I{path}" for path in includes)]
            subprocess.run([*command, "-x", "c++", "-c", source, "-o", target], check=True)
            return target

        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compile_one, sources()))
        partial = folder / "partial.so"
        subprocess.run([COMPILER, "-shared", *objects, "-pthread", "-o", partial], check=True)
        partial.rename(module)
    return module


def load(path: Path) -> ModuleType:
    """The module, imported under the name of the real one, but not put into `sys.modules`."""
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    before = sys.modules.get(NAME)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if before is not None:
        sys.modules[NAME] = before
    return module


class Machine:
    """The emulated devices. Work waits on its streams until somebody waits for it."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        for name in ("count", "taken", "stream"):
            getattr(self._library, f"emulation_{name}").restype = ctypes.c_int64

    def set(
        self, devices: int = 2, memory: int = 1 << 30, capability: int = 90, driver: int = 13000, late: bool = True
    ) -> None:
        """New devices; counts begin at 0."""
        self._library.emulation_set(devices, ctypes.c_int64(memory), capability, driver, late)

    def break_up(self, largest: int) -> None:
        """No more than this can be taken at once, whatever is free."""
        self._library.emulation_break_up(ctypes.c_int64(largest))

    def count(self, what: str) -> int:
        """Of "launches" (those of graphs too), "graph launches", "graphs made", "parts replaced"."""
        return int(self._library.emulation_count(what.encode()))

    def taken(self, device: int = 0) -> int:
        """Bytes that are taken on the device."""
        return int(self._library.emulation_taken(device))

    @property
    def current(self) -> int:
        """The calling thread's device."""
        return int(self._library.emulation_current())

    def choose(self, device: int) -> None:
        self._library.emulation_choose(device)

    def stream(self, device: int = 0) -> int:
        """A caller's stream."""
        return int(self._library.emulation_stream(device))

    @contextmanager
    def captured(self, stream: int) -> Iterator[None]:
        """While a caller captures a graph from its stream."""
        self._library.emulation_capture(ctypes.c_int64(stream), 1)
        yield
        self._library.emulation_capture(ctypes.c_int64(stream), 0)

    def wait(self, stream: int) -> None:
        """Until all work on the stream is done."""
        self._library.emulation_wait(ctypes.c_int64(stream))


class DeviceArray:
    """A NumPy array that says that it is on a CUDA device."""

    def __init__(self, array: np.ndarray, device: int = 0) -> None:
        self.array, self.device = array, device
        self.streams: list[int | None] = []  # that consumers gave

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, *, stream: int | None = None, **others: Any) -> Any:
        self.streams.append(stream)
        capsule = self.array.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        place = pointer(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)  # behind the data's address
        ctypes.c_int32.from_address(place).value = 2
        ctypes.c_int32.from_address(place + 4).value = self.device
        return capsule


class DeviceTensor(torch.Tensor):
    """A CPU tensor that says that it is on the first CUDA device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", 0)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


def device_tensor(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(DeviceTensor)


def exact_engine(net: Any, **settings: Any) -> Engine:
    """The engine of a network in float32 on the first CUDA device."""
    return Engine(net.genotype, net.state_dict(), device="cuda", dtype="float32", **settings)
