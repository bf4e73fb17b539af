"""FFDNet: fast and flexible, on a half-size image of four times the channels, told the noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.errors import ModnasError
from modnas_fast.networks.baselines.padding import pad_to
from modnas_fast.networks.derived import check_batch


class FFDNet(nn.Module):
    """x̂ = shuffle(g(unshuffle(y), σ/255)): pixel unshuffle ×½, a plain CNN of 3×3 convs with ReLU, pixel shuffle ×2.

    Gray: 15 convolutions of 64 channels; RGB: 12 of 96. The noise level is one more input channel.

    Counts: gray 485,316 parameters, 0.2792 G MACs at 48×48 (121 k a pixel); RGB 852,108.

    Source: K. Zhang, W. Zuo, L. Zhang, "FFDNet: Toward a Fast and Flexible Solution for CNN based Image Denoising",
    IEEE TIP 2018. State-dict names are those of its published PyTorch files (`model.0.weight`, …).
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in
        width, depth = (64, 15) if channels_in == 1 else (96, 12)
        layers: list[nn.Module] = [nn.Conv2d(4 * channels_in + 1, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 4 * channels_in, 3, padding=1))

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """Float [N, C, H, W] in [0, 1] to the same shape; odd sides are padded (replicate) and cropped.

        Args:
            y: noisy images.
            sigma: noise level on the 0–255 scale, one for all images or [N].
        """
        check_batch(y, self.channels_in)
        height, width = y.shape[-2:]
        halves = F.pixel_unshuffle(pad_to(y, 2), 2)
        x = self.model(torch.cat((halves, noise_map(sigma, halves)), dim=1))
        return F.pixel_shuffle(x, 2)[..., :height, :width]


def noise_map(sigma: float | Tensor, y: Tensor) -> Tensor:
    """σ/255 as a [N, 1, H, W] plane beside `y` [N, C, H, W]; `sigma` is on the 0–255 scale, a number or [N].

    Raises:
        ModnasError: another shape of `sigma`.
    """
    level = torch.as_tensor(sigma, dtype=y.dtype, device=y.device) / 255
    if level.ndim > 1 or level.numel() not in (1, len(y)):
        raise ModnasError(f"sigma has shape {list(level.shape)}; give one number, or one for each of {len(y)} images")
    return level.reshape(-1, 1, 1, 1).expand(len(y), 1, *y.shape[2:])
