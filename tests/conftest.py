"""Fixtures of several test files."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Generator, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.cases import random_genotype

if TYPE_CHECKING:
    from tests.emulated_cuda import Machine

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    # Triton's kernels then run, slowly, on CPU tensors. It reads this when they are imported, so it is set before.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Triton's kernels run on the CUDA device where there is one, so `-m gpu` chooses their tests too."""
    for item in items:
        module = getattr(item, "module", None)
        on_device = "kernels" in getattr(item, "fixturenames", ()) or hasattr(module, "DEVICE")
        if ON_GPU and on_device:
            item.add_marker("gpu")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that is not about a GPU sees none, nor do its fixtures and the processes that it starts.

    So `auto` is the CPU there, and it passes or fails as on any other machine.
    """
    with pytest.MonkeyPatch.context() as patch:
        if ON_GPU and item.get_closest_marker("gpu") is None:
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setattr(torch.cuda, "device_count", lambda: 0)
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return (yield)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """A test draws the same numbers alone, in any order and on any worker: what fails once fails again."""
    torch.manual_seed(0)


@pytest.fixture
def nothing_printed(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No test may print a warning, from Python, logging or a C library; only the message of the error counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton's kernels, where there is Triton; with NaN in memory that is not initialised, so that holes show."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # what is around the kernels has to be exact too
    torch.use_deterministic_algorithms(True, warn_only=True)  # which makes torch.empty fill
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def few_programs(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors are shared by few programs that walk over many tiles, as large ones are."""
    monkeypatch.setattr("modnas_fast.kernels.tiles._multiprocessors", lambda device: 1)


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, Machine]:
    """The CUDA extension on emulated devices, built once for all processes."""
    from tests import emulated_cuda

    shared = tmp_path_factory.getbasetemp()
    if shared.name.startswith("popen-"):  # a process of pytest-xdist's: all use one
        shared = shared.parent
    path = emulated_cuda.build(shared / "emulated_cuda")
    return emulated_cuda.load(path), emulated_cuda.Machine(path)


@pytest.fixture
def machine(emulated: tuple[ModuleType, Machine], monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Emulated devices in the place of real ones, two of them and fresh."""
    import modnas_fast
    from tests import emulated_cuda

    module, machine = emulated
    monkeypatch.setitem(sys.modules, emulated_cuda.NAME, module)
    monkeypatch.setattr(modnas_fast, "_engine_cuda", module, raising=False)
    machine.set()
    yield machine
    machine.set()


@pytest.fixture
def net() -> Any:
    """A small network of two stages."""
    from tests.test_tiling import random_net

    return random_net(random_genotype(8), 2)


@pytest.fixture
def image() -> np.ndarray:
    """Small, of odd sizes."""
    return np.random.default_rng(0).random((1, 1, 21, 34), np.float32)
