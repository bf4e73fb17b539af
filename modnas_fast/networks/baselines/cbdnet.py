"""CBDNet: a CNN estimates the noise level at every pixel, a U-Net removes the noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.networks.baselines.padding import pad_to
from modnas_fast.networks.derived import check_batch


class CBDNet(nn.Module):
    """x̂ = y + U(concat(y, E(y))).

    E: five 3×3 convs of 32 channels with ReLU. U: 64 channels twice, mean pooling, 128 three times, mean pooling, 256
    six times; up by 2×2 transposed convs and sums with the encoder's features, 128 three times, 64 twice; then 1×1.

    Counts: 4,365,382 parameters (RGB); MoD-NAS gives 4346k, 0.4 % fewer.

    Source: S. Guo, Z. Yan, K. Zhang, W. Zuo, L. Zhang, "Toward Convolutional Blind Denoising of Real Photographs", CVPR
    2019, in the PyTorch port known as CBDNet-pytorch (the original is in MATLAB), whose files say `fcn.fcn.0`,
    `unet.inc.0.conv.0`, … under "state_dict".
    """

    def __init__(self, channels_in: int = 3) -> None:
        super().__init__()
        self.channels_in = channels_in
        estimator: list[nn.Module] = []
        for before, after in ((channels_in, 32), (32, 32), (32, 32), (32, 32), (32, channels_in)):
            estimator += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        self.estimator = nn.Sequential(*estimator)
        self.enter = _convs(2 * channels_in, 64, 2)
        self.down1, self.down2 = _convs(64, 128, 3), _convs(128, 256, 6)
        self.up1 = nn.ConvTranspose2d(256, 128, 2, stride=2)
        self.merge1 = _convs(128, 128, 3)
        self.up2 = nn.ConvTranspose2d(128, 64, 2, stride=2)
        self.merge2 = _convs(64, 64, 2)
        self.out = nn.Conv2d(64, channels_in, 1)

    def forward(self, y: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape; sides are padded (replicate) to multiples of 4 and cropped."""
        check_batch(y, self.channels_in)
        padded = pad_to(y, 4)
        full = self.enter(torch.cat((padded, self.estimator(padded)), dim=1))
        half = self.down1(F.avg_pool2d(full, 2))
        x = self.down2(F.avg_pool2d(half, 2))
        x = self.merge1(self.up1(x) + half)
        x = self.merge2(self.up2(x) + full)
        return y + self.out(x)[..., : y.shape[2], : y.shape[3]]


def _convs(channels_in: int, channels_out: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(count):
        layers += [nn.Conv2d(channels_out if index else channels_in, channels_out, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


_STAGES = {"inc": "enter", "conv1": "down1", "conv2": "down2", "conv3": "merge1", "conv4": "merge2"}
AUTHORS_KEYS = (
    (r"^fcn\.fcn\.", "estimator."),
    *(
        (rf"^unet\.{theirs}\.{index}\.conv\.0\.", f"{ours}.{2 * index}.")
        for theirs, ours in _STAGES.items()
        for index in range(6)
    ),
    (r"^unet\.up(\d)\.up\.", r"up\1."),
    (r"^unet\.outc\.conv\.", "out."),
)
