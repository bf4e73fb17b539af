"""Every candidate operation of Fig. 1(b)-(d), in plain PyTorch.

All of them map [N, C_in, H, W] to [N, C_out, H', W'], where H' = H in a normal layer, H / 2 in a down-sampling layer
(H even) and 2·H in an up-sampling layer. Every convolution *operation* starts with ReLU, none has batch norm, every
convolution has a bias, and borders are zero-padded. Interpolations have no ReLU.

At ×½ `bilinear` (align_corners=False) equals `area`, and at ×2 `area` equals `nearest`. All stay candidates, since the
paper lists them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.genotype import PRIMITIVES

# The convolutions that operations end in, by name; a residual block ends in two.
LAST_CONVOLUTIONS = frozenset({"conv", "pointwise", "pointwise2", "conv2", "shortcut"})


class PlainConv(nn.Module):
    """ReLU → k×k convolution of stride 1 (`conv_3x3`, `conv_5x5`) or 2 (the down-sampling `conv_3x3`)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(x))


class SeparableConv(nn.Module):
    """Twice ReLU → k×k depthwise → 1×1 (`sep_conv_kxk`, DARTS less batch norm); width changes in the last 1×1."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.depthwise1 = _depthwise(channels_in, kernel)
        self.pointwise1 = nn.Conv2d(channels_in, channels_in, 1)
        self.depthwise2 = _depthwise(channels_in, kernel)
        self.pointwise2 = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise1(self.depthwise1(F.relu(x)))
        return self.pointwise2(self.depthwise2(F.relu(x)))


class DilatedConv(nn.Module):
    """ReLU → k×k depthwise of dilation 2 → 1×1 (`dil_conv_kxk`)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = _depthwise(channels_in, kernel, dilation=2)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self._depthwise_exactly(F.relu(x)))

    def _depthwise_exactly(self, x: Tensor) -> Tensor:
        """The depthwise convolution, in float32 where a CPU would run it in bfloat16.

        There oneDNN's weight gradient of a dilated depthwise convolution is wrong by 10 % and more (torch 2.13).
        """
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.depthwise(x.float())
        return self.depthwise(x)


class ResidualBlock(nn.Module):
    """conv2(ReLU(conv1(ReLU(x)))) + shortcut(x), with 3×3 convolutions and a 1×1 shortcut that is always present."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(F.relu(x)))) + self.shortcut(x)


class InterpolatedConv(nn.Module):
    """Interpolate by ½ or 2, then a 1×1 convolution (`bilinear`, `nearest`, `area`); no ReLU."""

    def __init__(self, channels_in: int, channels_out: int, mode: str, scale: float) -> None:
        super().__init__()
        self.mode = mode
        self.scale = scale
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        # A 1×1 convolution is linear and every interpolation's weights sum to 1, so the two commute exactly: the
        # convolution runs on the smaller side.
        if self.scale < 1:
            return self.pointwise(self._interpolate(x))
        return self._interpolate(self.pointwise(x))

    def _interpolate(self, x: Tensor) -> Tensor:
        align = False if self.mode == "bilinear" else None
        # A size in integers, since torch.export cannot follow the rounding of a float factor.
        size = [side // 2 if self.scale < 1 else side * 2 for side in x.shape[-2:]]
        return F.interpolate(x, size=size, mode=self.mode, align_corners=align)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, scale={self.scale}"


class TransposedConv(nn.Module):
    """ReLU → 3×3 transposed convolution of stride 2, output padding 1 (`deconv_3x3`)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(x))


class SubPixelConv(nn.Module):
    """ReLU → 3×3 convolution to 4·C_out → pixel shuffle ×2 (`sub_pixel`)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(F.relu(x)), 2)


def build_operation(kind: str, op: str, channels_in: int, channels_out: int) -> nn.Module:
    """The module of one candidate.

    Args:
        kind: "normal", "down" or "up", a key of `PRIMITIVES`.
        op: one of `PRIMITIVES[kind]`.
        channels_in, channels_out: widths, at least 1.

    Raises:
        ValueError: `op` is no candidate of that kind.
    """
    if op not in PRIMITIVES[kind]:
        raise ValueError(f"{op!r} is no {kind} operation; choose from {', '.join(PRIMITIVES[kind])}")
    name, _, size = op.rpartition("_")
    if op in ("bilinear", "nearest", "area"):
        return InterpolatedConv(channels_in, channels_out, op, 0.5 if kind == "down" else 2.0)
    if op == "sub_pixel":
        return SubPixelConv(channels_in, channels_out)
    if op == "deconv_3x3":
        return TransposedConv(channels_in, channels_out)
    if op == "res_block_3x3":
        return ResidualBlock(channels_in, channels_out)
    kernel = int(size[0])
    if name == "conv":
        return PlainConv(channels_in, channels_out, kernel, stride=2 if kind == "down" else 1)
    separated = SeparableConv if name == "sep_conv" else DilatedConv
    return separated(channels_in, channels_out, kernel)


def _depthwise(channels: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=channels)
