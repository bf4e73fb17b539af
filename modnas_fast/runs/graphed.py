"""Training steps as CUDA graphs: the hundreds of kernels of a small network, launched as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

EAGER_STEPS = 3  # before capture: the optimiser's state and the libraries' workspaces must exist


def build_adam(parameters: Sequence[nn.Parameter], rate: float, *, captured: bool) -> torch.optim.Adam:
    """Adam (0.9, 0.999, 1e-8); where a step is captured, its rate is a tensor, which `set_rate` fills in place."""
    lr = torch.tensor(rate, device=parameters[0].device) if captured else rate
    return torch.optim.Adam(parameters, lr, fused=True, capturable=captured)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the steps that follow, captured ones too."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class GraphedStep:
    """A step captured as one CUDA graph after a few eager ones, and anew where its inputs have other shapes.

    The graph reads and writes the tensors that there were at its capture: where the optimiser's state was exchanged, a
    new `GraphedStep` is due. Nothing in the step may wait for the device.

    Args:
        step: of CUDA tensors, with optimisers built `captured`, and autocast without its cache.
    """

    def __init__(self, step: Callable[..., Tensor]) -> None:
        self._step = step
        self._stream = torch.cuda.Stream()
        self._inputs: tuple[Tensor, ...] = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._eager_left = EAGER_STEPS

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the step returns, in memory of its own."""
        if [x.shape for x in inputs] != [x.shape for x in self._inputs]:
            self._inputs, self._graph, self._eager_left = inputs, None, EAGER_STEPS
        if self._eager_left:
            self._eager_left -= 1
            return self._run_eagerly(*inputs)
        if self._graph is None:
            self._inputs = tuple(x.clone() for x in inputs)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._result = self._step(*self._inputs)
        for place, x in zip(self._inputs, inputs, strict=True):
            place.copy_(x)
        self._graph.replay()
        return self._result.clone()

    def _run_eagerly(self, *inputs: Tensor) -> Tensor:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            result = self._step(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result
