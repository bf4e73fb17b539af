"""PyTorch's convolutions replaced, for a while, by the engine's: training on a CPU without changing a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from modnas_fast.ops.convolution import convolution, pays
from modnas_fast.ops.depthwise import depthwise, runs
from modnas_fast.ops.precision import convolution_dtype


class fast_convolutions(TorchFunctionMode):
    """Within it, `conv2d` of 3×3 and 5×5 kernels, dense or depthwise, that keep an image's size runs as in `ops`.

        with fast_convolutions():
            loss = F.mse_loss(net(noisy), clean)
        loss.backward()

    Gradients are the fast ones as well, wherever backward() is called. Everything that the engine does not compute,
    such as strides, other sizes or devices, stays PyTorch's; so does autocast where the processor is faster at the
    lower precision. Results agree within rounding; see `ops.convolution`.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.conv2d:
            y = _fast(*args, **(kwargs or {}))
            if y is not None:
                return y
        return func(*args, **(kwargs or {}))


def _fast(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """What conv2d would return, or None where it had better do it itself."""
    if input.device.type != "cpu" or input.ndim != 4 or bias is None or isinstance(padding, str):
        return None
    kernel, spread = weight.shape[-1], _one(dilation)
    same = weight.shape[-2] == kernel and _one(stride) == 1 and spread and _one(padding) == spread * (kernel // 2)
    if not same:
        return None
    x = input
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        if convolution_dtype(dtype, x.device) != weight.dtype:
            return None
        x = x.to(dtype)
    if groups == 1 and spread == 1 and pays(x, weight):
        return convolution(x, weight, bias)
    if groups == x.shape[1] == len(weight) and runs(x, weight, spread):
        return depthwise(x, weight, bias, spread)
    return None


def _one(setting: Any) -> int:
    """A setting that is the same both ways, as a number; 0 where it is not."""
    if isinstance(setting, int):
        return setting
    first, *others = setting
    return first if all(other == first for other in others) else 0
