"""What a stage is made of, part by part, so that each can be counted or timed by itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modnas_fast.genotype import DECODER_BLOCKS, ENCODER_BLOCKS, PRIMITIVES
from modnas_fast.layers import PlainConv, build_operation

LEVELS = (*range(ENCODER_BLOCKS), *reversed(range(DECODER_BLOCKS)))  # of the blocks: they work at size / 2^level
BLOCK_LEVELS = dict(zip(("EB1", "EB2", "EB3", "DB1", "DB2", "DB3", "DB4"), LEVELS, strict=True))


@dataclass(frozen=True)
class Part:
    """A module of a stage at one resolution: `op` of `kind`, whose input is size / 2^`level` on a side.

    Beside those of `PRIMITIVES` there are the kinds "stem" (two 3×3 convolutions), "fuse", "out" and "relaxation".
    """

    kind: str
    op: str
    level: int

    def build(self, channels_in: int, channels_out: int) -> nn.Module:
        """The module that the derived network has there."""
        if self.kind in PRIMITIVES:
            return build_operation(self.kind, self.op, channels_in, channels_out)
        if self.kind == "relaxation":
            return _Relaxation()
        if self.kind == "fuse":
            return _Fuse(channels_in, channels_out, 3, padding=1)
        if self.op == "first":
            return nn.Conv2d(channels_in, channels_out, 3, padding=1)
        return PlainConv(channels_in, channels_out, 1 if self.kind == "out" else 3)

    def inputs(self, channels_in: int, size: int) -> tuple[tuple[int, int, int, int], ...]:
        """Shapes of what the module reads, for one image of size × size."""
        side = size >> self.level
        if self.kind == "fuse":
            return ((1, channels_in - channels_in // 2, side, side), (1, channels_in // 2, side, side))
        return ((1, channels_in, side, side),) * (2 if self.kind == "relaxation" else 1)

    def widths(self, widths: Sequence[int], channels_in: int) -> list[tuple[int, int]]:
        """The (input, output) widths at which its law is sampled; `channels_in` is the image's."""
        if self.kind == "relaxation":
            return [(channels_in, channels_in)]
        if self.kind == "fuse":
            return [(2 * width, width) for width in widths]
        if self.kind == "out":
            return [(width, channels_in) for width in widths]
        if self.kind == "stem":
            return [(channels_in if self.op == "first" else width, width) for width in widths]
        return list(itertools.product(widths, widths))


PARTS = (
    *(Part("normal", op, level) for level in range(DECODER_BLOCKS) for op in PRIMITIVES["normal"]),
    *(Part("down", op, level) for level in range(ENCODER_BLOCKS) for op in PRIMITIVES["down"]),
    *(Part("up", op, level) for level in range(1, DECODER_BLOCKS) for op in PRIMITIVES["up"]),
    *(Part("fuse", "conv_3x3", level) for level in range(DECODER_BLOCKS - 1)),
    *(Part("stem", op, 0) for op in ("first", "second")),
    Part("out", "conv_1x1", 0),
    Part("relaxation", "relaxation", 0),
)


class _Fuse(nn.Conv2d):
    def forward(self, x: Tensor, feature: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat((x, feature), dim=1))


class _Relaxation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros(()))

    def forward(self, v: Tensor, y: Tensor) -> Tensor:
        return v + self.delta.sigmoid() * (y - v)
