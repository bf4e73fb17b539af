"""NAFNet of width 32: a U-Net of blocks without nonlinear activation functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.networks.baselines.padding import pad_to
from modnas_fast.networks.derived import check_batch

WIDTH = 32
ENCODER_BLOCKS = (2, 2, 4, 8)
MIDDLE_BLOCKS = 12
DECODER_BLOCKS = (2, 2, 2, 2)


class ChannelNorm(nn.Module):
    """Layer normalisation of every pixel over its channels, [N, C, H, W]; ε = 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


class NAFBlock(nn.Module):
    """Two residual halves, gate(a, b) = a·b over the channels' halves in both, and β, γ that start at zero:

    y = x + β·conv3(s(gate(dw3×3(1×1(norm(x)))))), s(u) = u · 1×1(mean(u)) over the whole image;
    z = y + γ·1×1(gate(1×1(norm(y)))).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        doubled = 2 * channels
        self.conv1 = nn.Conv2d(channels, doubled, 1)
        self.conv2 = nn.Conv2d(doubled, doubled, 3, padding=1, groups=doubled)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.conv4 = nn.Conv2d(channels, doubled, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        inner = gate(self.conv2(self.conv1(self.norm1(x))))
        y = x + self.beta * self.conv3(inner * self.sca(inner))
        return y + self.gamma * self.conv5(gate(self.conv4(self.norm2(y))))


class NAFNet(nn.Module):
    """x̂ = y + ending(U(intro(y))): encoders of 2, 2, 4, 8 blocks, 12 in the middle, decoders of 2; sums as skips.

    Down by 2×2 convs of stride 2 that double the width; up by 1×1 convs and pixel shuffle. Blind: trained on pairs.

    Counts: RGB 29,159,715 parameters, 0.57 G MACs at 48×48 (245 k a pixel); gray 29,158,561.

    Source: L. Chen, X. Chu, X. Zhang, J. Sun, "Simple Baselines for Image Restoration", ECCV 2022, and the SIDD setting
    of its published options. State-dict names are those of its files (`intro`, `encoders.0.0.conv1`, … under "params").
    """

    def __init__(self, channels_in: int = 3) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.intro = nn.Conv2d(channels_in, WIDTH, 3, padding=1)
        self.ending = nn.Conv2d(WIDTH, channels_in, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        self.decoders, self.ups = nn.ModuleList(), nn.ModuleList()
        width = WIDTH
        for count in ENCODER_BLOCKS:
            self.encoders.append(_blocks(count, width))
            self.downs.append(nn.Conv2d(width, 2 * width, 2, stride=2))
            width *= 2
        self.middle_blks = _blocks(MIDDLE_BLOCKS, width)
        for count in DECODER_BLOCKS:
            self.ups.append(nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2)))
            width //= 2
            self.decoders.append(_blocks(count, width))

    def forward(self, y: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape; sides are padded (zeros, as published) to multiples of 16."""
        check_batch(y, self.channels_in)
        height, width = y.shape[-2:]
        padded = pad_to(y, 2 ** len(ENCODER_BLOCKS), "constant")
        x = self.intro(padded)
        features: list[Tensor] = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            features.append(encoder(x))
            x = down(features[-1])
        x = self.middle_blks(x)
        for decoder, up in zip(self.decoders, self.ups, strict=True):
            x = decoder(up(x) + features.pop())
        return (self.ending(x) + padded)[..., :height, :width]


def gate(x: Tensor) -> Tensor:
    """The product of the channels' halves, [N, 2C, H, W] to [N, C, H, W]."""
    first, second = x.chunk(2, dim=1)
    return first * second


def _blocks(count: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(channels) for _ in range(count)))
