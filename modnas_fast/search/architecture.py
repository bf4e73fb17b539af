"""What the search learns besides weights: which operation, how wide, how deep.

| raw parameter | where | shape | activated | paper |
|---|---|---|---|---|
| `alpha` | every normal, down- and up-sampling layer | [K] | ω = softmax(α), `alpha_weights` | Eq. 7 |
| `beta` | the same; one gate an output channel of every candidate | [K, C] | as it is | Eq. 8, 10 |
| `gamma` | normal layer ℓ = 1…3 of a block | [ℓ + 1] | p = softmax(γ), `gamma_weights` | Eq. 11 |

`alpha` and `gamma` start at 0, so that all operations and depths count the same, and `beta` at 1. No noise: the
candidates' random weights break the symmetry. δ, one a stage, belongs to the stage's weights.

Depth may be searched in the way that the paper compares with (Fig. 4): "skip" is one more candidate, the identity,
in place of γ. Such a layer has an `alpha` of K + 1 entries, the skip's last, and s = softmax(α) is the same mixture

    L^ℓ = s_skip·L^{ℓ−1} + Σₒ sₒ·βₒ ⊙ o(L^{ℓ−1}) = p_{ℓ−1}·L^{ℓ−1} + p_ℓ·Σₒ ωₒ·βₒ ⊙ o(L^{ℓ−1})

with p_{ℓ−1} = s_skip, p_ℓ = 1 − s_skip and ω = softmax(α_1…α_K): `alpha_weights` and `gamma_weights` give those.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import DECODER_BLOCKS, ENCODER_BLOCKS, LAYERS_PER_BLOCK, PRIMITIVES

DEPTH_SEARCHES = ("dense", "skip")


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
    """α, β and γ of normal layer ℓ = `depth` of a block; `gamma` is None where the skip is a candidate."""

    def __init__(self, depth: int, channels: int, depth_search: str = "dense") -> None:
        super().__init__("normal", channels)
        self.depth = depth
        self.gamma = nn.Parameter(torch.zeros(depth + 1)) if depth_search == "dense" else None
        if self.gamma is None:
            self.alpha = nn.Parameter(torch.zeros(len(PRIMITIVES["normal"]) + 1))

    @property
    def alpha_weights(self) -> Tensor:
        """ω of the K operations, [K]."""
        return self.alpha[: len(PRIMITIVES["normal"])].softmax(0)

    @property
    def gamma_weights(self) -> Tensor:
        """p, [ℓ + 1]: of L⁰ … L^{ℓ−1}, then of the layer's own mixture."""
        return _skip_depth(self.alpha, self.depth) if self.gamma is None else self.gamma.softmax(0)


class BlockParameters(nn.Module):
    """The three normal layers and the resampling layer, named `down` or `up`, of one block."""

    def __init__(self, resample: str | None, channels: int, depth_search: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            NormalLayerParameters(depth, channels, depth_search) for depth in range(1, LAYERS_PER_BLOCK + 1)
        )
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
    """α, β and γ of all blocks: EB1-EB3 in `encoder`, DB1-DB4 in `decoder`.

    Args:
        channels: C.
        depth_search: "dense", the paper's γ, or "skip", one more candidate instead.

    Raises:
        ModnasError: another `depth_search`.
    """

    def __init__(self, channels: int, depth_search: str = "dense") -> None:
        super().__init__()
        if depth_search not in DEPTH_SEARCHES:
            raise ModnasError(f"depth_search is {depth_search!r}; choose {' or '.join(DEPTH_SEARCHES)}")
        self.depth_search = depth_search
        self.encoder = nn.ModuleList(BlockParameters("down", channels, depth_search) for _ in range(ENCODER_BLOCKS))
        last = DECODER_BLOCKS - 1
        self.decoder = nn.ModuleList(
            BlockParameters("up" if index < last else None, channels, depth_search) for index in range(DECODER_BLOCKS)
        )

    def blocks(self) -> Iterator[BlockParameters]:
        """EB1-EB3, then DB1-DB4: the order in which they run."""
        return cast("Iterator[BlockParameters]", itertools.chain(self.encoder, self.decoder))

    def mixtures(self, kind: str) -> list[MixtureParameters]:
        """The M layers of a kind, a key of `PRIMITIVES`, in the order in which they run."""
        if kind == "normal":
            return [layer for block in self.blocks() for layer in block.normal_layers()]
        resamples = (block.down if kind == "down" else block.up for block in self.blocks())
        return [layer for layer in resamples if layer is not None]

    def alpha_weights(self, kind: str, dtype: torch.dtype | None = None) -> Tensor:
        """ω of all M layers of a kind by a single softmax, [M, K], in `dtype` where one is given."""
        alpha = torch.stack([layer.alpha for layer in self.mixtures(kind)])
        return alpha[:, : len(PRIMITIVES[kind])].softmax(1, dtype)

    def beta(self, kind: str) -> Tensor:
        """β of all M layers of a kind, [M, K, C]."""
        return torch.stack([layer.beta for layer in self.mixtures(kind)])

    def gamma_weights(self, dtype: torch.dtype | None = None) -> list[Tensor]:
        """p of normal layers ℓ = 1…3 of all B blocks, each [B, ℓ + 1], in `dtype` where one is given."""
        layers = zip(*(block.normal_layers() for block in self.blocks()), strict=True)
        if self.depth_search == "dense":
            return [_stack(layer, "gamma").softmax(1, dtype) for layer in layers]
        return [_skip_depth(_stack(layer, "alpha"), depth, dtype) for depth, layer in enumerate(layers, 1)]


def _stack(layers: Iterable[nn.Module], name: str) -> Tensor:
    return torch.stack([layer.get_parameter(name) for layer in layers])


def _skip_depth(alpha: Tensor, depth: int, dtype: torch.dtype | None = None) -> Tensor:
    """p from an α that ends in the skip's: [..., K + 1] to [..., ℓ + 1]."""
    share = alpha.softmax(-1, dtype)
    return F.pad(torch.stack((share[..., -1], share[..., :-1].sum(-1)), -1), (depth - 1, 0))
