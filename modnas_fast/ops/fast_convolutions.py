"""PyTorch's convolutions replaced, for a while, by the engine's: training on a CPU without changing a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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

    A convolution right after a ReLU takes the gradient through both.
    """

    def __init__(self) -> None:
        super().__init__()
        self._relu: _Relu | None = None  # the last one

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.conv2d:
            y = _fast(self._relu, *args, **(kwargs or {}))
            if y is not None:
                return y
        y = func(*args, **(kwargs or {}))
        if torch.compiler.is_compiling():
            return y  # compilers see to the rest
        if func is F.relu and y.requires_grad:
            x = args[0] if args else kwargs["input"]
            self._relu = _Relu(x, y, (x._version, y._version)) if x is not y else None
        elif func is F.interpolate and y.requires_grad and y.is_contiguous(memory_format=torch.channels_last):
            y.register_hook(_in_one_piece)
        return y


class _Relu(NamedTuple):
    """x, y = max(x, 0) and both as they were then, by autograd's count of what is written in place."""

    x: Tensor
    y: Tensor
    versions: tuple[int, int]

    def made(self, image: Tensor) -> bool:
        """Whether `image` is y, still max(x, 0), and nobody wants y's own gradient."""
        same = image is self.y and (self.x._version, self.y._version) == self.versions
        return same and not self.y.retains_grad and not self.y._backward_hooks


def _in_one_piece(gradient: Tensor) -> Tensor:
    """A slice, as of a concatenation's gradient, sends PyTorch's interpolation ten times the slower way back."""
    return gradient.contiguous(memory_format=torch.channels_last)


def _fast(
    relu: _Relu | None,
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
    x, rectified = input, None
    if relu is not None and relu.made(input):
        x, rectified = relu.x, input
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        if convolution_dtype(dtype, x.device) != weight.dtype:
            return None
        x = x.to(dtype)
        rectified = None if rectified is None else rectified.to(dtype)
    if groups == 1 and spread == 1 and pays(x, weight):
        return convolution(x, weight, bias, rectified)
    if groups == x.shape[1] == len(weight) and runs(x, weight, spread):
        return depthwise(x if rectified is None else rectified, weight, bias, spread)
    return None


def _one(setting: Any) -> int:
    """A setting that is the same both ways, as a number; 0 where it is not."""
    if isinstance(setting, int):
        return setting
    first, *others = setting
    return first if all(other == first for other in others) else 0
