"""Feature maps as the kernels take them: alike in shape, dtype, device and layout."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from modnas_fast.errors import ModnasError
from modnas_fast.ops._backend import kernel_obstacle

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_features(op: str, features: Sequence[Tensor]) -> None:
    """Whether the kernels of `op` can run on these.

    Raises:
        ModnasError: none at all, not [N, C, H, W], unequal shapes or devices, a dtype that the kernels do not know, or
            a device that they do not run on.
    """
    if not features:
        raise ModnasError(f"{op} needs at least one tensor")
    first = features[0]
    for feature in features:
        if feature.ndim != 4 or feature.shape != first.shape:
            raise ModnasError(f"{op} takes [N, C, H, W] of one shape, got {[list(x.shape) for x in features]}")
        if feature.device != first.device:
            raise ModnasError(f"{op} takes tensors on one device, got {first.device} and {feature.device}")
    _check_dtypes(op, features)
    check_device(op, first.device)


def check_device(op: str, device: torch.device) -> None:
    """Whether the kernels of `op` run on a device; `ModnasError` otherwise."""
    reason = kernel_obstacle(device.type)
    if reason:
        raise ModnasError(f"{op} cannot run on {device.type}: {reason}; see modnas_fast.reference for plain PyTorch")


def check_parameter(op: str, name: str, parameter: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """A raw architecture parameter: its shape, its dtype, and `like`'s device; `ModnasError` otherwise."""
    if tuple(parameter.shape) != shape:
        raise ModnasError(f"{op} takes {name} of shape {list(shape)}, got {list(parameter.shape)}")
    if parameter.device != like.device:
        raise ModnasError(f"{op} takes tensors on one device, got {like.device} and {name} on {parameter.device}")
    _check_dtypes(op, [parameter])


def promoted(features: Sequence[Tensor]) -> list[Tensor]:
    """The features in the dtype that torch would promote them to; differentiable."""
    dtype = functools.reduce(torch.promote_types, (feature.dtype for feature in features))
    return [feature.to(dtype) for feature in features]


def is_channels_last(x: Tensor) -> bool:
    """Whether the kernels walk over x in channels_last order; where both orders are the same memory, they do not."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def arrange(features: Sequence[Tensor], channels_last: bool) -> list[Tensor]:
    """The features in one dense layout: themselves where they have it, otherwise copies."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return [feature.contiguous(memory_format=memory_format) for feature in features]


def _check_dtypes(op: str, tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if tensor.dtype not in KERNEL_DTYPES:
            raise ModnasError(
                f"{op} takes float32, float16 and bfloat16, got {str(tensor.dtype).removeprefix('torch.')}; "
                "the reference backend takes all"
            )
