"""What the architecture would cost, as one differentiable number: the penalty of an A-step.

A stage is made of parts (`search.parts`): 27 mixed layers, three fuses, the stem, `out` and the relaxation. Each part's
cost, at its resolution, is a law in its input width u and its output width v, with coefficients ≥ 0:

    c(u, v) = c₀ + c₁·u + c₂·v + c₃·u² + c₄·u·v

For MACs and parameters it is exact, since every operation is made of depthwise convolutions and of dense ones from u to
u and from u to v. Of a measured latency it is the best fit: a call, reading, writing, arithmetic. No cost falls as a
width grows.

The expected cost draws depth, operation and width of every layer independently:

    cost(A) = stem + Σ_ℓ r_ℓ·p_ℓ·Σ_o ω_o·c_o(u_ℓ, C·s_o) + Σ_resample Σ_o ω_o·c_o(u, C·s_o) + fuses + out + relaxation

* r_ℓ is the probability that layer ℓ reaches its block's output: 1 for the last; L^j is reached from ℓ > j with
  p_{ℓ,j}, and from ℓ = j + 1 also with ℓ's own p, as its predecessor. r_ℓ·p_ℓ is exactly the probability that a network
  derived from drawn depths has the layer.
* s_o is the share of its C channels that an operation keeps, see `kept_share`.
* u is the predecessor's expected width: L^ℓ has Σ_{i<ℓ} p_i·u_i + p_ℓ·Σ_o ω_o·C·s_o channels, and a fuse halves the sum
  of its two. It is not detached: narrowing a layer makes its reader cheaper too, and that is part of the derivative.

That is the exact expectation but for squares of widths, where E[u]² stands for E[u²]. For one-hot ω and p, and gates of
which M are equal and the others 0, it is the derived network's own count. All stages cost the same: one is counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import ENCODER_BLOCKS, LAYERS_PER_BLOCK, PRIMITIVES
from modnas_fast.search.architecture import Architecture
from modnas_fast.search.parts import LEVELS, PARTS, Part

_COUNT_WIDTHS = (8, 24, 48)  # enough for exact laws at any width
_COUNT_SIZE = 8
_TINY = 1e-30


class CostPoint(NamedTuple):
    """The cost of a part at two widths."""

    part: Part
    channels_in: int
    channels_out: int
    cost: float


@dataclass(frozen=True)
class CostTable:
    """The laws c(u, v) of a stage's parts, in the order in which the layers run; coefficients are float64, in `unit`s.

    Attributes:
        channels: C, the stem's width.
        unit: "MACs", "parameters" or "ms".
        normal, down, up: of every layer's K candidates, [21, K, 5], [3, K, 5] and [3, K, 5].
        fuse, out: of DB2-DB4, [3, 5], and [5]; what follows from the widths that it joins or reads.
        constant: the stem's and the relaxation's cost.
        channels_in: the image's channels.
        initial: cost of the initial architecture, which `expected_cost` calls 1.
    """

    channels: int
    channels_in: int
    unit: str
    normal: Tensor
    down: Tensor
    up: Tensor
    fuse: Tensor
    out: Tensor
    constant: float
    initial: float = field(init=False)

    def __post_init__(self) -> None:
        initial = Architecture(self.channels).to(self.normal.device)
        object.__setattr__(self, "initial", float(stage_cost(initial, self).detach()))

    def to(self, device: torch.device | str) -> CostTable:
        """The same table on `device`: do it once, before steps that a CUDA graph captures."""
        tensors = [key.name for key in fields(self) if isinstance(getattr(self, key.name), Tensor)]
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


def count_table(kind: str, channels: int, channels_in: int = 1, size: int = 48) -> CostTable:
    """Exact laws of a stage's MACs on a size × size image, or of its parameters; counted on the modules themselves.

    Args:
        kind: "macs" (of all convolutions, biases not among them) or "parameters".
        channels: C ≥ 1.
        channels_in: of the image.
        size: a multiple of 8. It scales all MACs alike, so that it does not change `expected_cost`.

    Raises:
        ModnasError: `kind` is neither.
    """
    if kind not in ("macs", "parameters"):
        raise ModnasError(f"{kind!r} cannot be counted; choose macs or parameters")
    points: list[CostPoint] = []
    samples: dict[Part, list[tuple[int, int, int, int]]] = {}
    for part in PARTS:
        model = replace(part, level=0)  # a convolution's arithmetic is proportional to its positions
        if model not in samples:
            samples[model] = [(u, v, *_count(model, u, v)) for u, v in model.widths(_COUNT_WIDTHS, channels_in)]
        area = (size >> part.level) ** 2 / _COUNT_SIZE**2
        for u, v, macs, parameters in samples[model]:
            points.append(CostPoint(part, u, v, area * macs if kind == "macs" else parameters))
    return fit_table(points, channels, channels_in, "MACs" if kind == "macs" else kind)


def fit_table(points: Iterable[CostPoint], channels: int, channels_in: int, unit: str) -> CostTable:
    """The laws through, or nearest to, `points`, which sample every one of `PARTS`; the relative error is least."""
    samples: dict[Part, list[CostPoint]] = {part: [] for part in PARTS}
    for point in points:
        samples[point.part].append(point)
    laws = {part: _fit(found) for part, found in samples.items()}

    def layer(kind: str, level: int) -> Tensor:
        return torch.stack([laws[Part(kind, op, level)] for op in PRIMITIVES[kind]])

    decoder = LEVELS[ENCODER_BLOCKS:]
    first, second = laws[Part("stem", "first", 0)], laws[Part("stem", "second", 0)]
    constant = _law(first, channels_in, channels) + _law(second, channels, channels)
    constant += _law(laws[Part("relaxation", "relaxation", 0)], channels_in, channels_in)
    return CostTable(
        channels,
        channels_in,
        unit,
        normal=torch.stack([layer("normal", level) for level in LEVELS for _ in range(LAYERS_PER_BLOCK)]),
        down=torch.stack([layer("down", level) for level in LEVELS[:ENCODER_BLOCKS]]),
        up=torch.stack([layer("up", level) for level in decoder[:-1]]),
        fuse=torch.stack([laws[Part("fuse", "conv_3x3", level)] for level in decoder[1:]]),
        out=laws[Part("out", "conv_1x1", 0)],
        constant=float(constant),
    )


def expected_cost(architecture: Architecture, table: CostTable) -> Tensor:
    """The module's cost(A) over that of the initial architecture (all ω, p and β equal), so that it starts at 1.

    With skip candidates it starts above 1: fewer layers are skipped then.

    Computed in float64 by about 700 operations on tiny tensors, backward included, without synchronising: it may stand
    in a CUDA graph.

    Args:
        architecture: α, β, γ of width `table.channels`.
        table: on the architecture's device (`CostTable.to`).

    Returns:
        A scalar in the parameters' dtype, differentiable in α, β and γ. β has no gradient where all |β| of an operation
        are equal, as they are at first: `kept_share` is largest there, and the data break the symmetry.

    Raises:
        ModnasError: the architecture is of another width.
    """
    beta = architecture.get_parameter("encoder.0.layers.0.beta")
    if beta.shape[1] != table.channels:
        raise ModnasError(f"the architecture has {beta.shape[1]} channels, and the cost table is for {table.channels}")
    return (stage_cost(architecture, table) / table.initial).to(beta.dtype)


def stage_cost(architecture: Architecture, table: CostTable) -> Tensor:
    """The module's cost(A) in the table's unit, a float64 scalar; for `expected_cost`'s arguments."""
    normal, down, up = (_mixtures(architecture, kind) for kind in ("normal", "down", "up"))
    depth = architecture.gamma_weights(torch.float64)  # [7, ℓ + 1]
    own = normal.mean.view(-1, LAYERS_PER_BLOCK)
    # EB1-EB3 and DB1 read the stem or one resampled width; DB2-DB4 wait for the encoder features.
    split = ENCODER_BLOCKS + 1
    first = torch.cat((down.mean.new_full((1,), table.channels), down.mean))
    upper = _chain(first, [p[:split] for p in depth], own[:split])  # [4, 4]: widths of L⁰ … L³
    joined = up.mean + upper[:ENCODER_BLOCKS, -1].flip(0)  # [3]
    features = torch.cat((upper, _chain(joined / 2, [p[split:] for p in depth], own[split:])))  # [7, 4]
    costs = normal.costs(table.normal, features[:, :-1].flatten())
    return (
        (_live(depth).flatten() * costs).sum()
        + down.costs(table.down, features[:ENCODER_BLOCKS, -1]).sum()
        + up.costs(table.up, features[ENCODER_BLOCKS:-1, -1]).sum()
        + _law(table.fuse, joined, joined / 2).sum()
        + _law(table.out, features[-1, -1], table.channels_in)
        + table.constant
    )


