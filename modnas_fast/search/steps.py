"""One step of a search: forward, MSE, backward and Adam on W or on A."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.runs.precision import autocast
from modnas_fast.runs.processes import Processes
from modnas_fast.search.supernet import SuperNet

Penalty = Callable[[], Tensor]


class Step:
    """Adam on `parameters` with everything else frozen, so that other gradients cost nothing.

    Args:
        net: the supernet.
        parameters: W or A.
        optimizer: over `parameters`.
        precision: of the forward pass, "bf16" (autocast) or "fp32".
        processes: whose gradients are averaged.
        penalty: added to the loss; differentiable in `parameters`.
    """

    def __init__(
        self,
        net: SuperNet,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Adam,
        precision: str,
        processes: Processes,
        penalty: Penalty | None = None,
    ) -> None:
        self._net, self._parameters, self._optimizer = net, parameters, optimizer
        self._precision, self._processes, self._penalty = precision, processes, penalty

    def __call__(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """The MSE before the step, detached; [N, C, H, W] in."""
        self._net.requires_grad_(False)
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self._precision, noisy.device):
            restored = self._net(noisy)
        mse = F.mse_loss(restored.float(), clean)
        loss = mse if self._penalty is None else mse + self._penalty()
        loss.backward()
        self._processes.average_gradients(self._parameters)
        self._optimizer.step()
        return mse.detach()
