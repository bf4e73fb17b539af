"""Weight files: safetensors that describe their network, so that a path is all that loading needs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import Tensor

from modnas_fast.atomic import write_atomically
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Genotype
from modnas_fast.images.degradations import Degradation
from modnas_fast.networks.conditioned import ConditionedNet
from modnas_fast.networks.derived import DerivedNet
from modnas_fast.networks.device import choose_device

_FORMAT = "modnas_fast.weights"
_VERSION = "1"
_DEVICES = ("cpu", "cuda", "mps", "xpu", "meta")  # wherever plain PyTorch runs
_CARD_KEYS = {"name", "description", "channels_in", "degradation", "parameters", "sha256", "data", "scores"}
_NAMES = ("model.safetensors", "weights.safetensors")  # in folders of `save_pretrained`, and of training

# Files that are taken for weights, by how they start. The third byte of a safetensors file is hardly ever not 0.
_MISTAKEN = (
    (
        rb"PK\x03\x04.{26}[^/]*/data\.pkl|\x80[\x02-\x05][^\0]",
        "a PyTorch pickle, which is never opened; save the network by modnas_fast.networks.save_weights",
    ),
    (rb"PK\x03\x04", "a zip archive, as exported programs are; give the weight file in it, or that it was made from"),
    (rb"\x08[\x01-\x7f][\x12:]", "an ONNX model; give the weight file that it was exported from"),
    (rb"\s*[{\[][^\0]*\Z", "JSON text; give the .safetensors file that belongs to it"),
    (rb"version https://git-lfs", "a pointer of Git LFS; fetch the file itself by git lfs pull"),
)


class WeightsError(ModnasError):
    """A weight file that is missing, broken or of another kind, or a model name that is unknown."""


def shipped_models() -> dict[str, Path]:
    """The models that come with the package: name → weight file, sorted by name."""
    folder = Path(str(resources.files("modnas_fast").joinpath("weights")))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"), key=lambda path: path.stem)}


def save_weights(path: str | os.PathLike[str], net: DerivedNet, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Write a self-describing weight file, atomically.

    Args:
        path: the `.safetensors` file; replaced if it exists.
        net: its genotype, stages, channels, degradation and whether it is told σ are recorded.
        tensors: written instead of the net's own state dict (an average of it, say); same keys and shapes.
    """
    write_atomically(path, weights_to_bytes(net, tensors))


def weights_to_bytes(net: DerivedNet, tensors: Mapping[str, Tensor] | None = None) -> bytes:
    """The content of the file that `save_weights` writes."""
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "genotype": net.genotype.to_json(),
        "stages": str(len(net.stages)),
        "channels_in": str(net.channels_in),
    }
    if isinstance(net, ConditionedNet):
        metadata["conditioned"] = "true"
    if net.degradation is not None:
        metadata["degradation"] = net.degradation.to_json()
    return _safetensors(net.state_dict() if tensors is None else tensors, metadata)


