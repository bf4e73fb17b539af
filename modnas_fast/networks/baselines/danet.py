"""DANet: a U-Net denoiser of real noise, trained against a noise generator."""

from __future__ import annotations

from torch import Tensor, nn

from modnas_fast.networks.baselines.padding import pad_to
from modnas_fast.networks.baselines.unet import UNet
from modnas_fast.networks.derived import check_batch

WIDTH, DEPTH = 32, 5


class DANet(nn.Module):
    """x̂ = y − U(y); U is a U-Net of five scales (32, 64, 128, 256, 512 channels), down by 4×4 convs of stride 2.

    Counts: 9,153,571 parameters, RGB, as MoD-NAS's 9154k.

    Source: Z. Yue, Q. Zhao, L. Zhang, D. Meng, "Dual Adversarial Network: Toward Real-world Noise Removal and Noise
    Generation", ECCV 2020, and its released code, whose files have these names but for `unet.`, under "D" in one.
    """

    def __init__(self, channels_in: int = 3) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.unet = UNet(channels_in, channels_in, WIDTH, DEPTH, strided=True)

    def forward(self, y: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape; sides are padded (replicate) to multiples of 16 and cropped."""
        check_batch(y, self.channels_in)
        return y - self.unet(pad_to(y, 2 ** (DEPTH - 1)))[..., : y.shape[2], : y.shape[3]]


AUTHORS_KEYS = ((r"^(?=down_path\.|up_path\.|last\.)", "unet."),)
