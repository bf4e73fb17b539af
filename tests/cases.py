"""Inputs that tests share."""

from __future__ import annotations

import itertools
import random

import torch
from torch import Tensor

from modnas_fast.genotype import (
    DECODER_BLOCKS,
    ENCODER_BLOCKS,
    LAYERS_PER_BLOCK,
    PRIMITIVES,
    Block,
    Genotype,
    Layer,
    Skip,
)

# Layer i (from 1) is an operation (None) or an alias of L⁰…Lⁱ⁻¹: the 2·3·4 = 24 patterns of a block.
SKIP_PATTERNS: tuple[tuple[int | None, ...], ...] = tuple(
    itertools.product(*((None, *range(index + 1)) for index in range(LAYERS_PER_BLOCK)))
)


def random_genotype(seed: int, max_channels: int = 12) -> Genotype:
    """A small genotype, the same for the same arguments on every machine and Python.

    Each of the 7 blocks draws one of the 24 skip patterns, each layer one of its kind's operations and every width is
    1…`max_channels`, all uniformly and independently: so there are odd concatenations, blocks that are empty, layers
    that a later skip leaves unused and skips to skips. Seeds 0…23 together hold every pattern, every operation in a
    live layer and every width up to 12 (`test_summary.py` asserts it), and near seeds have nothing in common.

    Args:
        seed: which one; also in the name, "random-<seed>".
        max_channels: the greatest width; 1 leaves an architecture without width, for tests about positions only.
    """
    draw = random.Random(f"modnas_fast {seed}")  # a text seed is hashed by SHA-512, so that near seeds are far apart

    def width() -> int:
        return 1 + int(draw.random() * max_channels)

    def layer(kind: str) -> Layer:
        return Layer(PRIMITIVES[kind][int(draw.random() * len(PRIMITIVES[kind]))], width())

    def block(resample: str | None) -> Block:
        pattern = SKIP_PATTERNS[int(draw.random() * len(SKIP_PATTERNS))]
        layers = tuple(layer("normal") if source is None else Skip(source) for source in pattern)
        return Block(layers, None if resample is None else layer(resample))

    channels = width()
    encoder = [block("down") for _ in range(ENCODER_BLOCKS)]
    decoder = [block("up") for _ in range(DECODER_BLOCKS - 1)] + [block(None)]
    return Genotype(channels, tuple(encoder), tuple(decoder), f"random-{seed}")


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where kernels are tested: on a CPU, Triton's interpreter

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# One element; 1×1 images; fewer and more channels than a tile has, and none of them a power of two; odd and prime
# sizes; rows shorter and longer than a tile's; several tiles an image.
FEATURE_CASES = [
    *((shape, "contiguous") for shape in [(1, 1, 1, 1), (3, 130, 1, 1), (2, 1, 13, 1)]),  # channels_last at once
    *itertools.product([(1, 7, 3, 5), (2, 48, 8, 6), (2, 3, 29, 37)], LAYOUTS),
]


def features(
    count: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, layout: str = "contiguous"
) -> list[Tensor]:
    """Random feature maps on `DEVICE` that require grad."""
    maps = (torch.randn(shape).to(DEVICE, dtype, memory_format=LAYOUTS[layout]) for _ in range(count))
    return [x.requires_grad_() for x in maps]


def raw(*shape: int) -> Tensor:
    """A raw architecture parameter."""
    return torch.randn(shape).to(DEVICE).requires_grad_()
