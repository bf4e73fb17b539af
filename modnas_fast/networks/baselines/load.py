"""Public weight files of the baselines, as their authors store them."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.networks.baselines.registry import BASELINES, Baseline, find
from modnas_fast.networks.weights import WeightsError, read_safetensors

# Under which names training frameworks put the state dict, beside epochs and optimizers.
_WRAPPERS = ("params_ema", "params", "state_dict", "net", "model", "D")


def load_baseline(
    name: str, weights: str | os.PathLike[str], channels_in: int = 1, device: str | torch.device = "cpu"
) -> nn.Module:
    """A baseline with published weights, in evaluation mode and float32.

    Args:
        name: a key of `BASELINES`.
        weights: a .safetensors file, or a file of `torch.save` (.pth, .pt): read without running any code in it. The
            state dict may be wrapped ("params", "state_dict", "net", …) and its names start with "module.".
        channels_in: 1 for gray, 3 for RGB.
        device: where the parameters go.

    Raises:
        WeightsError: the file is unreadable, or not of this network: the message names the first tensor that is
            missing, unknown or of another shape, and the network that the file seems to be of.
        ModnasError: an unknown name, channels that the network has no version for, or BM3D.
    """
    baseline = find(name, channels_in)
    if name == "bm3d":
        raise ModnasError("bm3d has no weights")
    path = Path(weights)
    content = _read(path)
    state = _unwrapped(content)
    if not state:
        raise WeightsError(f"{path}: no state dict, but {_described(content)}")
    net, tensors = _adapted(baseline, state, channels_in)
    problem = _first_problem(net.state_dict(), tensors)
    if problem:
        raise WeightsError(f"{path}: not {name} with {channels_in} channels: {problem}; {_resembled(state)}")
    net.load_state_dict(tensors, strict=False)  # what may lack are counters that inference does not read
    return net.float().to(device).eval()


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or 'cannot be read'}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError) as error:
        pickled = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        if pickled:
            raise WeightsError(
                f"{path}: a pickled {pickled[1]}, not tensors alone, which would run code when read; where its "
                "authors' code runs, load it and write torch.save(net.state_dict(), FILE)"
            ) from None
        raise WeightsError(
            f"{path}: damaged, or no file of tensors alone; files that would run code when read are refused"
        ) from None


def _unwrapped(content: object) -> dict[str, Tensor]:
    """The state dict in what a file holds, without "module."; empty where there is none."""
    while isinstance(content, Mapping):
        wrapped = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapped is None:
            break
        content = wrapped
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        return {}
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _described(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with {', '.join(map(repr, list(content)[:4]))}" if content else "an empty mapping"
    return f"an object of type {type(content).__name__}"


def _adapted(baseline: Baseline, state: Mapping[str, Tensor], channels_in: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module for a file and its tensors, renamed."""
    if baseline.from_authors is not None:
        return baseline.from_authors(state, channels_in)
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in baseline.author_keys:
            key = re.sub(pattern, replacement, key)
        if key:
            renamed[key] = value
    return baseline.build(channels_in), renamed


def _first_problem(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """The first tensor, in the network's order and then in the file's, that does not fit."""
    for key, value in expected.items():
        if key not in tensors:
            if not key.endswith("num_batches_tracked"):
                return f"{key} is missing"
        elif tensors[key].shape != value.shape:
            return f"{key} is {list(tensors[key].shape)}, not {list(value.shape)}"
        elif not torch.isfinite(tensors[key]).all():
            return f"{key} holds NaN or infinite values"
    return next((f"{key} is unknown" for key in tensors if key not in expected), None)


def _resembled(state: Mapping[str, Tensor]) -> str:
    """What the file fits, or how it starts."""
    for name, baseline in BASELINES.items():
        for channels_in in baseline.channels:
            with torch.device("meta"):
                net, tensors = _adapted(baseline, state, channels_in)
            expected = net.state_dict()
            if expected and _first_problem(expected, tensors) is None:
                return f"the file seems to be {name} with {channels_in} channels"
    first, value = next(iter(state.items()))
    return f"the file is of no known baseline; it starts with {first} {list(value.shape)}"
