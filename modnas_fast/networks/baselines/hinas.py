"""HiNAS: three searched cells between a stem and a light decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modnas_fast.networks.derived import check_batch

WIDTH = 20  # of a node in the first cell
NODES = 4
WIDTH_FACTORS = (1.0, 1.5, 2.0)
STEM = 64
KINDS = {
    "conv_3x3": (3, 1),
    "sep_conv_3x3": (3, 1),
    "sep_conv_5x5": (5, 1),
    "dil_conv_3x3": (3, 2),
    "dil_conv_5x5": (5, 2),
}

# Two edges a node, (operation, state); states are the cell's two inputs (0 the older), then the nodes.
Cell = Sequence[tuple[str, int]]
STAND_IN: Cell = tuple(("conv_3x3", state) for node in range(NODES) for state in (node, node + 1))


class SearchedCell(nn.Module):
    """Four nodes, each the sum of two operations on earlier states; the output is their concatenation."""

    def __init__(self, cell: Cell, channels: int) -> None:
        super().__init__()
        self.states = [state for _, state in cell]
        self.operations = nn.ModuleList(_operation(name, channels) for name, _ in cell)

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        states = [older, newer]
        for node in range(len(self.operations) // 2):
            first, second = (self.operations[edge](states[self.states[edge]]) for edge in (2 * node, 2 * node + 1))
            states.append(first + second)
        return torch.cat(states[2:], dim=1)


class HiNAS(nn.Module):
    """x̂ = y − decoder(first cell, last cell) after a stem of two 3×3 convs and three cells of growing width.

    Each cell reads the two results before it through leaky ReLU → 1×1 conv. The decoder: 1×1 of the last cell to 128,
    1×1 of the first to 48, concat, two separable 3×3 convs of 128, a 3×3 conv to the image. Batch norm after every conv
    but the last; leaky ReLU of slope 0.2. Operations, each after a leaky ReLU: conv_3x3; dil_conv_3x3, dil_conv_5x5
    (dense, dilation 2); sep_conv_3x3, sep_conv_5x5 (twice depthwise → 1×1).

    The shell is that of the released code (node width 20, factors 1, 1.5, 2). The cells that the search found are
    published only as a figure, so the default is a stand-in: every operation conv_3x3, every node after its two nearest
    states. With it: 331,769 parameters, 0.76 G MACs at 48×48; MoD-NAS's own reproduction has 630k.

    Source: H. Zhang, Y. Li, H. Chen, C. Shen, "Memory-Efficient Hierarchical Neural Architecture Search for Image
    Denoising", CVPR 2020, and its released code.

    Args:
        channels_in: 1 for gray, 3 for RGB.
        cells: one for each of the three cells.
    """

    def __init__(self, channels_in: int = 1, cells: Sequence[Cell] = (STAND_IN,) * len(WIDTH_FACTORS)) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.stem1 = nn.Sequential(*_conv_norm(channels_in, STEM, 3), _activation())
        self.stem2 = nn.Sequential(_activation(), *_conv_norm(STEM, STEM, 3))
        self.cells, self.scalers = nn.ModuleList(), nn.ModuleList()
        older = newer = STEM
        for factor, cell in zip(WIDTH_FACTORS, cells, strict=True):
            channels = int(WIDTH * factor)
            for width in (older, newer):
                self.scalers.append(nn.Sequential(_activation(), *_conv_norm(width, channels, 1)))
            self.cells.append(SearchedCell(cell, channels))
            older, newer = newer, NODES * channels
        self.last = nn.Sequential(_activation(), *_conv_norm(newer, 128, 1), _activation())
        self.first = nn.Sequential(*_conv_norm(int(NODES * WIDTH * WIDTH_FACTORS[0]), 48, 1), _activation())
        self.fuse = nn.Sequential(
            *_separable(176, 128), *_separable(128, 128), nn.Conv2d(128, channels_in, 3, padding=1)
        )

    def forward(self, y: Tensor) -> Tensor:
        """Float [N, C, H, W] in [0, 1], any size, to the same shape."""
        check_batch(y, self.channels_in)
        older = self.stem1(y)
        newer = self.stem2(older)
        outputs: list[Tensor] = []
        for index, cell in enumerate(self.cells):
            scaled = self.scalers[2 * index](older), self.scalers[2 * index + 1](newer)
            older, newer = newer, cell(*scaled)
            outputs.append(newer)
        return y - self.fuse(torch.cat((self.first(outputs[0]), self.last(outputs[-1])), dim=1))


def _activation() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.2)


def _conv_norm(channels_in: int, channels_out: int, kernel: int, dilation: int = 1, groups: int = 1) -> list[nn.Module]:
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(channels_in, channels_out, kernel, 1, padding, dilation, groups, bias=False)
    return [conv, nn.BatchNorm2d(channels_out)]


def _separable(channels_in: int, channels_out: int) -> list[nn.Module]:
    """Depthwise 3×3, then 1×1, each with batch norm and leaky ReLU."""
    depthwise = [*_conv_norm(channels_in, channels_in, 3, groups=channels_in), _activation()]
    return [*depthwise, *_conv_norm(channels_in, channels_out, 1), _activation()]


def _operation(name: str, channels: int) -> nn.Sequential:
    kernel, dilation = KINDS[name]
    if not name.startswith("sep"):
        return nn.Sequential(_activation(), *_conv_norm(channels, channels, kernel, dilation))
    layers: list[nn.Module] = []
    for _ in range(2):
        depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        layers += [_activation(), depthwise, *_conv_norm(channels, channels, 1)]
    return nn.Sequential(*layers)
