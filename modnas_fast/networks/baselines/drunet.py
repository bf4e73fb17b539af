"""DRUNet: a U-Net of residual blocks without any bias, told the noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modnas_fast.networks.baselines.ffdnet import noise_map
from modnas_fast.networks.baselines.padding import pad_to
from modnas_fast.networks.derived import check_batch

WIDTHS = (64, 128, 256, 512)
BLOCKS = 4


class ResBlock(nn.Module):
    """x + conv(ReLU(conv(x))), 3×3, no biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.res = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


class DRUNet(nn.Module):
    """Head 3×3 (image and σ/255 in); three scales of four residual blocks; a body of four; sums as skips; tail 3×3.

    Widths 64, 128, 256, 512; down by 2×2 convs of stride 2, up by 2×2 transposed ones; no biases.

    Counts: gray 32,638,656 parameters, 4.87 G MACs at 48×48 (2115 k a pixel); RGB 32,640,960.

    Source: K. Zhang, Y. Li, W. Zuo, L. Zhang, L. Van Gool, R. Timofte, "Plug-and-Play Image Restoration with Deep
    Denoiser Prior", IEEE TPAMI 2021. State-dict names are those of its published files (`m_head`, `m_down1.0.res.0`).
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in
        a, b, c, d = WIDTHS
        self.m_head = nn.Conv2d(channels_in + 1, a, 3, padding=1, bias=False)
        self.m_down1, self.m_down2, self.m_down3 = _down(a, b), _down(b, c), _down(c, d)
        self.m_body = nn.Sequential(*(ResBlock(d) for _ in range(BLOCKS)))
        self.m_up3, self.m_up2, self.m_up1 = _up(d, c), _up(c, b), _up(b, a)
        self.m_tail = nn.Conv2d(a, channels_in, 3, padding=1, bias=False)

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape; sides are padded (replicate) to multiples of 8 and cropped.

        Args:
            y: noisy images.
            sigma: noise level on the 0–255 scale, one for all images or [N].
        """
        check_batch(y, self.channels_in)
        height, width = y.shape[-2:]
        padded = pad_to(y, 8)
        x1 = self.m_head(torch.cat((padded, noise_map(sigma, padded)), dim=1))
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        x = self.m_up3(self.m_body(x4) + x4)
        x = self.m_up1(self.m_up2(x + x3) + x2)
        return self.m_tail(x + x1)[..., :height, :width]


def _down(channels_in: int, channels_out: int) -> nn.Sequential:
    blocks = (ResBlock(channels_in) for _ in range(BLOCKS))
    return nn.Sequential(*blocks, nn.Conv2d(channels_in, channels_out, 2, stride=2, bias=False))


def _up(channels_in: int, channels_out: int) -> nn.Sequential:
    blocks = (ResBlock(channels_out) for _ in range(BLOCKS))
    return nn.Sequential(nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2, bias=False), *blocks)
