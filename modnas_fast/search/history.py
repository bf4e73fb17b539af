"""What a search did, epoch by epoch: one JSON object a line in RUN/history.jsonl.

| key | what |
|---|---|
| `epoch`, `phase` | from 1; "weights" (W alone is trained) or "alternate" (W and A in turn) |
| `train_psnr`, `validation_psnr` | of the supernet, dB; validation is null where the epoch had none |
| `seconds`, `rate` | the epoch's duration and learning rate |
| `alpha` | layer → ω (`alpha_weights`), as `PRIMITIVES` has them; layers are named "EB1.1", "EB1 down", "DB1 up", … |
| `gamma` | normal layer ℓ → p (`gamma_weights`) of L⁰ … L^{ℓ−1} and its own mixture |
| `beta` | histogram (Fig. 2a) of β, of each layer's operation with the largest ω: `edges`, `counts`, `operations` |
| `alpha_entropy` | mean over layers of −Σ ω ln ω / ln K: 1 is undecided, 0 decided |
| `skipped_layers` | share of the 21 normal layers that the network derived now does without |
| `genotype` | that network, as `Genotype.to_json` has it |
| `parameters`, `macs`, `macs_with_bias` | its costs at the search's T on a 48×48 image, see `Summary` |

Where α, β or γ hold a NaN or an infinity nothing can be derived: `genotype`, its costs, `skipped_layers` and `beta` are
null. NaN and Infinity stand in the file as such, as Python's json writes and reads them.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modnas_fast.atomic import write_atomically
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import DECODER_BLOCKS, ENCODER_BLOCKS, LAYERS_PER_BLOCK, PRIMITIVES
from modnas_fast.networks.summary import summarize
from modnas_fast.search.architecture import Architecture, MixtureParameters, NormalLayerParameters
from modnas_fast.search.derive import derive

PHASES = ("weights", "alternate")
NORMAL_LAYERS = (ENCODER_BLOCKS + DECODER_BLOCKS) * LAYERS_PER_BLOCK
_KEYS = {"epoch", "phase", "train_psnr", "validation_psnr", "seconds", "rate", "alpha", "gamma", "beta"}
_KEYS |= {"alpha_entropy", "skipped_layers", "genotype", "parameters", "macs", "macs_with_bias"}

# β's bins start and end at multiples of their width, a power of two times this, so that epochs can be compared.
_BIN_WIDTH, _MOST_BINS = 0.05, 80


def epoch_record(
    epoch: int,
    phase: str,
    architecture: Architecture,
    stages: int,
    channels_in: int,
    train_psnr: float,
    validation_psnr: float | None,
    seconds: float,
    rate: float,
) -> dict[str, Any]:
    """One epoch's record, of JSON types; the keys are this module's table.

    Args:
        epoch: from 1.
        phase: one of `PHASES`.
        architecture: as it is at the end of the epoch; only read.
        stages, channels_in: of the network whose costs are counted.

    Raises:
        ModnasError: an epoch below 1, or another phase.
    """
    if epoch < 1 or phase not in PHASES:
        raise ModnasError(f"epoch {epoch} of phase {phase!r}: epochs count from 1, and phases are {', '.join(PHASES)}")
    with torch.no_grad():
        layers = dict(_layers(copy.deepcopy(architecture).to("cpu", torch.float64)))
        alpha = {name: layer.alpha_weights for name, layer in layers.items()}
        gamma = {n: layer.gamma_weights for n, layer in layers.items() if isinstance(layer, NormalLayerParameters)}
    record = {
        "epoch": epoch,
        "phase": phase,
        "train_psnr": train_psnr,
        "validation_psnr": validation_psnr,
        "seconds": seconds,
        "rate": rate,
        "alpha": {name: _rounded(weights) for name, weights in alpha.items()},
        "gamma": {name: _rounded(weights) for name, weights in gamma.items()},
        "alpha_entropy": sum(map(_entropy, alpha.values())) / len(alpha),
        **dict.fromkeys(("beta", "skipped_layers", "genotype", "parameters", "macs", "macs_with_bias")),
    }
    if all(bool(parameter.isfinite().all()) for parameter in architecture.parameters()):
        record["beta"] = _beta_histogram(layers)
        record |= _derived(architecture, stages, channels_in)
    return record


def layer_kind(name: str) -> str:
    """The key of `PRIMITIVES` for a layer's name: "EB1.1" is normal, "EB1 down" down, "DB1 up" up."""
    kind = name.partition(" ")[2]
    return kind if kind in PRIMITIVES else "normal"


