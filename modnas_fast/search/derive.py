"""Deriving: one fixed architecture from learned α, β and γ, and the numbers that decided it (paper Eq. 9-11).

Ties and degenerate values all have one outcome, the same on every machine:

| case | outcome |
|---|---|
| equal p | the deepest: the layer's own z before any skip, then the later of two sources |
| equal ω | the first in `PRIMITIVES`, the skip candidate last |
| equal |β| | the lower channel index |
| every β of the operation 0 | any channels hold the asked share, so the fewest allowed, and share = 1 |
| `keep` = 0 | the fewest allowed: one channel at least |
| `keep` = 1 | the fewest allowed that hold every β but those that are exactly 0 |
| C is no multiple of `multiple`, or less | the widths are `multiple`, 2·`multiple`, … and C itself |
| all layers of a block skipped | the block is its (fused) input |
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import PRIMITIVES, Block, Genotype, Layer, Skip
from modnas_fast.search.architecture import Architecture, BlockParameters, MixtureParameters, NormalLayerParameters


@dataclass(frozen=True)
class LayerDecision:
    """What was chosen for one layer, and by which numbers. A skipped layer has no `kept` and no `share`.

    Attributes:
        gamma_weights: p of L⁰ … L^{ℓ−1}, then of the layer's own z; empty of a down- or up-sampling layer, and where
            depth was searched by skip candidates.
        source: of a skipped layer, the L that it is an alias of; otherwise None.
        alpha_weights: ω in the order of `PRIMITIVES`, then the skip candidate's if there is one; empty where γ skips.
        op: the chosen operation; "skip" of a skipped layer.
        kept: the channels kept of C, ascending; their number is the layer's width M.
        share: Σ|β| of the kept channels / Σ|β| of all.
    """

    gamma_weights: tuple[float, ...] = ()
    source: int | None = None
    alpha_weights: tuple[float, ...] = ()
    op: str = "skip"
    kept: tuple[int, ...] = ()
    share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The fields that count, as JSON types, and the width as `channels`."""
        entries = {"op": self.op, "channels": len(self.kept), **asdict(self)}
        left_out = ("channels", "share") if self.op == "skip" else ()
        return {key: value for key, value in entries.items() if value not in (None, ()) and key not in left_out}


@dataclass(frozen=True)
class Derivation:
    """A derived genotype and how it came about.

    Attributes:
        genotype: its `derivation` holds `decisions`, `keep` and `multiple`, and so does its JSON.
        decisions: by the layer's name, "EB1.1", "EB1 down", "DB1 up", …, in the order in which the layers run.
    """

    genotype: Genotype
    decisions: dict[str, LayerDecision]


def derive(architecture: Architecture, keep: float = 0.9, multiple: int = 8, name: str = "") -> Derivation:
    """Choose depth, operation and width of every layer, in this order.

        γ: z stays where argmaxᵢ pᵢ = ℓ; otherwise the layer is an alias of L^argmax, and has neither of the others
           (in a search with skip candidates: where the skip has the largest ω, the layer is an alias of L^{ℓ−1})
        α: ô = argmaxₒ ωₒ                                                                                 (Eq. 9)
        β: the M̂ channels of largest |β| of ô, M̂ the least multiple of `multiple` with
           Σ_{i≤M̂} |βᵢ| ≥ `keep`·Σ_{j≤C} |βⱼ|                                                           (Eq. 10)

    ω and p are computed in float64. The sums of Eq. 10 are exact and `keep` is the decimal that it is written as, so no
    rounding decides: 0.9 of ten equal gates is nine of them. The module's table defines ties and degenerate values.

    Args:
        architecture: raw α, β and γ, in any precision and on any device.
        keep: share of Σ|β| to keep, 0…1.
        multiple: granularity of widths, at least 1; C itself is allowed where it is no multiple.
        name: the genotype's label.

    Raises:
        ModnasError: `keep` or `multiple` out of range, or a layer's parameter that holds NaN or infinite values.
    """
    if not 0 <= keep <= 1:
        raise ModnasError(f"keep is {keep}; it is the share of Σ|β| to keep, from 0 to 1")
    if not isinstance(multiple, int) or multiple < 1:
        raise ModnasError(f"multiple is {multiple}; widths are multiples of a whole number of at least 1")
    chooser = _Chooser(Fraction(str(float(keep))), multiple)
    encoder = [chooser.block(f"EB{i}", raw) for i, raw in enumerate(_blocks(architecture.encoder), 1)]
    decoder = [chooser.block(f"DB{i}", raw) for i, raw in enumerate(_blocks(architecture.decoder), 1)]
    layers = [{"layer": layer, **decision.to_dict()} for layer, decision in chooser.decisions.items()]
    numbers = json.dumps({"keep": float(keep), "multiple": multiple, "layers": layers})
    channels = architecture.get_parameter("encoder.0.layers.0.beta").shape[1]
    return Derivation(Genotype(channels, tuple(encoder), tuple(decoder), name, numbers), chooser.decisions)


