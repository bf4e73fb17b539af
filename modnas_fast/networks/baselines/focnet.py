"""FOCNet: four scales that talk to each other while each remembers all its earlier states by a power law."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.networks.baselines.padding import pad_to
from modnas_fast.networks.derived import check_batch

WIDTH = 128
SCALES = 4
ROUNDS = 4  # from the coarsest scale up to the finest
ORDER = 0.2  # β, of the fractional derivative


class Block(nn.Module):
    """ReLU(batch norm(1×1(3×3(x)))), 128 → 64 → 128 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1, bias=False)
        self.expand = nn.Conv2d(WIDTH // 2, WIDTH, 1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.expand(self.squeeze(x))))


class Step(nn.Module):
    """A scale's next state from its own last one and a neighbour's: f(u + g·n) + the power law's memory of all states.

    n is the neighbour's state, pooled (2×2 maximum) or up-sampled (2×2 transposed conv); g is a learned scalar.
    """

    def __init__(self, upward: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2, bias=False) if upward else None
        self.gate = nn.Parameter(torch.ones(()))
        self.block = Block()

    def forward(self, states: Sequence[Tensor], neighbour: Tensor) -> Tensor:
        moved = F.max_pool2d(neighbour, 2) if self.up is None else self.up(neighbour)
        weights = memory_weights(len(states))
        step = self.block(states[-1] + self.gate * moved)
        for weight, state in zip(weights, states, strict=True):
            step = step + weight * state
        return step


class FOCNet(nn.Module):
    """x̂ = y + out(block(last state of the finest scale)).

    First features: 3×3 conv of 128 channels → ReLU → block; each coarser scale starts with a block on the pooled state
    above. Then four rounds: from the coarsest scale up to the finest, and (but after the last) down again, one `Step`
    each. 26 blocks, four scales, 128 channels.

    As in the released definition, the second of the three descents forgets the newest state of the 1/4 scale first.

    Counts: 2,925,461 parameters, 1.82 G MACs at 48×48; MoD-NAS gives none, and the article neither.

    Source: X. Jia, S. Liu, X. Feng, L. Zhang, "FOCNet: A Fractional Optimal Control Network for Image Denoising", CVPR
    2019, and its released network definition (whose memory layer reverses its weights at every second call; here the
    newest state always weighs most, as the article says).
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.head = nn.Conv2d(channels_in, WIDTH, 3, padding=1)
        self.first = nn.ModuleList(Block() for _ in range(SCALES))
        # Three steps a round, from the coarsest scale up and from the finest down.
        self.ups = nn.ModuleList(Step(upward=True) for _ in range(ROUNDS * (SCALES - 1)))
        self.downs = nn.ModuleList(Step(upward=False) for _ in range((ROUNDS - 1) * (SCALES - 1)))
        self.last = Block()
        self.out = nn.Conv2d(WIDTH, channels_in, 3, padding=1, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape; sides are padded (replicate) to multiples of 8 and cropped."""
        check_batch(y, self.channels_in)
        height, width = y.shape[-2:]
        padded = pad_to(y, 2 ** (SCALES - 1))
        states: list[list[Tensor]] = [[self.first[0](F.relu(self.head(padded)))]]  # [scale][step], finest first
        for block in self.first[1:]:
            states.append([block(F.max_pool2d(states[-1][0], 2))])
        for round_ in range(ROUNDS):
            for index, scale in enumerate(reversed(range(SCALES - 1)), round_ * (SCALES - 1)):
                states[scale].append(self.ups[index](states[scale], states[scale + 1][-1]))
            if round_ == 1:
                states[2].pop()
            if round_ < ROUNDS - 1:
                for index, scale in enumerate(range(1, SCALES), round_ * (SCALES - 1)):
                    states[scale].append(self.downs[index](states[scale], states[scale - 1][-1]))
        return (padded + self.out(self.last(states[0][-1])))[..., :height, :width]


def memory_weights(count: int) -> list[float]:
    """The power law's weights of `count` states, oldest first, that sum to 1.

    Unnormalised, the newest weighs β and a state k steps older w_k = (1 − (1 + β)/(k + 1))·w_{k−1}.
    """
    weights = [ORDER]
    for age in range(1, count):
        weights.append((1 - (1 + ORDER) / (age + 1)) * weights[-1])
    return [weight / sum(weights) for weight in reversed(weights)]
