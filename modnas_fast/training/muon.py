"""Muon: momentum whose every direction counts alike, for the kernels between feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from modnas_fast.networks import DerivedNet
from modnas_fast.runs.graphed import build_adam

_MOMENTUM = 0.95
_ROUNDS = 5
_QUINTIC = 3.4445, -4.7750, 2.0315
_SMALLEST_NORM = 1e-12
_AT_IMAGES = (".stem.0.weight", ".out.weight")


def orthogonalize(matrices: Tensor) -> Tensor:
    """U·p(S)·Vᵀ of each matrix's U·S·Vᵀ, p(S) between 0.68 and 1.21 wherever S is at least ‖S‖/500.

    Five rounds of x ← a·x + (b·xxᵀ + c·(xxᵀ)²)·x from x = g/‖g‖, whose quintic lifts small singular values fast (Jordan
    et al., Muon, 2024). Rows and columns of zeros change nothing, and stay zero.

    Args:
        matrices: float [N, rows, columns], least work with rows ≤ columns.
    """
    a, b, c = _QUINTIC
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=_SMALLEST_NORM)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """w ← w − rate·0.2·√max(rows, columns)·orthogonalize(g + 0.95·(m − g)), m ← m + 0.05·(g − m) before.

    A kernel [O, I, k, k] is the matrix [O, I·k²]. The factor makes steps as large as Adam's usually are, so that one
    rate serves both (Liu et al., arXiv:2502.16982, Eq. 4). `torch.optim.Muon` takes matrices only, one after another:
    here those of one size go together, on a GPU all do, padded with zeros, for launches cost more there.

    Args:
        kernels: of dense convolutions, in any memory layout.
        rate: a number, or a tensor where a CUDA graph reads it.
    """

    def __init__(self, kernels: Sequence[nn.Parameter], rate: float | Tensor) -> None:
        super().__init__(kernels, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            if not kernels:
                continue
            gradients = [kernel.grad for kernel in kernels]
            for kernel in kernels:
                if not self.state[kernel]:
                    self.state[kernel]["momentum"] = torch.zeros_like(kernel)
            momenta = [self.state[kernel]["momentum"] for kernel in kernels]
            torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
            steps = _orthogonalized(torch._foreach_lerp(gradients, momenta, _MOMENTUM))
            torch._foreach_mul_(steps, group["lr"])
            torch._foreach_sub_(kernels, steps)


def _orthogonalized(directions: Sequence[Tensor]) -> list[Tensor]:
    """The step of each kernel for a rate of 1."""
    wide = [x.mT if x.shape[0] > x.shape[1] else x for x in (direction.flatten(1) for direction in directions)]
    steps = list(directions)
    order = sorted(range(len(wide)), key=lambda index: _together(wide[index]))
    for _, group in groupby(order, key=lambda index: _together(wide[index])):
        indices = list(group)
        rows, columns = (max(wide[index].shape[axis] for index in indices) for axis in (0, 1))
        batch = wide[0].new_zeros(len(indices), rows, columns)
        for place, index in zip(batch, indices, strict=True):
            place[: wide[index].shape[0], : wide[index].shape[1]] = wide[index]
        for place, index in zip(orthogonalize(batch), indices, strict=True):
            rows, columns = wide[index].shape
            step = place[:rows, :columns] * (0.2 * math.sqrt(columns))
            direction = directions[index]
            steps[index] = (step.mT if len(direction) > rows else step).reshape(direction.shape)
    return steps


def _together(matrix: Tensor) -> tuple[int, ...]:
    """Matrices of which this is the same go in one batch."""
    return () if matrix.is_cuda else tuple(matrix.shape)


def build_muon(net: DerivedNet, rate: float, *, captured: bool) -> list[torch.optim.Optimizer]:
    """Muon for the dense kernels between feature maps, Adam for the rest: biases, depthwise kernels, δ, and what
    touches images. `captured`: as `build_adam`.
    """
    kernels: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        inner = parameter.ndim == 4 and min(parameter.shape[:2]) > 1 and not name.endswith(_AT_IMAGES)
        (kernels if inner else rest).append(parameter)
    adam = build_adam(rest, rate, captured=captured)
    return [Muon(kernels, adam.param_groups[0]["lr"]), adam] if kernels else [adam]