def load(name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu") -> DerivedNet:
    """A trained network, ready to run: in evaluation mode, float32, on `device`. A `ConditionedNet` is told σ.

    Args:
        name_or_path: a shipped model's name (see `shipped_models`), or a weight file that `save_weights` or training
            wrote.
        device: where the parameters go: "auto" (CUDA where there is one), "cpu", "cuda" or a torch device.

    Raises:
        ModnasError: an unknown device, or CUDA where torch sees none.
        WeightsError: unknown name, a shipped file that is damaged, an unreadable, truncated or foreign file, or tensors
            that do not fit the genotype in it.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise WeightsError(f"model is a {type(name_or_path).__name__}; give a shipped model's name or a weight file")
    name = os.fspath(name_or_path)
    place = choose_device(device, _DEVICES)
    shipped = shipped_models().get(name)
    if shipped is not None:
        _check_sum(name, shipped)
    tensors, metadata = read_safetensors(shipped or Path(name))
    return _build(name, tensors, metadata).to(place).eval()


def read_card(weights: Path) -> dict[str, Any]:
    """The card of a shipped model, the `.json` beside its weight file.

    Raises:
        WeightsError: it is missing or broken.
    """
    path = weights.with_suffix(".json")
    try:
        card = dict(json.loads(path.read_bytes()))
        if missing := _CARD_KEYS - card.keys():
            raise ValueError(f"it lacks {min(missing)}")
        Degradation.from_mapping(card["degradation"])
        return card
    except OSError as error:
        reason: object = error.strerror
    except (KeyError, TypeError, ValueError) as error:
        reason = error
    raise WeightsError(f"{path}: no card of a shipped model ({reason}); install modnas-fast again")


def _check_sum(name: str, path: Path) -> None:
    """Raise `WeightsError` unless a shipped model is the file that its card describes."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != read_card(path)["sha256"]:
        raise WeightsError(f"{path}: not the weights of {name}, by their checksum; install modnas-fast again")


def net_from_bytes(content: bytes, name: str) -> DerivedNet:
    """As `load`, from the content of a weight file; `name` is what errors call it."""
    try:
        tensors = parse(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except SafetensorError as error:
        raise WeightsError(f"{name}: not the content of a safetensors file ({error})") from None
    return _build(name, tensors, metadata).eval()


def _build(name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> DerivedNet:
    check_format(name, metadata, "weight file", _FORMAT, _VERSION)
    try:
        kind = ConditionedNet if metadata.get("conditioned") == "true" else DerivedNet
        net = kind(Genotype.from_json(metadata["genotype"]), int(metadata["stages"]), int(metadata["channels_in"]))
        if "degradation" in metadata:
            net.degradation = Degradation.from_mapping(json.loads(metadata["degradation"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{name}: broken metadata: {error}") from None
    check_tensors(name, net.state_dict(), tensors, "genotype")
    net.load_state_dict(tensors)
    return net


def check_format(name: str | os.PathLike[str], metadata: Mapping[str, str], what: str, form: str, version: str) -> None:
    """Raise `WeightsError` unless the metadata of `name` say that it is a `what` of this format and version."""
    if metadata.get("format") != form:
        raise WeightsError(f"{name}: not a modnas-fast {what} (its metadata lacks format={form!r})")
    if metadata.get("version") != version:
        raise WeightsError(
            f"{name}: {what} version {metadata.get('version')}; this release reads {version}: upgrade modnas-fast"
        )


def check_tensors(
    name: str | os.PathLike[str], expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], described_by: str
) -> None:
    """Raise `WeightsError` unless `tensors` have the names and shapes of `expected`, and finite floating-point values.

    `described_by` names what in the file asks for these tensors.
    """
    problems = [f"{key} is missing" for key in expected.keys() - tensors.keys()]
    problems += [f"{key} is unknown" for key in tensors.keys() - expected.keys()]
    for key in expected.keys() & tensors.keys():
        if expected[key].shape != tensors[key].shape:
            problems.append(f"{key} is {list(tensors[key].shape)}, not {list(expected[key].shape)}")
        elif not tensors[key].is_floating_point():
            problems.append(f"{key} is {tensors[key].dtype}, not floating point")
        elif not torch.isfinite(tensors[key]).all():
            problems.append(f"{key} holds NaN or infinite values")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise WeightsError(f"{name}: the tensors do not fit its {described_by}: {min(problems)}{more}")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file.

    Raises:
        WeightsError: the file is missing, truncated or of another format, which the message names where it knows it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if path.is_file() and not isinstance(error, PermissionError):
            with path.open("rb") as file:
                head = file.read(200)
            for start, what in _MISTAKEN:
                if head[8:9] != b"{" and re.match(start, head, re.DOTALL):
                    raise WeightsError(f"{path}: {what}") from None
            raise WeightsError(f"{path}: not a readable safetensors file ({error}); fetch or copy it again") from None
        reason = "it is a folder" if path.is_dir() else getattr(error, "strerror", None) or "no such file"
        inside = [path / name for name in _NAMES if (path / name).is_file()]
        fix = f"the file in it, {inside[0]}" if inside else f"a weight file or one of: {', '.join(shipped_models())}"
        raise WeightsError(f"model {os.fspath(path)!r}: {reason}; give {fix}") from None


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically and durably: whoever reads `path` sees the old file or the whole new one."""
    write_atomically(path, _safetensors(tensors, metadata))


def _safetensors(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A file's content, metadata in order: safetensors shuffles them, and equal content should be equal bytes."""
    payload = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, metadata)
    size = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + payload[8 + size :]
