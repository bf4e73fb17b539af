"""Fixtures of several test files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's kernels then run, slowly, on CPU tensors. It reads this when they are imported, so it is set before.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Triton's kernels run on the CUDA device where there is one, so `-m gpu` chooses their tests too."""
    for item in items:
        if torch.cuda.is_available() and "kernels" in getattr(item, "fixturenames", ()):
            item.add_marker("gpu")


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
