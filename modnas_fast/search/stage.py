"""One unfolded step of the supernet: its weights, and the walk through its blocks that every backend shares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.genotype import DECODER_BLOCKS, ENCODER_BLOCKS, LAYERS_PER_BLOCK
from modnas_fast.layers import MixedOp
from modnas_fast.reference import relax_ref


class BlockFunctions(NamedTuple):
    """What a backend provides for one block of one stage: its mixed layers as functions.

    A normal layer maps L⁰ … L^{ℓ−1} to L^ℓ, so that a backend can fuse the mixture with the aggregation over depth.
    """

    layers: Sequence[Callable[[Sequence[Tensor]], Tensor]]
    resample: Callable[[Tensor], Tensor] | None


class StageFunctions(NamedTuple):
    """What a backend provides for one stage: its blocks', and how it runs a plain 3×3 convolution of stride 1."""

    blocks: list[BlockFunctions]
    convolve: Callable[[Tensor, nn.Conv2d], Tensor]


class SuperBlock(nn.Module):
    """Weights of one block: a decoder block's `fuse`, every candidate of three normal layers, and of `down` or `up`."""

    def __init__(self, resample: str | None, channels: int, *, fused: bool = False) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(2 * channels, channels, 3, padding=1) if fused else None
        self.layers = nn.ModuleList(MixedOp("normal", channels) for _ in range(LAYERS_PER_BLOCK))
        self.down = MixedOp("down", channels) if resample == "down" else None
        self.up = MixedOp("up", channels) if resample == "up" else None

    def normal_layers(self) -> Iterator[MixedOp]:
        """Layers ℓ = 1…3."""
        return cast("Iterator[MixedOp]", iter(self.layers))

    @property
    def resample(self) -> MixedOp | None:
        """`down` or `up`; none in the last decoder block."""
        return self.up if self.down is None else self.down

    def forward(self, x: Tensor, functions: BlockFunctions) -> Tensor:
        """The last normal layer's output, from its fused input, [N, C, H, W]."""
        history = [x]
        for layer in functions.layers:
            history.append(layer(history))
        return history[-1]


class SuperStage(nn.Module):
    """Weights of one stage, xᵗ = δ·y + (1 − δ)·f(xᵗ⁻¹) (Eq. 6b), every layer C channels wide.

    f is the U-net of `networks.derived.Stage` with all candidates in place of the chosen ones. δ = sigmoid of the
    learned scalar `delta`, which starts at 0 (δ = 0.5).
    """

    def __init__(self, channels: int, channels_in: int) -> None:
        super().__init__()
        self.stem = nn.ModuleList(
            [nn.Conv2d(channels_in, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)]
        )
        self.encoder = nn.ModuleList(SuperBlock("down", channels) for _ in range(ENCODER_BLOCKS))
        last = DECODER_BLOCKS - 1
        self.decoder = nn.ModuleList(
            SuperBlock("up" if index < last else None, channels, fused=index > 0) for index in range(DECODER_BLOCKS)
        )
        self.out = nn.Conv2d(channels, channels_in, 1)
        self.delta = nn.Parameter(torch.zeros(()))

    def blocks(self) -> Iterator[SuperBlock]:
        """EB1-EB3, then DB1-DB4: the order in which they run."""
        return cast("Iterator[SuperBlock]", itertools.chain(self.encoder, self.decoder))

    def denoiser(self, x: Tensor, functions: StageFunctions) -> Tensor:
        """v = f(x), [N, C, H, W] to the same shape, H and W multiples of 8."""
        blocks, convolve = functions
        first, second = cast("Iterator[nn.Conv2d]", iter(self.stem))
        x = convolve(F.relu(convolve(x, first)), second)
        features: list[Tensor] = []
        for block, function in zip(self.encoder, blocks[:ENCODER_BLOCKS], strict=True):
            features.append(block(x, function))
            x = _resample(features[-1], function)
        decoder = cast("Iterator[SuperBlock]", iter(self.decoder))
        for block, function in zip(decoder, blocks[ENCODER_BLOCKS:], strict=True):
            if block.fuse is not None:
                x = convolve(torch.cat((x, features.pop()), dim=1), block.fuse)
            x = _resample(block(x, function), function)
        return self.out(F.relu(x))

    def forward(self, x: Tensor, y: Tensor, functions: StageFunctions) -> Tensor:
        """xᵗ from xᵗ⁻¹ (`x`) and the noisy image (`y`), both [N, C, H, W] with H and W multiples of 8."""
        return relax_ref(self.denoiser(x, functions), y, self.delta)


def _resample(x: Tensor, functions: BlockFunctions) -> Tensor:
    return x if functions.resample is None else functions.resample(x)
