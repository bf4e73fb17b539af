"""MemNet: memory blocks that keep every earlier state and gate them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modnas_fast.networks.derived import check_batch

WIDTH = 64
MEMORY_BLOCKS = 6
RECURSIONS = 6


class ResidualUnit(nn.Module):
    """x + f(f(x)); f is batch norm → ReLU → 3×3 conv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _preactivated(channels, channels, 3), _preactivated(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class MemoryBlock(nn.Module):
    """Six residual units in a row; a 1×1 gate reads all their outputs and those of all earlier blocks."""

    def __init__(self, earlier: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(ResidualUnit(WIDTH) for _ in range(RECURSIONS))
        self.gate = _preactivated((RECURSIONS + earlier) * WIDTH, WIDTH, 1)

    def forward(self, memories: list[Tensor]) -> Tensor:
        """`memories`: the first features and the outputs of the blocks before, of which the last is refined."""
        states = [memories[-1]]
        for unit in self.units:
            states.append(unit(states[-1]))
        return self.gate(torch.cat(states[1:] + memories, dim=1))


class MemNet(nn.Module):
    """x̂ = Σ_m w_m·(y + R(B_m)) / Σ_m w_m over the outputs B_m of six memory blocks: the multi-supervised form.

    First features and R (reconstruction) are batch norm → ReLU → 3×3 conv; w_m are learned. 80 layers of 64 channels.

    Counts: 2,905,480 parameters, 6.66 G MACs at 48×48; MoD-NAS gives 2905k and 6.69 G (its parameters × 48², norms
    included). The article counts 677k, one unit's weights for all six recursions of a block; its released definition,
    which MoD-NAS's number belongs to, has weights for each.

    Source: Y. Tai, J. Yang, X. Liu, C. Xu, "MemNet: A Persistent Memory Network for Image Restoration", ICCV 2017, and
    its released network definition; without its conv biases (5,057), as the count says.
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.extract = _preactivated(channels_in, WIDTH, 3)
        self.blocks = nn.ModuleList(MemoryBlock(earlier) for earlier in range(1, MEMORY_BLOCKS + 1))
        self.reconstruct = _preactivated(WIDTH, channels_in, 3)
        self.output_weights = nn.Parameter(torch.full((MEMORY_BLOCKS,), 1 / MEMORY_BLOCKS))

    def forward(self, y: Tensor) -> Tensor:
        """Float [N, C, H, W] in [0, 1], any size, to the same shape."""
        check_batch(y, self.channels_in)
        memories = [self.extract(y)]
        for block in self.blocks:
            memories.append(block(memories))
        residuals = torch.stack([self.reconstruct(memory) for memory in memories[1:]], dim=-1)  # [N, C, H, W, 6]
        return y + (residuals * (self.output_weights / self.output_weights.sum())).sum(-1)


def _preactivated(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(), conv)
