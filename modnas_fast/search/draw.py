"""Drawing networks from what a search has learned, within a latency: where α and γ are not yet decided.

Deriving takes the most probable choice of every layer. As long as probabilities are near each other, that says little
of the network as a whole; drawing some, training each for a while and keeping the best says more (Wu et al., “FBNet”,
CVPR 2019, draw theirs from the learned distribution likewise; Li & Talwalkar, UAI 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Genotype
from modnas_fast.search.architecture import Architecture
from modnas_fast.search.derive import derive
from modnas_fast.search.latency import LatencyTable, predict_latency

_MOST_TRIES = 20_000


def draw(architecture: Architecture, generator: torch.Generator, keep: float = 0.9, multiple: int = 8) -> Genotype:
    """A genotype whose operations have the probabilities ω and whose depths have p; widths by Eq. 10, as in `derive`.

    By Gumbel's trick: argmax(α + g), where every g = −ln(−ln u) with u uniform in (0, 1), is o with probability ω_o.
    """
    drawn = copy.deepcopy(architecture)
    with torch.no_grad():
        for name, parameter in drawn.named_parameters():
            if name.endswith(("alpha", "gamma")):
                uniform = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(parameter.double() - (-uniform.clamp_min(1e-300).log()).log())
    return replace(derive(drawn, keep, multiple).genotype, derivation="")  # its numbers would be the noise's


def draw_within(
    architecture: Architecture,
    table: LatencyTable,
    least: float,
    most: float,
    seed: int,
    keep: float = 0.9,
    multiple: int = 8,
) -> Iterator[tuple[Genotype, float]]:
    """Different genotypes, and the milliseconds that a stage of each should take, which are from `least` to `most`.

    Args:
        architecture: α, β, γ of a search.
        table: what layers take on the device that counts.
        least, most: milliseconds on the table's image.
        seed: of the draws.
        keep: the least share of Σ|β| that a network keeps: each draws its own from there to 1.
        multiple: of widths.

    Raises:
        ModnasError: an empty range, what `derive` refuses, or 20,000 draws in a row that hold no further one.
    """
    if not 0 <= least < most:
        raise ModnasError(f"the range is {least:g} to {most:g} ms; give the least latency first, then a greater one")
    generator = torch.Generator().manual_seed(seed)
    seen: set[Genotype] = set()
    while True:
        for _ in range(_MOST_TRIES):
            share = keep + (1 - keep) * float(torch.rand((), generator=generator, dtype=torch.float64))
            genotype = draw(architecture, generator, share, multiple)
            latency = predict_latency(genotype, table)
            if least <= latency <= most and genotype not in seen:
                break
        else:
            raise ModnasError(f"no network of {least:g} to {most:g} ms in {_MOST_TRIES:,} draws; widen the range")
        seen.add(genotype)
        yield genotype, latency
