"""RDN: densely connected blocks whose every output is fused at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modnas_fast.networks.derived import check_batch

WIDTH = 64  # G0
GROWTH = 64  # G
BLOCKS = 16  # D
CONVS = 8  # C, of a block


class ResidualDenseBlock(nn.Module):
    """x + 1×1(concat(x, h_1, …, h_8)); h_c = ReLU(3×3 conv of concat(x, h_1, …, h_{c−1})) has 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(WIDTH + c * GROWTH, GROWTH, 3, padding=1) for c in range(CONVS))
        self.fuse = nn.Conv2d(WIDTH + CONVS * GROWTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        states = x
        for conv in self.convs:
            states = torch.cat((states, conv(states).relu()), dim=1)
        return x + self.fuse(states)


class RDN(nn.Module):
    """x̂ = y + out(s₁ + 3×3(1×1(concat(d_1, …, d_16)))); s₁ = 3×3(y), d_0 = 3×3(s₁), d_i = block_i(d_{i−1}).

    Counts (gray): 21,973,377 parameters, 50.60 G MACs at 48×48; MoD-NAS gives 21970k and 50.6 G (0.02 % fewer).

    Source: Y. Zhang, Y. Tian, Y. Kong, B. Zhong, Y. Fu, "Residual Dense Network for Image Restoration", IEEE TPAMI
    2021: D = 16, C = 8, G = G0 = 64 and, for denoising, no up-sampling but a global residual.
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.shallow1 = nn.Conv2d(channels_in, WIDTH, 3, padding=1)
        self.shallow2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualDenseBlock() for _ in range(BLOCKS))
        self.fuse = nn.Sequential(nn.Conv2d(BLOCKS * WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
        self.out = nn.Conv2d(WIDTH, channels_in, 3, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        """Float [N, C, H, W] in [0, 1], any size, to the same shape."""
        check_batch(y, self.channels_in)
        shallow = self.shallow1(y)
        x = self.shallow2(shallow)
        states: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return y + self.out(shallow + self.fuse(torch.cat(states, dim=1)))