def append_record(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Add a record to the file, which is made where it is missing; a line that a crash left torn is cut off before.

    Raises:
        ModnasError: the file cannot be read or written, or a line before the last is broken.
    """
    line = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    sound = sum(len(text) + 1 for text, _ in _lines(Path(path)))
    try:
        with open(path, "r+b" if os.path.exists(path) else "xb") as file:
            file.seek(max(0, sound - 1))
            file.write(b"\n" + line if sound else line)  # the last sound line may lack its newline
            file.truncate()  # the rest of a torn line
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ModnasError(f"{path}: cannot be written: {error.strerror}") from None


def read_history(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All whole records, first to last; none where there is no file yet. A torn last line is passed over.

    Raises:
        ModnasError: the file cannot be read, or a line is broken; the message names it.
    """
    return [record for _, record in _lines(Path(path))]


def truncate_history(path: str | os.PathLike[str], epoch: int) -> None:
    """Drop the records of `epoch` and later, for a run that goes on from its start; atomic.

    Raises:
        ModnasError: the file cannot be read or written, or a line before the last is broken.
    """
    if os.path.exists(path):
        kept = [text + b"\n" for text, record in _lines(Path(path)) if record["epoch"] < epoch]
        try:
            write_atomically(path, b"".join(kept))
        except OSError as error:
            raise ModnasError(f"{path}: cannot be written: {error.strerror}") from None


def _layers(architecture: Architecture) -> Iterator[tuple[str, MixtureParameters]]:
    """Every layer with its name, in the order in which they run."""
    names = [f"EB{n + 1}" for n in range(ENCODER_BLOCKS)] + [f"DB{n + 1}" for n in range(DECODER_BLOCKS)]
    for name, block in zip(names, architecture.blocks(), strict=True):
        for layer in block.normal_layers():
            yield f"{name}.{layer.depth}", layer
        if block.resample is not None:
            yield f"{name} {'up' if block.down is None else 'down'}", block.resample


def _rounded(weights: Tensor) -> list[float]:
    return [round(weight, 6) for weight in weights.tolist()]


def _entropy(weights: Tensor) -> float:
    """−Σ ω ln ω / ln K; a weight that underflows to 0 adds nothing."""
    return float(torch.special.entr(weights).sum()) / math.log(len(weights))


def _beta_histogram(layers: Mapping[str, MixtureParameters]) -> dict[str, Any]:
    chosen = {name: int(layer.alpha_weights.argmax()) for name, layer in layers.items()}
    values = torch.cat([layer.beta[chosen[name]] for name, layer in layers.items()]).detach().numpy()
    width = _BIN_WIDTH
    while np.ptp(np.floor(values / width)) >= _MOST_BINS:
        width *= 2
    bins = np.floor(values / width).astype(np.int64)
    first = int(bins.min())
    counts = np.bincount(bins - first)
    return {
        "edges": [round((first + index) * width, 10) for index in range(len(counts) + 1)],
        "counts": counts.tolist(),
        "operations": {name: PRIMITIVES[layer_kind(name)][index] for name, index in chosen.items()},
    }


def _derived(architecture: Architecture, stages: int, channels_in: int) -> dict[str, Any]:
    """What the network that would be derived now is and costs."""
    genotype = replace(derive(architecture).genotype, derivation="")  # the record's α and γ say it already
    summary = summarize(genotype, stages, channels_in)
    live = sum(len(block.live_layers()) for _, block in genotype.blocks())
    return {
        "skipped_layers": 1 - live / NORMAL_LAYERS,
        "genotype": json.loads(genotype.to_json()),
        "parameters": summary.parameters,
        "macs": summary.macs,
        "macs_with_bias": summary.macs_with_bias,
    }


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Every whole line, less its newline, and the record in it."""
    try:
        texts = path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []
    except OSError as error:
        raise ModnasError(f"{path}: cannot be read: {error.strerror}") from None
    lines: list[tuple[bytes, dict[str, Any]]] = []
    for number, text in enumerate(texts, 1):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            if number == len(texts):
                break  # torn by a crash, or an empty file
            raise ModnasError(f"{path}: line {number} is broken; delete it to read the others") from None
        missing = sorted(_KEYS - record.keys()) if isinstance(record, dict) else sorted(_KEYS)
        if missing:
            raise ModnasError(f"{path}: line {number} is no record of a search: it lacks {missing[0]!r}")
        lines.append((text, record))
    return lines
