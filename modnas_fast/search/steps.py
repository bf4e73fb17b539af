"""One step of a search: forward, MSE, backward and Adam on W or on A, eagerly or as one CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.runs.processes import Processes
from modnas_fast.search.supernet import SuperNet

Penalty = Callable[[], Tensor]

EAGER_STEPS = 3  # before capture: the optimiser's state and the libraries' workspaces must exist


def build_adam(parameters: Sequence[nn.Parameter], rate: float, *, captured: bool) -> torch.optim.Adam:
    """Adam (0.9, 0.999, 1e-8); where a step is captured, its rate is a tensor that is filled in place."""
    lr = torch.tensor(rate, device=parameters[0].device) if captured else rate
    return torch.optim.Adam(parameters, lr, fused=True, capturable=captured)


class Step:
    """Adam on `parameters` with everything else frozen, so that other gradients cost nothing.

    Args:
        net: the supernet.
        parameters: W or A.
        optimizer: over `parameters`.
        bf16: whether the forward pass runs under bfloat16 autocast.
        processes: whose gradients are averaged.
        penalty: added to the loss; differentiable in `parameters`.
    """

    def __init__(
        self,
        net: SuperNet,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Adam,
        bf16: bool,
        processes: Processes,
        penalty: Penalty | None = None,
    ) -> None:
        self._net, self._parameters, self._optimizer = net, parameters, optimizer
        self._bf16, self._processes, self._penalty = bf16, processes, penalty

    def __call__(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """The MSE before the step, detached; [N, C, H, W] in."""
        self._net.requires_grad_(False)
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast(noisy.device.type):
            restored = self._net(noisy)
        mse = F.mse_loss(restored.float(), clean)
        loss = mse if self._penalty is None else mse + self._penalty()
        loss.backward()
        self._processes.average_gradients(self._parameters)
        self._optimizer.step()
        return mse.detach()

    def _autocast(self, device: str) -> AbstractContextManager[object]:
        return torch.autocast(device, torch.bfloat16, cache_enabled=False) if self._bf16 else nullcontext()


class GraphedStep:
    """A `Step` captured as one CUDA graph after a few eager ones, so that a step is one launch.

    The optimiser is `build_adam`'s, `captured`. The graph reads and writes the tensors that there were at its capture:
    where the optimiser's state was exchanged, a new `GraphedStep` is due.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._eager_left = EAGER_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream()

    def __call__(self, noisy: Tensor, clean: Tensor) -> Tensor:
        if self._eager_left:
            self._eager_left -= 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
                loss = self._step(noisy, clean)
            torch.cuda.current_stream().wait_stream(self._stream)
            return loss
        if self._graph is None:
            self._noisy, self._clean = noisy.clone(), clean.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._loss = self._step(self._noisy, self._clean)
        self._noisy.copy_(noisy)
        self._clean.copy_(clean)
        self._graph.replay()
        return self._loss.clone()
