"""VDN: variational denoising of real noise; at inference, a U-Net."""

from __future__ import annotations

from torch import Tensor, nn

from modnas_fast.networks.baselines.padding import pad_to
from modnas_fast.networks.baselines.unet import UNet
from modnas_fast.networks.derived import check_batch

WIDTH, DEPTH = 64, 4


class VDN(nn.Module):
    """x̂ = y − μ(y); μ is the first half of what a U-Net of four scales (64, 128, 256, 512 channels) gives.

    The second half is the posterior's log variance; it and the sigma network, which training alone has use for, do not
    change x̂, and the sigma network (116,038 parameters) is left out.

    Counts: 7,700,742 parameters, RGB. MoD-NAS gives 2325k (ours is 3.3 times that), which neither this network nor the
    whole of the released code, 7817k, has.

    Source: Z. Yue, H. Yong, Q. Zhao, L. Zhang, D. Meng, "Variational Denoising Network: Toward Blind Noise Modeling and
    Removal", NeurIPS 2019, and its released code. State-dict names are those of its files (`DNet.down_path`).
    """

    def __init__(self, channels_in: int = 3) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.DNet = UNet(channels_in, 2 * channels_in, WIDTH, DEPTH, strided=False)

    def forward(self, y: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape; sides are padded (replicate) to multiples of 8 and cropped."""
        check_batch(y, self.channels_in)
        noise = self.DNet(pad_to(y, 2 ** (DEPTH - 1)))
        return y - noise[:, : self.channels_in, : y.shape[2], : y.shape[3]]
