"""Supernet files: safetensors that describe their supernet, so that a path is all that loading needs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from modnas_fast.errors import ModnasError
from modnas_fast.images.degradations import Degradation
from modnas_fast.networks.weights import WeightsError, check_format, check_tensors, read_safetensors, write_safetensors
from modnas_fast.ops import check_backend
from modnas_fast.search.supernet import SuperNet

SUPERNET_FILE = "supernet.safetensors"  # its name in a search's run folder

_FORMAT = "modnas_fast.supernet"
_VERSION = "1"


def save_supernet(path: str | os.PathLike[str], net: SuperNet, degradation: Degradation | None = None) -> None:
    """Write a self-describing supernet file, atomically: weights and α, β, γ, δ.

    Args:
        path: the `.safetensors` file; replaced if it exists.
        net: its stages, channels and image channels are recorded; its backend is not, for the state is the same.
        degradation: what the weights were trained to undo, where known.
    """
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "stages": str(len(net.stages)),
        "channels": str(supernet_channels(net)),
        "channels_in": str(net.channels_in),
        "depth_search": net.architecture.depth_search,
    }
    if degradation is not None:
        metadata["degradation"] = degradation.to_json()
    write_safetensors(path, net.state_dict(), metadata)


def load_supernet(path: str | os.PathLike[str], backend: str = "auto") -> SuperNet:
    """The supernet in a file that `save_supernet` wrote: float32, on the CPU, ready to train on or to derive from.

    Args:
        path: the file.
        backend: as `SuperNet` takes it.

    Raises:
        WeightsError: unreadable, truncated or foreign file, or tensors that do not fit the sizes in it.
        ModnasError: the backend is unknown.
    """
    return read_supernet(path, backend)[0]


def read_supernet(path: str | os.PathLike[str], backend: str = "auto") -> tuple[SuperNet, Degradation | None]:
    """`load_supernet`, and what the weights were trained to undo, where the file says it."""
    check_backend(backend)
    source = Path(path)
    if not source.is_file():
        reason = "it is a folder" if source.is_dir() else "no such file"
        raise WeightsError(f"supernet {str(source)!r}: {reason}; give a {SUPERNET_FILE} that a search wrote")
    tensors, metadata = read_safetensors(source)
    check_format(source, metadata, "supernet", _FORMAT, _VERSION)
    try:
        stages, channels, channels_in = (int(metadata[key]) for key in ("stages", "channels", "channels_in"))
        if stages > len(tensors):
            raise ValueError(f"{stages} stages in {len(tensors)} tensors")
        degradation = None
        if "degradation" in metadata:
            degradation = Degradation.from_mapping(json.loads(metadata["degradation"]))
        with torch.device("meta"):  # neither memory nor random numbers: the file brings every value
            net = SuperNet(stages, channels, channels_in, backend, metadata.get("depth_search", "dense"))
    except (KeyError, TypeError, ValueError, RuntimeError, ModnasError) as error:  # RuntimeError: sizes beyond 64 bits
        raise WeightsError(f"{source}: broken metadata: {error}") from None
    check_tensors(source, net.state_dict(), tensors, "metadata")
    net.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)
    return net, degradation


def supernet_channels(net: SuperNet) -> int:
    """C, the width of every layer."""
    return net.get_parameter("stages.0.stem.1.bias").numel()
