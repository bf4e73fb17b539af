"""SCUNet: a U-Net whose blocks halve the channels between a residual convolution and Swin attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modnas_fast.networks.baselines.padding import pad_to
from modnas_fast.networks.derived import check_batch

WIDTH = 64
BLOCKS = 4
WINDOW = 8
HEAD = 32  # channels an attention head


class WindowAttention(nn.Module):
    """Self-attention within 8×8 windows, heads of 32 channels and learned relative positions; [N, H, W, C] to the same.

    Shifted, the windows start 4 pixels later, cyclically; pixels that the cycle brought together do not see each other.
    """

    def __init__(self, channels: int, shifted: bool) -> None:
        super().__init__()
        self.shift = WINDOW // 2 if shifted else 0
        self.embedding_layer = nn.Linear(channels, 3 * channels)
        self.relative_position_params = nn.Parameter(torch.zeros(channels // HEAD, 2 * WINDOW - 1, 2 * WINDOW - 1))
        nn.init.trunc_normal_(self.relative_position_params, std=0.02)
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        images, height, width, channels = x.shape
        x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        x = _windows(x)  # [N, windows, 64, C]
        parts = self.embedding_layer(x).unflatten(-1, (3, channels // HEAD, HEAD))
        query, key, value = parts.permute(3, 0, 1, 4, 2, 5).unbind(0)  # [N, windows, heads, 64, 32]
        similarity = query @ key.transpose(-2, -1) * HEAD**-0.5 + self._positions()
        if self.shift:
            apart = self._apart(height, width, x.device)
            similarity = similarity.masked_fill(apart[:, None], float("-inf"))
        x = (similarity.softmax(-1) @ value).transpose(2, 3).flatten(3)  # [N, windows, 64, C]
        x = self.linear(x).view(images, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
        x = x.transpose(2, 3).reshape(images, height, width, channels)
        return torch.roll(x, (self.shift, self.shift), dims=(1, 2))

    def _positions(self) -> Tensor:
        """[heads, 64, 64]: what each pixel pair of a window adds for where they lie."""
        place = torch.arange(WINDOW, device=self.relative_position_params.device)
        offset = place[:, None] - place + WINDOW - 1
        rows, columns = offset[:, None, :, None], offset[None, :, None, :]
        return self.relative_position_params[:, rows, columns].reshape(-1, WINDOW**2, WINDOW**2)

    def _apart(self, height: int, width: int, device: torch.device) -> Tensor:
        """[windows, 64, 64]: which pixels of a window come from opposite sides of the image."""
        rows = (torch.arange(height, device=device) >= height - self.shift).int()
        columns = (torch.arange(width, device=device) >= width - self.shift).int()
        side = _windows((2 * rows[:, None] + columns)[None, :, :, None])[0, :, :, 0]  # [windows, 64]
        return side[:, :, None] != side[:, None, :]


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) with four times the width and GELU; [N, H, W, C]."""

    def __init__(self, channels: int, shifted: bool) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.msa = WindowAttention(channels, shifted)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.msa(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class ConvTransBlock(nn.Module):
    """x + 1×1(concat(c + conv(ReLU(conv(c))), transformer(t))), where (c, t) are the halves of 1×1(x)."""

    def __init__(self, channels: int, shifted: bool) -> None:
        super().__init__()
        half = channels // 2
        self.trans_block = TransformerBlock(half, shifted)
        self.conv1_1, self.conv1_2 = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        first, second = (nn.Conv2d(half, half, 3, padding=1, bias=False) for _ in range(2))
        self.conv_block = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        local, distant = self.conv1_1(x).chunk(2, dim=1)
        local = local + self.conv_block(local)
        distant = self.trans_block(distant.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.conv1_2(torch.cat((local, distant), dim=1))


class SCUNet(nn.Module):
    """Head 3×3; three scales of four blocks, every second shifted; a body of four; sums as skips; tail 3×3.

    Widths 64, 128, 256, 512; down by 2×2 convs of stride 2, up by 2×2 transposed ones. One model a noise level.

    Counts: 17,943,768 parameters in gray, 17,946,072 in RGB; 1199 k MACs a pixel, where sides are multiples of 64.

    Source: K. Zhang, Y. Li, J. Liang, J. Cao, Y. Zhang, H. Tang, D.-P. Fan, R. Timofte, L. Van Gool, "Practical Blind
    Image Denoising via Swin-Conv-UNet and Data Synthesis", Machine Intelligence Research 2023. State-dict names are
    those of its published files (`m_head.0`, `m_down1.0.trans_block.msa.linear`, …).
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in
        a, b, c, d = WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH
        self.m_head = nn.Sequential(nn.Conv2d(channels_in, a, 3, padding=1, bias=False))
        self.m_down1, self.m_down2, self.m_down3 = _down(a, b), _down(b, c), _down(c, d)
        self.m_body = nn.Sequential(*_blocks(d))
        self.m_up3, self.m_up2, self.m_up1 = _up(d, c), _up(c, b), _up(b, a)
        self.m_tail = nn.Sequential(nn.Conv2d(a, channels_in, 3, padding=1, bias=False))

    def forward(self, y: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape; sides are padded (replicate) to multiples of 64 and cropped."""
        check_batch(y, self.channels_in)
        height, width = y.shape[-2:]
        x1 = self.m_head(pad_to(y, 64))
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        x = self.m_up3(self.m_body(x4) + x4)
        x = self.m_up1(self.m_up2(x + x3) + x2)
        return self.m_tail(x + x1)[..., :height, :width]


def _windows(x: Tensor) -> Tensor:
    """[N, H, W, C] to [N, windows, 64, C], windows and pixels row by row."""
    x = x.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _blocks(channels: int) -> list[nn.Module]:
    return [ConvTransBlock(channels, shifted=index % 2 == 1) for index in range(BLOCKS)]


def _down(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(*_blocks(channels_in), nn.Conv2d(channels_in, channels_out, 2, stride=2, bias=False))


def _up(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2, bias=False), *_blocks(channels_out))