class _Chooser:
    """Decides layer by layer; `decisions` collects the numbers."""

    def __init__(self, keep: Fraction, multiple: int) -> None:
        self._keep, self._multiple = keep, multiple
        self.decisions: dict[str, LayerDecision] = {}

    def block(self, name: str, raw: BlockParameters) -> Block:
        for index, layer in enumerate(raw.layers, 1):
            _require_finite(f"{name}.{index}", layer)
        layers = [self._normal(f"{name}.{i}", layer) for i, layer in enumerate(raw.normal_layers(), 1)]
        resample = None
        if raw.resample is not None:
            kind = "up" if raw.down is None else "down"
            _require_finite(f"{name} {kind}", raw.resample)
            resample = self._mixture(f"{name} {kind}", kind, raw.resample, ())
        return Block(tuple(layers), resample)

    def _normal(self, name: str, raw: NormalLayerParameters) -> Layer | Skip:
        if raw.gamma is None:
            omega = _softmax(_numbers(raw.alpha))
            if omega[-1] <= max(omega[:-1]):
                return self._mixture(name, "normal", raw, ())
            self.decisions[name] = LayerDecision(source=raw.depth - 1, alpha_weights=omega)
            return Skip(raw.depth - 1)
        p = _softmax(_numbers(raw.gamma))
        deepest = max(reversed(range(len(p))), key=p.__getitem__)
        if deepest == len(p) - 1:
            return self._mixture(name, "normal", raw, p)
        self.decisions[name] = LayerDecision(p, deepest)
        return Skip(deepest)

    def _mixture(self, name: str, kind: str, raw: MixtureParameters, p: tuple[float, ...]) -> Layer:
        omega = _softmax(_numbers(raw.alpha))
        best = max(range(len(PRIMITIVES[kind])), key=omega.__getitem__)
        kept, share = _strongest(_numbers(raw.beta[best]), self._keep, self._multiple)
        self.decisions[name] = LayerDecision(p, None, omega, PRIMITIVES[kind][best], kept, share)
        return Layer(PRIMITIVES[kind][best], len(kept))


def _strongest(beta: Sequence[float], keep: Fraction, multiple: int) -> tuple[tuple[int, ...], float]:
    """The channels of Eq. 10, ascending, and the share of Σ|β| that they hold."""
    channels = len(beta)
    order = sorted(range(channels), key=lambda channel: (-abs(beta[channel]), channel))
    held = list(accumulate(Fraction(abs(beta[channel])) for channel in order))  # held[i]: by the first i + 1
    widths = (*range(multiple, channels, multiple), channels)
    width = next(width for width in widths if held[width - 1] >= keep * held[-1])
    return tuple(sorted(order[:width])), float(held[width - 1] / held[-1]) if held[-1] else 1.0


def _softmax(values: Sequence[float]) -> tuple[float, ...]:
    """In scalar float64: equal values give equal weights, which a vectorised softmax does not promise."""
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    total = math.fsum(powers)
    return tuple(power / total for power in powers)


def _numbers(raw: Tensor) -> list[float]:
    numbers: list[float] = raw.detach().double().tolist()
    return numbers


def _require_finite(name: str, layer: nn.Module) -> None:
    for parameter, value in layer.named_parameters():
        if not bool(value.isfinite().all()):
            raise ModnasError(
                f"{parameter} of layer {name} holds NaN or infinite values; derive from a state before the search broke"
            )


def _blocks(blocks: Any) -> list[BlockParameters]:
    return list(blocks)
