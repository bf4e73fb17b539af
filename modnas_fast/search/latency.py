"""What a network takes on a device, predicted from a table of measured operations.

A table holds the times of all parts of a stage (`search.parts`) at one image size and several widths, measured by
`search.profiling`. A derived network's latency is T times `context` times the sum of its parts' times; a part's at its
own widths is

    c(u, v) = c₀ + c₁·u + c₂·v + c₃·u² + c₄·u·v

with the coefficients ≥ 0 that fit the part's measured times with the least squared relative error (`search.cost`): the
very law by which a search's penalty is computed. Predictions are for the table's image size, and for widths up to those
measured.

Whole networks are measured along with the operations. `context` is how much longer than its parts a network takes:
memory that is given back and asked for again between them (its page faults alone are 10-15 % on a virtual machine),
caches, what is no part. It is the median over these networks; each one's own prediction goes by the others' only, so
that the errors are those of networks that the table has not seen.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from modnas_fast.atomic import write_atomically
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import PRIMITIVES, SIZE_MULTIPLE, Genotype, Layer
from modnas_fast.runs.config import ConfigError, config_from_mapping
from modnas_fast.search.architecture import Architecture, MixtureParameters
from modnas_fast.search.config import SearchConfig
from modnas_fast.search.cost import CostPoint, CostTable, count_table, fit_table, stage_cost
from modnas_fast.search.parts import PARTS, Part

CPU = "cpu"  # what the device of a table that was measured on a CPU begins with
LATENCY_FILE = "latency.json"  # a run folder's copy of the table that its penalty is computed from

_FORMAT = "modnas_fast.latency"
_VERSION = 1
_Entry = TypeVar("_Entry")


class LatencyError(ModnasError):
    """A latency table that cannot be read, or that is not for what it is asked; the message names the field."""


@dataclass(frozen=True)
class Settings:
    """What a table was measured on, and for.

    Attributes:
        machine, device: the processor, and the GPU's name or, on the CPU, "cpu" and what ran there.
        threads: inside an operation on the CPU.
        torch, date: its version, and when (UTC, ISO 8601).
        channels, channels_in, size: greatest width, the image's channels, and its height and width in pixels.
        repeats: timed rounds; figures are medians and 20th and 80th percentiles over them.
    """

    machine: str
    device: str
    threads: int
    torch: str
    date: str
    channels: int
    channels_in: int
    size: int
    repeats: int

    def __post_init__(self) -> None:
        _require_positive(self, ("threads", "channels", "channels_in", "repeats"))
        if self.size < SIZE_MULTIPLE or self.size % SIZE_MULTIPLE:
            raise LatencyError(f"size is {self.size}; it must be a multiple of {SIZE_MULTIPLE}")


@dataclass(frozen=True)
class OperationTime:
    """One operation (see `Part`) at two widths, ms a call."""

    kind: str
    op: str
    level: int
    channels_in: int
    channels_out: int
    median_ms: float
    p20_ms: float
    p80_ms: float

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise LatencyError(f"there is no {self.kind} operation {self.op!r} at level {self.level}")
        _require_positive(self, ("channels_in", "channels_out", "median_ms", "p20_ms", "p80_ms"))

    @property
    def part(self) -> Part:
        return Part(self.kind, self.op, self.level)


@dataclass(frozen=True)
class NetworkTime:
    """A whole network of one stage, measured in the same rounds as the operations; ms.

    Attributes:
        parts_ms: the sum of its parts' times.
        predicted_ms: that, times the other networks' `context`.
    """

    network: str
    parts_ms: float
    predicted_ms: float
    median_ms: float
    p20_ms: float
    p80_ms: float

    def __post_init__(self) -> None:
        _require_positive(self, ("parts_ms", "predicted_ms", "median_ms", "p20_ms", "p80_ms"))

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_ms / self.median_ms - 1


@dataclass(frozen=True)
class LatencyTable:
    """Measured operations, and what the predictions from them are worth; `save` and `load` round-trip."""

    settings: Settings
    operations: tuple[OperationTime, ...]
    validation: tuple[NetworkTime, ...] = ()
    _costs: dict[int, CostTable] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        missing = [part for part in PARTS if part not in {entry.part for entry in self.operations}]
        if missing:
            raise LatencyError(f"operations lack {missing[0].kind} {missing[0].op!r} at level {missing[0].level}")

    @property
    def cores(self) -> str:
        """ ", 2 threads" where the table was measured on a CPU."""
        return f", {self.settings.threads} threads" if self.settings.device.startswith(CPU) else ""

    @property
    def mean_error(self) -> float | None:
        """Mean absolute relative error over `validation`; None where it is empty."""
        errors = [abs(network.error) for network in self.validation]
        return sum(errors) / len(errors) if errors else None

    @property
    def context(self) -> float:
        """What a network takes over the sum of its parts; 1 where `validation` is empty."""
        return median_ratio([(network.median_ms, network.parts_ms) for network in self.validation])

    @property
    def spread(self) -> float:
        """Median over the operations of 80th over 20th percentile: how calm the machine was."""
        return statistics.median(entry.p80_ms / entry.p20_ms for entry in self.operations)

    def costs(self, channels: int) -> CostTable:
        """The laws, in ms, of stages whose stem has `channels`.

        Raises:
            LatencyError: that is wider than what was measured.
        """
        self.require_width(channels)
        if channels not in self._costs:
            times = self.operations
            points = [CostPoint(time.part, time.channels_in, time.channels_out, time.median_ms) for time in times]
            self._costs[channels] = fit_table(points, channels, self.settings.channels_in, "ms")
        return self._costs[channels]

    def require_width(self, channels: int) -> None:
        """Raise `LatencyError` if `channels` is beyond what was measured."""
        if channels > self.settings.channels:
            limit = self.settings.channels
            raise LatencyError(f"the latency table ends at {limit} channels; profile again with --channels {channels}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON, an operation a line, atomically."""
        header = {"format": _FORMAT, "version": _VERSION, "settings": asdict(self.settings)}
        header["mean_absolute_relative_error"] = self.mean_error
        lines = [f'  "{key}": {json.dumps(value)}' for key, value in header.items()]
        for key, entries in (("validation", self.validation), ("operations", self.operations)):
            rows = ",\n".join(f"    {json.dumps(asdict(entry))}" for entry in entries)
            lines.append(f'  "{key}": [\n{rows}\n  ]' if rows else f'  "{key}": []')
        write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read what `save` wrote.

        Raises:
            LatencyError: unreadable, foreign or of another version, or a field that is missing, unknown or wrong.
        """
        try:
            return _from_document(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise LatencyError(f"{path}: {error.strerror}; modnas-fast profile-ops -o {path} writes one") from None
        except LatencyError as error:
            raise LatencyError(f"{path}: {error}") from None
        except (ValueError, RecursionError):
            raise LatencyError(f"{path}: not JSON") from None


def predict_latency(genotype: Genotype, table: LatencyTable, stages: int = 1) -> float:
    """Milliseconds that `stages` stages of the genotype should take, on the table's device for an image of its size.

    Raises:
        LatencyError: the genotype is wider than what was measured.
    """
    layers = [layer for _, block in genotype.blocks() for layer in (*block.layers, block.resample)]
    widest = max(genotype.channels, *(layer.channels for layer in layers if isinstance(layer, Layer)))
    table.require_width(widest)
    with torch.no_grad():
        parts = float(stage_cost(_decided(genotype, widest), table.costs(genotype.channels)))
    return stages * table.context * parts


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Median of first over second; 1 where there are none."""
    return statistics.median(first / second for first, second in pairs) if pairs else 1.0


