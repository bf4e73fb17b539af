"""A start for the supernet's weights from which every layer hands on about as much as it takes in.

PyTorch's own start makes a feature map smaller in every convolution, the mean over K candidates does so again, and a
stage is 30 layers deep: what EB3 and DB1 add to the result is 1e-4 of what DB4 does and less, their gradients are near
Adam's ε, and a short search ends before they take part. He et al. (ICCV 2015) scale weights so that variances stay:

    std(w) = g / √(terms of a sum),  g² = 2 after a ReLU, 1 elsewhere

The last convolution of each of K candidates has √K times that, since the variance of a mean of K independent maps is a
Kth of theirs. Biases start at 0.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn

from modnas_fast.layers import LAST_CONVOLUTIONS, MixedOp, ResidualBlock
from modnas_fast.search.stage import SuperStage
from modnas_fast.search.supernet import SuperNet

_LINEAR = ("pointwise", "pointwise1", "pointwise2", "shortcut")  # what no ReLU stands before


@torch.no_grad()
def scale_weights(net: SuperNet) -> None:
    """Draw all weights of the stages anew, from torch's generator; δ and the architecture stay."""
    for stage in cast("list[SuperStage]", list(net.stages)):
        first, second = stage.stem
        _draw(first, 1)
        _draw(second, 2)
        _draw(stage.out, 2)
        for block in stage.blocks():
            if block.fuse is not None:
                _draw(block.fuse, 1)
            for layer in (*block.normal_layers(), block.resample):
                if layer is not None:
                    _draw_candidates(layer)


def _draw_candidates(layer: MixedOp) -> None:
    for operation in layer.values():
        ends = 2 if isinstance(operation, ResidualBlock) else 1  # two sums are added there
        for name, conv in operation.named_children():
            square = 1 if name in _LINEAR else 2
            _draw(conv, square * len(layer) / ends if name in LAST_CONVOLUTIONS else square)


def _draw(module: nn.Module, square: float) -> None:
    """Normal weights of variance `square` over the terms of a sum."""
    conv = cast(nn.Conv2d, module)
    terms = conv.weight[0].numel()
    if isinstance(module, nn.ConvTranspose2d):  # [C_in, C_out, k, k]; an output meets one of stride² of its taps
        terms = conv.weight[:, 0].numel() // math.prod(module.stride)
    nn.init.normal_(conv.weight, std=math.sqrt(square / terms))
    nn.init.zeros_(cast(torch.Tensor, conv.bias))
