"""What training minimises: a mean of some distance between restored and clean."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

_CHARBONNIER_EPSILON = 1e-3
_PSNR_EPSILON = 1e-5


def charbonnier_loss(restored: Tensor, clean: Tensor) -> Tensor:
    """mean √((x − y)² + ε²), ε = 10⁻³ on the [0, 1] scale: L1, smooth at zero (Charbonnier et al., ICIP 1994)."""
    return ((restored - clean).square() + _CHARBONNIER_EPSILON**2).sqrt().mean()


def psnr_loss(restored: Tensor, clean: Tensor) -> Tensor:
    """−PSNR in hundreds of dB, a mean over images: lg(MSE + ε) / 10, ε = 10⁻⁵ on the [0, 1] scale.

    So every image counts as much as it does in a mean of PSNR, whatever its noise; by `mse` one of σ = 50 counts 3.5
    times as much as one of 15. ε is the MSE of 50 dB, below which more is not asked for. Hundreds, so that gradients
    are as large as those of the other losses, and may be clipped alike. NAFNet (Chen et al., ECCV 2022) has it with
    ε = 10⁻⁸.
    """
    mse = (restored - clean).square().mean(dim=(1, 2, 3))
    return (mse + _PSNR_EPSILON).log10().mean() / 10


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "charbonnier": charbonnier_loss,
    "psnr": psnr_loss,
}