def kept_share(beta: Tensor) -> Tensor:
    """The share of C channels that deriving would keep, estimated smoothly; [..., C] to [...].

        s = e^H / C,  H = −Σ w ln w,  w = |β| / Σ|β|

    e^H counts the channels that matter: M for M equal gates among zeros, 1…C in general; only relative |β| count, as in
    Eq. 10. It falls whenever |β| moves from a weaker to a stronger channel, so a penalty concentrates what Eq. 10 reads
    instead of shrinking all gates alike, which would change nothing.

    On normal, Laplace, log-normal, Student and two-mode β of 48 channels it predicts `derive`'s M / C (90 %, multiples
    of 8) with correlation 0.94, r.m.s. error 0.09 and bias −0.02. The participation ratio (Σ|β|)² / (C·Σβ²), also exact
    on equal gates, has 0.88, 0.17 and −0.12: its squares see the largest gates only. All gates 0 count as one.
    """
    strength = beta.abs()
    weights = strength / strength.sum(-1, keepdim=True).clamp_min(_TINY)
    entropy = -(weights * (weights + _TINY).log()).sum(-1)
    return entropy.exp() / beta.shape[-1]


class _Mixtures(NamedTuple):
    """M layers of one kind: ω, and the width that each candidate keeps, both [M, K]."""

    omega: Tensor
    width: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected width, [M]."""
        return (self.omega * self.width).sum(1)

    def costs(self, laws: Tensor, channels_in: Tensor) -> Tensor:
        """Expected cost, [M], of `laws`, [M, K, 5], for inputs of width `channels_in`, [M]."""
        return (self.omega * _law(laws, channels_in[:, None], self.width)).sum(1)


def _mixtures(architecture: Architecture, kind: str) -> _Mixtures:
    beta = architecture.beta(kind).double()
    return _Mixtures(architecture.alpha_weights(kind, torch.float64), beta.shape[-1] * kept_share(beta))


def _chain(first: Tensor, depth: Sequence[Tensor], own: Tensor) -> Tensor:
    """Expected widths of L⁰ … L³ in B blocks, [B, 4], from those of L⁰, [B], and of the layers' mixtures, [B, 3]."""
    widths = [first]
    for p, mixture in zip(depth, own.unbind(1), strict=True):
        widths.append((p * torch.stack((*widths, mixture), dim=1)).sum(1))
    return torch.stack(widths, dim=1)


