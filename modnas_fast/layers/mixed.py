"""All candidates of one layer, side by side."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from modnas_fast.genotype import PRIMITIVES
from modnas_fast.layers.operations import build_operation


class MixedOp(nn.ModuleDict):
    """The K candidates of a layer, keyed by operation in the order of `PRIMITIVES[kind]`; all map C channels to C.

    It holds weights only. How strongly each candidate counts is the architecture's, which all stages share.
    """

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__({op: build_operation(kind, op, channels, channels) for op in PRIMITIVES[kind]})

    def forward(self, x: Tensor) -> list[Tensor]:
        """Every candidate's output."""
        return [operation(x) for operation in self.values()]


def stack_parameters(layers: Iterable[MixedOp]) -> dict[str, Tensor]:
    """The parameters of M layers of one kind by name, each [M, …]; differentiable."""
    layers = list(layers)
    names = [name for name, _ in layers[0].named_parameters()]
    same = zip(*(layer.parameters() for layer in layers), strict=True)
    return {name: torch.stack(parameters) for name, parameters in zip(names, same, strict=True)}
