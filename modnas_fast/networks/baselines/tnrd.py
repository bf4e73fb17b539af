"""TNRD: learned diffusion, a gradient descent whose filters and influence functions are its own at every step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.networks.derived import check_batch

STAGES = 5
SIZE = 7
FILTERS = SIZE**2 - 1
CENTRES = 63
REACH = 310.0  # of the influence functions, on the 0–255 scale
SPACING = 10.0


class DiffusionStep(nn.Module):
    """u − Σ_i k̄_i ∗ φ_i(k_i ∗ u) − λ·(u − y), on the 0–255 scale; k̄ is k turned by 180°.

    48 filters of 7×7, k_i = Σ_j c_ij·b_j/‖c_i‖ over the cosine basis without its constant. Influence functions φ_i(z) =
    Σ_j w_ij·exp(−(z − μ_j)²/(2·10²)), μ = −310, −300, …, 310. λ = exp(`log_lambda`). Borders are replicated.
    """

    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.eye(FILTERS))
        self.weights = nn.Parameter(torch.zeros(FILTERS, CENTRES))
        self.log_lambda = nn.Parameter(torch.full((), math.log(0.1)))
        nn.init.normal_(self.weights, std=0.01)
        self.register_buffer("basis", cosine_basis(SIZE), persistent=False)

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        margin = SIZE // 2
        kernels = (F.normalize(self.coefficients, dim=1) @ self.get_buffer("basis")).view(FILTERS, 1, SIZE, SIZE)
        responses = F.conv2d(F.pad(u, (2 * margin,) * 4, mode="replicate"), kernels)
        forces = F.conv2d(self._influence(responses), kernels.flip(2, 3).transpose(0, 1))
        return u - forces - self.log_lambda.exp() * (u - y)

    def _influence(self, z: Tensor) -> Tensor:
        """φ(z), [N, 48, H, W], one centre at a time: 63 copies of z would not fit."""
        total = torch.zeros_like(z)
        for index in range(CENTRES):
            centre = index * SPACING - REACH
            total = total + self.weights[:, index, None, None] * torch.exp(-((z - centre) ** 2) / (2 * SPACING**2))
        return total


class TNRD(nn.Module):
    """u_t = step_t(u_{t−1}, y), t = 1…5, u_0 = y: TNRD⁵ with 7×7 filters. One model a noise level.

    Counts: 26,645 parameters, 24 k MACs a pixel in convolutions (0.062 G at 48×48, where padding weighs); the influence
    functions, 15 k exponentials a pixel, are not MACs. MoD-NAS gives no counts.

    Source: Y. Chen, T. Pock, "Trainable Nonlinear Reaction Diffusion: A Flexible Framework for Fast and Effective Image
    Restoration", IEEE TPAMI 2017. The article mirrors borders; replicating them differs in three rows a step.
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.steps = nn.ModuleList(DiffusionStep() for _ in range(STAGES))

    def forward(self, y: Tensor) -> Tensor:
        """Float [N, 1, H, W] in [0, 1], any size, to the same shape."""
        check_batch(y, self.channels_in)
        noisy = y * 255
        u = noisy
        for step in self.steps:
            u = step(u, noisy)
        return u / 255


def cosine_basis(size: int) -> Tensor:
    """The orthonormal two-dimensional cosine functions but the constant one, [size² − 1, size²]."""
    place = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return torch.kron(waves, waves)[1:].float()
