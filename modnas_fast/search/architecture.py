"""What the search learns besides weights: which operation, how wide, how deep.

| raw parameter | where | shape | activated | paper |
|---|---|---|---|---|
| `alpha` | every normal, down- and up-sampling layer | [K] | ω = softmax(α), `alpha_weights` | Eq. 7 |
| `beta` | the same; one gate an output channel of every candidate | [K, C] | as it is | Eq. 8, 10 |
| `gamma` | normal layer ℓ = 1…3 of a block | [ℓ + 1] | p = softmax(γ), `gamma_weights` | Eq. 11 |

`alpha` and `gamma` start at 0, so that all operations and depths count the same, and `beta` at 1. No noise: the
candidates' random weights break the symmetry. δ, one a stage, belongs to the stage's weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from modnas_fast.genotype import DECODER_BLOCKS, ENCODER_BLOCKS, LAYERS_PER_BLOCK, PRIMITIVES


class MixtureParameters(nn.Module):
    """α and β of a down- or up-sampling layer.

    Args:
        kind: a key of `PRIMITIVES`.
        channels: C.
    """

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(len(PRIMITIVES[kind])))
        self.beta = nn.Parameter(torch.ones(len(PRIMITIVES[kind]), channels))

    @property
    def alpha_weights(self) -> Tensor:
        """ω = softmax(α), [K]."""
        return self.alpha.softmax(0)


class NormalLayerParameters(MixtureParameters):
    """α, β and γ of normal layer ℓ = `depth` of a block."""

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__("normal", channels)
        self.gamma = nn.Parameter(torch.zeros(depth + 1))

    @property
    def gamma_weights(self) -> Tensor:
        """p = softmax(γ), [ℓ + 1]: of L⁰ … L^{ℓ−1}, then of the layer's own mixture."""
        return self.gamma.softmax(0)


class BlockParameters(nn.Module):
    """The three normal layers and the resampling layer, named `down` or `up`, of one block."""

    def __init__(self, resample: str | None, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(NormalLayerParameters(depth, channels) for depth in range(1, LAYERS_PER_BLOCK + 1))
        self.down = MixtureParameters("down", channels) if resample == "down" else None
        self.up = MixtureParameters("up", channels) if resample == "up" else None

    def normal_layers(self) -> Iterator[NormalLayerParameters]:
        """Layers ℓ = 1…3."""
        return cast("Iterator[NormalLayerParameters]", iter(self.layers))

    @property
    def resample(self) -> MixtureParameters | None:
        """`down` or `up`; none in the last decoder block."""
        return self.up if self.down is None else self.down


class Architecture(nn.Module):
    """α, β and γ of all blocks: EB1-EB3 in `encoder`, DB1-DB4 in `decoder`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(BlockParameters("down", channels) for _ in range(ENCODER_BLOCKS))
        last = DECODER_BLOCKS - 1
        self.decoder = nn.ModuleList(
            BlockParameters("up" if index < last else None, channels) for index in range(DECODER_BLOCKS)
        )

    def blocks(self) -> Iterator[BlockParameters]:
        """EB1-EB3, then DB1-DB4: the order in which they run."""
        return cast("Iterator[BlockParameters]", itertools.chain(self.encoder, self.decoder))
