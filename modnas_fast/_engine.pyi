from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

class Op:
    convolution: Op
    separable: Op
    transposed: Op
    sub_pixel: Op
    bilinear: Op
    nearest: Op
    output: Op

class Layer:
    name: str
    op: Op
    inputs: Sequence[int]
    output: int
    channels: int
    kernel: int
    stride: int
    dilation: int
    relu: bool
    shortcut: int
    delta: float
    def set_weight(self, weights: Array) -> None: ...
    def set_bias(self, weights: Array) -> None: ...
    def set_depthwise_weight(self, weights: Array) -> None: ...
    def set_depthwise_bias(self, weights: Array) -> None: ...
    def set_shortcut_weight(self, weights: Array) -> None: ...
    def set_shortcut_bias(self, weights: Array) -> None: ...

class Network:
    weight_bytes: int
    variant: str
    threads: int
    def __init__(
        self, image_channels: int, stages: Sequence[Sequence[Layer]], threads: int, variant: str, bfloat16: bool, /
    ) -> None: ...
    def run(
        self,
        first: int,
        last: int,
        x: Array,
        y: Array,
        out: Array,
        top: int,
        left: int,
        progress: Callable[[float], Any] | None,
        /,
    ) -> bool: ...
    def report(self, height: int, width: int, /) -> list[dict[str, Any]]: ...
    def working_bytes(self, height: int, width: int, /) -> int: ...
    def release(self) -> None: ...

def convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    rectified: Array | None,
    y: Array,
    threads: int,
    variant: str = ...,
) -> None: ...
def convolution_dweight(
    x: Array, dy: Array, dweight: Array, dbias: Array, threads: int, variant: str = ...
) -> None: ...
def depthwise(x: Array, weight: Array, dilation: int, y: Array, threads: int, variant: str = ...) -> None: ...
def depthwise_dweight(x: Array, dy: Array, dilation: int, dweight: Array, threads: int, variant: str = ...) -> None: ...
def variants() -> list[str]: ...
