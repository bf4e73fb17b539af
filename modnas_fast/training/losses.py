"""What training minimises: a mean over all pixels of some distance between restored and clean."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

_CHARBONNIER_EPSILON = 1e-3


def charbonnier_loss(restored: Tensor, clean: Tensor) -> Tensor:
    """mean √((x − y)² + ε²), ε = 10⁻³ on the [0, 1] scale: L1, smooth at zero (Charbonnier et al., ICIP 1994)."""
    return ((restored - clean).square() + _CHARBONNIER_EPSILON**2).sqrt().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "charbonnier": charbonnier_loss,
}
