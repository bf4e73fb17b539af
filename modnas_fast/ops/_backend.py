"""Which of the supernet's backends runs: the one place that decides, and can say why.

`reference` runs the candidates one by one in plain PyTorch; it is the definition of correct. `folded` adds the
candidates up in weight space first. `fused` runs them one by one with Triton kernels between. All compute the same
from the same parameters.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from modnas_fast.errors import ModnasError

BACKENDS = ("reference", "folded", "fused")
_PREFERENCE = ("folded", "reference")  # what "auto" tries, fastest first

_scopes: list[str] = []  # `use_backend`'s, innermost last; a list, since torch.compile guards on it


def select_backend(requested: str, device: torch.device) -> str:
    """The backend that runs.

    Args:
        requested: "auto", for the fastest that `device` runs, or one of `BACKENDS`. An enclosing `use_backend`
        overrides it. device: where the tensors are.

    Raises:
        ModnasError: an explicit choice that is unknown or cannot run.
    """
    requested = check_backend(_scopes[-1] if _scopes else requested)
    if requested == "auto":
        return next(name for name in _PREFERENCE if not _obstacle(name, device))
    reason = _obstacle(requested, device)
    if reason:
        raise ModnasError(f"backend {requested!r} cannot run on {device.type}: {reason}")
    return requested


def explain_backend(requested: str = "auto", device: str | torch.device = "cpu") -> str:
    """What `requested` comes to on `device`, and why, a line a backend; raises nothing but for an unknown name."""
    device = torch.device(device)
    scope = f", overridden by use_backend({_scopes[-1]!r})" if _scopes else ""
    requested = check_backend(requested)
    try:
        lines = [f"{requested} on {device.type}{scope}: {select_backend(requested, device)}"]
    except ModnasError as error:
        lines = [f"{requested} on {device.type}{scope}: {error}"]
    for name in BACKENDS:
        rank = f"choice {_PREFERENCE.index(name) + 1} of auto" if name in _PREFERENCE else "by name only"
        lines.append(f"  {name}: {_obstacle(name, device) or f'runs; {rank}'}")
        if name == "folded":
            reason = fold_obstacle(device.type)
            lines[-1] += f"; folds {f'in PyTorch: {reason}' if reason else 'normal layers by Triton kernels'}"
    return "\n".join(lines)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Make every supernet in the process run on `name` inside the `with`, whatever it was built with; for tests.

    Raises:
        ModnasError: the name is unknown.
    """
    _scopes.append(check_backend(name))
    try:
        yield
    finally:
        _scopes.pop()


def check_backend(name: str) -> str:
    """`name`, if it is "auto" or one of `BACKENDS`; `ModnasError` otherwise."""
    if name != "auto" and name not in BACKENDS:
        raise ModnasError(f"there is no backend {name!r}; choose from auto, {', '.join(BACKENDS)}")
    return name


def _obstacle(name: str, device: torch.device) -> str:
    """Why `name` cannot run on `device`; empty if it can."""
    return kernel_obstacle(device.type) if name == "fused" else ""


def fold_obstacle(device_type: str) -> str:
    """Why the folded backend folds in plain PyTorch on a type of device; empty if it takes `fold_weights`."""
    if device_type != "cuda":
        return "its Triton kernels are for CUDA devices"
    return str(kernel_obstacle(device_type))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def kernel_obstacle(device_type: str) -> str:
    """Why Triton's kernels cannot run on a type of device; empty if they can.

    On a CPU they do under Triton's interpreter: slow, and right, for tests.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device_type == "cuda":
        return ""
    from modnas_fast.kernels.tiles import INTERPRETED

    if device_type == "cpu" and INTERPRETED:
        return ""
    return "its Triton kernels need a CUDA device"
