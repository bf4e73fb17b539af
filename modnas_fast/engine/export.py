"""Networks as files for other software: ONNX, and PyTorch's exported programs."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import torch

from modnas_fast.atomic import write_atomically
from modnas_fast.errors import ModnasError
from modnas_fast.networks import ConditionedNet, DerivedNet, load, shipped_models
from modnas_fast.networks.weights import read_card
from modnas_fast.version import __version__

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}


def export_model(
    model: str | os.PathLike[str], form: str, path: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Write a trained network as a file that runs without modnas_fast, on images of any size ≥ 1×1 in any batch.

    A network for every σ has a second input, `sigma`: float32 [batch] on the 0–255 scale.

    The file's metadata hold the model's name, genotype, stages, channels, what it was trained for (`sigma` is on the
    0–255 scale) and, of a shipped model, its card.

    Args:
        model: a shipped model's name or a weight file.
        form: "onnx", or "torch" for `torch.export.load`.
        path: the file, with the format's suffix, .onnx or .pt2.
        overwrite: replace an existing file.

    Raises:
        ModnasError: an unknown model, format or suffix, an existing file, or a missing package.
    """
    if form not in FORMATS:
        raise ModnasError(f"format is {form!r}; choose from {', '.join(FORMATS)}")
    target = Path(path)
    if target.suffix != FORMATS[form]:
        raise ModnasError(f"{target}: a file of the format {form} ends in {FORMATS[form]}")
    if target.exists() and not overwrite:
        raise ModnasError(f"{target} exists; give another name, or --overwrite to replace it")
    net = load(model)
    metadata = describe(net, os.fspath(model))
    content = _onnx_bytes(net, metadata) if form == "onnx" else _torch_bytes(net, metadata)
    try:
        write_atomically(target, content, overwrite=overwrite)
    except OSError as error:
        raise ModnasError(f"{target}: {error.strerror or error}") from None


def describe(net: DerivedNet, name: str) -> dict[str, str]:
    """What the metadata of an exported file say about a network; `name` is a shipped model's or a file's."""
    metadata = {
        "model": name if name in shipped_models() else Path(name).name,
        "version": __version__,
        "genotype": net.genotype.to_json(),
        "stages": str(len(net.stages)),
        "channels": "gray" if net.channels_in == 1 else "RGB" if net.channels_in == 3 else str(net.channels_in),
        "range": "[0, 1]",
    }
    if net.degradation is not None:
        metadata["degradation"] = net.degradation.to_json()
        if net.degradation.kind == "awgn":
            joint = " to " if net.degradation.between else ", "
            metadata["sigma"] = joint.join(f"{level:g}" for level in net.degradation.levels)
    if name in shipped_models():
        card = read_card(shipped_models()[name])
        metadata["card"] = json.dumps(card)
        metadata["licence"] = f"Apache-2.0; trained on {card['data']}"
    return metadata


def export_program(net: DerivedNet) -> torch.export.ExportedProgram:
    """`torch.export` of a network for float32 [N, C, H, W] with any N, H, W ≥ 1; values as in its `forward`.

    Without torch's `backed_size_oblivious`, sizes of 8 and less would be ruled out: there the smallest feature maps
    have one row, and torch specialises what has the size 1.
    """
    from torch.fx.experimental import _config

    y = torch.zeros(2, net.channels_in, 21, 35)
    sizes = {axis: torch.export.Dim(name, min=1) for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    config: Any = _config
    with config.patch(backed_size_oblivious=True), torch.no_grad():
        net = net.cpu().float().eval()
        if not isinstance(net, ConditionedNet):
            return torch.export.export(net, (y,), dynamic_shapes={"y": sizes})
        shapes = {"y": sizes, "sigma": {0: sizes[0]}}
        return torch.export.export(net, (y, torch.tensor([25.0, 50.0])), dynamic_shapes=shapes)


def _onnx_bytes(net: DerivedNet, metadata: dict[str, str]) -> bytes:
    from modnas_fast.engine.onnx_graph import build_onnx

    return build_onnx(net, metadata).SerializeToString()


def _torch_bytes(net: DerivedNet, metadata: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(export_program(net), buffer, extra_files=dict(metadata))
    return buffer.getvalue()
