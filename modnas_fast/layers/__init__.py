"""The candidate operations of the search space, one module class an operation kind, and all of them side by side."""

from modnas_fast.layers.mixed import MixedOp, stack_parameters
from modnas_fast.layers.operations import (
    LAST_CONVOLUTIONS,
    DilatedConv,
    InterpolatedConv,
    PlainConv,
    ResidualBlock,
    SeparableConv,
    SubPixelConv,
    TransposedConv,
    build_operation,
)

__all__ = [
    "LAST_CONVOLUTIONS",
    "DilatedConv",
    "InterpolatedConv",
    "MixedOp",
    "PlainConv",
    "ResidualBlock",
    "SeparableConv",
    "SubPixelConv",
    "TransposedConv",
    "build_operation",
    "stack_parameters",
]