def _live(depth: Sequence[Tensor]) -> Tensor:
    """r_ℓ·p_ℓ of the normal layers of B blocks, [B, 3]."""
    reach = [torch.zeros_like(depth[0][:, 0]) for _ in depth] + [torch.ones_like(depth[0][:, 0])]
    live: list[Tensor] = []
    for position in range(len(depth), 0, -1):
        flow = reach[position][:, None] * depth[position - 1]  # to L⁰ … L^{ℓ−1}, and to the layer itself
        live.insert(0, flow[:, -1])
        for source in range(position):
            reach[source] = reach[source] + flow[:, source]
        reach[position - 1] = reach[position - 1] + flow[:, -1]
    return torch.stack(live, dim=1)


def _law(coefficients: Tensor, u: Tensor | float, v: Tensor | float) -> Tensor:
    """c(u, v), elementwise; the coefficients are the last dimension."""
    c0, c1, c2, c3, c4 = coefficients.unbind(-1)
    return c0 + u * (c1 + c3 * u + c4 * v) + c2 * v


def _fit(points: Sequence[CostPoint]) -> Tensor:
    """The five coefficients ≥ 0 of least squared relative error: of all subsets that may be positive, the best; [5]."""
    u, v, cost = (np.array([point[i] for point in points], dtype=np.float64) for i in (1, 2, 3))
    terms = np.stack([np.ones_like(u), u, v, u * u, u * v], axis=1)
    scale = terms.max(axis=0)
    rows = terms / scale / np.where(cost > 0, cost, 1)[:, None]
    goal = (cost > 0).astype(np.float64)
    best, least = np.zeros(5), float((goal**2).sum())
    for chosen in map(list, itertools.chain.from_iterable(itertools.combinations(range(5), n) for n in range(1, 6))):
        found = np.linalg.lstsq(rows[:, chosen], goal, rcond=None)[0]
        error = float(((rows[:, chosen] @ found - goal) ** 2).sum())
        if found.min() >= 0 and error < least:
            best, least = np.zeros(5), error
            best[chosen] = found
    return torch.from_numpy(best / scale)


def _count(part: Part, channels_in: int, channels_out: int) -> tuple[int, int]:
    """Multiply-accumulates of its convolutions, as `networks.summary` counts them, and parameters; 8×8 at level 0."""
    macs: list[int] = []

    def count(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        positions = (inputs[0] if isinstance(conv, nn.ConvTranspose2d) else output).shape[-2:].numel()
        macs.append(conv.get_parameter("weight").numel() * positions)

    with torch.device("meta"), torch.no_grad():
        module = part.build(channels_in, channels_out)
        for conv in module.modules():
            if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)):
                conv.register_forward_hook(count)
        module(*map(torch.empty, part.inputs(channels_in, _COUNT_SIZE)))
    return sum(macs), sum(parameter.numel() for parameter in module.parameters())
