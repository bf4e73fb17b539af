"""The U-Net that VDN and DANet share but for width, depth and the way down."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DoubleConv(nn.Module):
    """Twice 3×3 conv → leaky ReLU of slope 0.2; `downsample`, where asked for, is a 4×4 conv of stride 2."""

    def __init__(self, channels_in: int, channels_out: int, strided: bool = False) -> None:
        super().__init__()
        first, second = (
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
        )
        self.block = nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2))
        self.downsample = nn.Conv2d(channels_out, channels_out, 4, 2, 1, bias=False) if strided else None

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)

    def down(self, x: Tensor) -> Tensor:
        """Half the size, of this block's output."""
        return F.avg_pool2d(x, 2) if self.downsample is None else self.downsample(x)


class UpBlock(nn.Module):
    """2×2 transposed conv of stride 2, concat with the encoder's feature, `DoubleConv`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2)
        self.conv_block = DoubleConv(channels_in, channels_out)

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        return self.conv_block(torch.cat((self.up(x), feature), dim=1))


class UNet(nn.Module):
    """[N, C, H, W] to [N, channels_out, H, W]; sides must be multiples of 2^(depth − 1).

    Args:
        channels_in: of the image.
        channels_out: of the 3×3 conv at the end.
        width: of the finest scale; every scale below doubles it.
        depth: scales.
        strided: down by learned convolutions instead of 2×2 means.
    """

    def __init__(self, channels_in: int, channels_out: int, width: int, depth: int, strided: bool) -> None:
        super().__init__()
        widths = [width * 2**scale for scale in range(depth)]
        self.down_path = nn.ModuleList(
            DoubleConv(before, after, strided and after != widths[-1])
            for before, after in zip([channels_in, *widths[:-1]], widths, strict=True)
        )
        self.up_path = nn.ModuleList(UpBlock(2 * after, after) for after in reversed(widths[:-1]))
        self.last = nn.Conv2d(width, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.down_path[0](x)]
        for above, block in zip(self.down_path, self.down_path[1:], strict=False):
            assert isinstance(above, DoubleConv)
            features.append(block(above.down(features[-1])))
        x = features.pop()
        for block in self.up_path:
            x = block(x, features.pop())
        return self.last(x)
