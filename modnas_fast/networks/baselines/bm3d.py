"""BM3D: block matching and collaborative filtering, the classic that learned denoisers are compared with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.errors import ModnasError
from modnas_fast.networks.baselines.ffdnet import noise_map
from modnas_fast.networks.derived import check_batch

SMALLEST = 16  # at 8×8, a single block, the package's library crashes the process
OPPONENTS = np.array([[1 / 3, 1 / 2, 1 / 4], [1 / 3, 0, -1 / 2], [1 / 3, -1 / 2, 1 / 4]])  # it divides by their ranges


class BM3D(nn.Module):
    """Its authors' implementation, as the PyPI package `bm3d` brings it: no parameters, CPU only, not differentiable.

    The package (free for non-commercial use) is imported at the first call. RGB images whose luma or chroma is
    constant, which it cannot do, run channel by channel.

    Source: K. Dabov, A. Foi, V. Katkovnik, K. Egiazarian, "Image Denoising by Sparse 3-D Transform-Domain Collaborative
    Filtering", IEEE TIP 2007.
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """Float [N, C, H, W] in [0, 1] to the same shape, dtype and device.

        Args:
            y: noisy images; sides below 16 are padded (replicate) and cropped.
            sigma: noise level on the 0–255 scale, one for all images or [N].

        Raises:
            ModnasError: the package is missing.
        """
        check_batch(y, self.channels_in)
        try:
            import bm3d
        except ImportError:
            raise ModnasError("BM3D needs its package: pip install bm3d") from None
        levels = noise_map(sigma, y)[:, 0, 0, 0].tolist()
        height, width = y.shape[-2:]
        padded = F.pad(y.detach(), (0, max(0, SMALLEST - width), 0, max(0, SMALLEST - height)), mode="replicate")
        restored = torch.empty_like(padded)
        for index, image in enumerate(padded.permute(0, 2, 3, 1).double().cpu().numpy()):
            if self.channels_in == 3 and np.ptp(image @ OPPONENTS, axis=(0, 1)).min() > 1e-9:
                planes = bm3d.bm3d_rgb(image, levels[index])
            else:
                planes = np.stack([bm3d.bm3d(plane, levels[index]) for plane in np.moveaxis(image, 2, 0)], axis=2)
            restored[index] = torch.from_numpy(planes).permute(2, 0, 1)
        return restored[..., :height, :width]