def penalty_table(config: SearchConfig) -> CostTable | None:
    """The cost table of a search's penalty, for `expected_cost`; None if it has none.

    Raises:
        LatencyError: the latency table cannot be read, or is for other images or narrower networks.
    """
    if not config.penalty:
        return None
    if config.penalty != "latency":
        return count_table(config.penalty, config.channels, config.channels_in)
    table = LatencyTable.load(config.latency_table)
    if table.settings.channels_in != config.channels_in:
        raise LatencyError(
            f"{config.latency_table} is for images of {table.settings.channels_in} channels; "
            f"profile again with --channels-in {config.channels_in}"
        )
    return table.costs(config.channels)


def _decided(genotype: Genotype, channels: int) -> Architecture:
    """α, β and γ of `channels` channels that leave no doubt, so that `stage_cost` is the cost of this genotype."""
    architecture = Architecture(channels)
    for (_, block), raw in zip(genotype.blocks(), architecture.blocks(), strict=True):
        for layer, parameters in zip(block.layers, raw.layers, strict=True):
            gamma = parameters.get_parameter("gamma")
            if isinstance(layer, Layer):
                _choose(gamma, len(gamma) - 1)
                _decide("normal", layer, cast(MixtureParameters, parameters))
            else:
                _choose(gamma, layer.source)
        if block.resample is not None and raw.resample is not None:
            _decide("up" if raw.down is None else "down", block.resample, raw.resample)
    return architecture


def _decide(kind: str, layer: Layer, raw: MixtureParameters) -> None:
    _choose(raw.alpha, PRIMITIVES[kind].index(layer.op))
    raw.beta[:, layer.channels :] = 0


def _choose(logits: Tensor, index: int) -> None:
    """Make softmax(logits) one-hot."""
    logits.fill_(-math.inf)[index] = 0


def _from_document(document: Any) -> LatencyTable:
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise LatencyError(f"not a latency table (it lacks format {_FORMAT!r})")
    if document.get("version") != _VERSION:
        raise LatencyError(
            f"version is {document.get('version')!r}; this release reads {_VERSION}: upgrade modnas-fast"
        )
    keys = {"format", "version", "settings", "mean_absolute_relative_error", "validation", "operations"}
    for key in sorted(keys ^ document.keys()):
        raise LatencyError(f"it lacks the field {key!r}" if key in keys else f"it has an unknown field {key!r}")
    return LatencyTable(
        _entry(Settings, document["settings"], "settings"),
        _entries(OperationTime, document, "operations"),
        _entries(NetworkTime, document, "validation"),
    )


def _entries(kind: type[_Entry], document: dict[str, Any], key: str) -> tuple[_Entry, ...]:
    if not isinstance(document[key], list):
        raise LatencyError(f"{key} must be a list, not {type(document[key]).__name__}")
    return tuple(_entry(kind, entry, f"{key}[{index}]") for index, entry in enumerate(document[key]))


def _entry(kind: type[_Entry], entry: Any, where: str) -> _Entry:
    if not isinstance(entry, dict):
        raise LatencyError(f"{where} must be a JSON object, not {type(entry).__name__}")
    try:
        return config_from_mapping(kind, entry)
    except ConfigError as error:
        raise LatencyError(f"{where}: {error}") from None


def _require_positive(entry: Any, keys: Sequence[str]) -> None:
    for key in keys:
        value = getattr(entry, key)
        if not 0 < value < math.inf:
            raise LatencyError(f"{key} is {value}; it must be positive and finite")
