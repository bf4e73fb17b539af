"""A start for weights from which every layer hands on about as much as it takes in.

PyTorch's own start makes a feature map smaller in every convolution, to 1/√6 of it after a ReLU, and a stage is up to
30 layers deep: what comes back from the low resolutions is a hundredth of what went there, in a supernet 1e-4 of what
DB4 has, and training finds them late. He et al. (ICCV 2015) scale weights so that variances stay:

    std(w) = g / √(terms of a sum),  g² = 2 after a ReLU, 1 elsewhere

Biases start at 0.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn

from modnas_fast.layers import LAST_CONVOLUTIONS, ResidualBlock
from modnas_fast.networks.derived import DerivedNet, EncoderBlock, Stage

_LINEAR = ("pointwise", "pointwise1", "pointwise2", "shortcut")  # what no ReLU stands before


@torch.no_grad()
def scale_weights(net: DerivedNet) -> None:
    """Draw all convolutions of `net` anew, from torch's generator; δ, or what makes it, stays."""
    for stage in cast("list[Stage]", list(net.stages)):
        scale_ends(stage)
        for block in (*stage.encoder, *stage.decoder):
            resample = block.down if isinstance(block, EncoderBlock) else block.up
            if getattr(block, "fuse", None) is not None:
                scale_convolution(block.fuse, 1)
            for operation in (*block.layers.values(), resample):
                if operation is not None:
                    scale_operation(operation)


def scale_ends(stage: nn.Module) -> None:
    """Draw a stage's stem and its last convolution."""
    first, second = cast("nn.ModuleList", stage.stem)
    scale_convolution(first, 1)
    scale_convolution(second, 2)
    scale_convolution(cast("nn.Module", stage.out), 2)


def scale_operation(operation: nn.Module, candidates: int = 1) -> None:
    """Draw one of `candidates` operations whose mean is a layer: the mean of K independent maps has a Kth of their
    variance, so the last convolution of each has √K times the weights.
    """
    ends = 2 if isinstance(operation, ResidualBlock) else 1  # two sums are added there
    for name, conv in operation.named_children():
        square = 1 if name in _LINEAR else 2
        scale_convolution(conv, square * candidates / ends if name in LAST_CONVOLUTIONS else square)


def scale_convolution(module: nn.Module, square: float) -> None:
    """Normal weights of variance `square` over the terms of a sum."""
    conv = cast(nn.Conv2d, module)
    terms = conv.weight[0].numel()
    if isinstance(module, nn.ConvTranspose2d):  # [C_in, C_out, k, k]; an output meets one of stride² of its taps
        terms = conv.weight[:, 0].numel() // math.prod(module.stride)
    nn.init.normal_(conv.weight, std=math.sqrt(square / terms))
    nn.init.zeros_(cast(torch.Tensor, conv.bias))
