"""The compiled engine's convolutions for training, as PyTorch operators.

Tensors are [N, C, H, W] in channels_last, float32 or bfloat16, on the CPU, with C a multiple of 4; kernels are 3×3 or
5×5, and float32, as their gradients and the arithmetic are. They run on PyTorch's own threads. `convolution` and
`depthwise` choose between these and PyTorch's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

try:
    from modnas_fast import _engine
except ImportError:  # built without a compiler: PyTorch's convolutions do
    BUILT = False
else:
    BUILT = True

_KERNELS = (3, 5)
_DILATIONS = (1, 2)


def runs(x: Tensor, kernel: int, *channels: int, dilation: int = 1) -> bool:
    """Whether a tensor is of a kind, and a same-size kernel of a size, that the operators here compute."""
    return (
        BUILT
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and kernel in _KERNELS
        and dilation in _DILATIONS
        and all(count % 4 == 0 for count in channels)
    )


class _Operator:
    """A function as an operator that compilers do not look into; eager calls, 15 µs faster, are the function's own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        name = f"modnas_fast::{function.__name__}"
        self.operator = torch.library.custom_op(name, function, mutates_args=(), device_types="cpu")

    def __call__(self, x: Tensor, *others: Any) -> Any:
        eager = type(x) is Tensor and not torch.compiler.is_compiling()
        return self.function(x, *others) if eager else self.operator(x, *others)


@_Operator
def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, rectified: Tensor | None) -> Tensor:
    """Convolution of stride 1 to the same size: weight [k, k, C_in, C_out], bias [C_out]; to [N, C_out, H, W].

    `rectified`, of the result's shape and dtype, is what a ReLU gave: the result is 0 where it is.
    """
    y = _like(x, weight.shape[3])
    bias_array = None if bias is None else bias.detach().contiguous().numpy()
    mask = None if rectified is None else _array(rectified)
    _engine.convolution(_array(x), weight.contiguous().numpy(), bias_array, mask, _array(y), torch.get_num_threads())
    return y


@convolution.operator.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, rectified: Tensor | None) -> Tensor:
    return _like(x, weight.shape[3])


@_Operator
def convolution_dweight(x: Tensor, dy: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Gradients of `convolution` in its weight, [k, k, C_in, C_out], and bias, [C_out], from that in its output."""
    dweight, dbias = torch.empty(kernel, kernel, x.shape[1], dy.shape[1]), torch.empty(dy.shape[1])
    _engine.convolution_dweight(_array(x), _array(dy), dweight.numpy(), dbias.numpy(), torch.get_num_threads())
    return dweight, dbias


@convolution_dweight.operator.register_fake
def _(x: Tensor, dy: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    dweight = x.new_empty(kernel, kernel, x.shape[1], dy.shape[1], dtype=torch.float32)
    return dweight, x.new_empty(dy.shape[1], dtype=torch.float32)


@_Operator
def depthwise(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Depthwise convolution to the same size: weight [k, k, C]."""
    y = _like(x, x.shape[1])
    _engine.depthwise(_array(x), weight.contiguous().numpy(), dilation, _array(y), torch.get_num_threads())
    return y


@depthwise.operator.register_fake
def _(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return _like(x, x.shape[1])


@_Operator
def depthwise_dweight(x: Tensor, dy: Tensor, kernel: int, dilation: int) -> Tensor:
    """Gradient of `depthwise` in its weight, [k, k, C], from that in its output."""
    dweight = torch.empty(kernel, kernel, x.shape[1])
    _engine.depthwise_dweight(_array(x), _array(dy), dilation, dweight.numpy(), torch.get_num_threads())
    return dweight


@depthwise_dweight.operator.register_fake
def _(x: Tensor, dy: Tensor, kernel: int, dilation: int) -> Tensor:
    return x.new_empty(kernel, kernel, x.shape[1], dtype=torch.float32)


def _like(x: Tensor, channels: int) -> Tensor:
    N, _, H, W = x.shape
    return torch.empty((N, channels, H, W), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _array(x: Tensor) -> NDArray[np.float32] | NDArray[np.uint16]:
    """[N, H, W, C] without gaps: x itself where it lies so; bfloat16's bits as uint16."""
    x = x.detach().permute(0, 2, 3, 1).contiguous()
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()
