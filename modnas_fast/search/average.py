"""Several searches as one: the average of what they learned, for deriving from more than one seed.

A single search decides many layers by a hair; another seed breaks such ties otherwise. The average asks all of them:

    ω = mean over runs of softmax(α),    p = mean over runs of softmax(γ)

Channels of different runs have nothing to do with each other, so of β only how it falls off counts: every operation's
|β| is sorted, divided by its sum, and averaged rank by rank. Eq. 10 reads nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from modnas_fast.errors import ModnasError
from modnas_fast.search.architecture import Architecture

_TINY = 1e-300  # whose logarithm is finite


def average_architectures(architectures: Sequence[Architecture]) -> Architecture:
    """An architecture with the runs' mean ω and p, and their mean fall-off of |β| as its β, strongest channel first.

    Args:
        architectures: at least one, of one width and one kind of depth search; only read.

    Returns:
        In float64, on the CPU. Its channels are ranks: no weights can be inherited by it.

    Raises:
        ModnasError: none is given, or they differ in width or depth search.
    """
    if not architectures:
        raise ModnasError("there is no architecture to average")
    copies = [copy.deepcopy(architecture).to("cpu", torch.float64) for architecture in architectures]
    shapes = [[(name, raw.shape) for name, raw in each.named_parameters()] for each in copies]
    if any(shape != shapes[0] for shape in shapes):
        raise ModnasError("the searches differ in channels or depth_search; average those that differ in seed alone")
    with torch.no_grad():
        for name, raw in copies[0].named_parameters():
            values = torch.stack([each.get_parameter(name) for each in copies])
            raw.copy_(_falloff(values) if name.endswith("beta") else _logits(values))
    return copies[0]


def _logits(values: Tensor) -> Tensor:
    """Logits of the mean softmax, [K], of R runs' logits [R, K]."""
    return values.softmax(1).mean(0).clamp_min(_TINY).log()


def _falloff(values: Tensor) -> Tensor:
    """Mean share of the strongest, second strongest, … gate, [K, C], of R runs' gates [R, K, C]; all 0 count as 0."""
    strength = values.abs().sort(dim=2, descending=True).values
    return (strength / strength.sum(2, keepdim=True).clamp_min(_TINY)).mean(0)
