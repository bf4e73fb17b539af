"""The scaled start of `networks.initial` for the supernet, whose layers are means over K candidates."""

from __future__ import annotations

from typing import cast

import torch

from modnas_fast.networks.initial import scale_convolution, scale_ends, scale_operation
from modnas_fast.search.stage import SuperStage
from modnas_fast.search.supernet import SuperNet


@torch.no_grad()
def scale_weights(net: SuperNet) -> None:
    """Draw all weights of the stages anew, from torch's generator; δ and the architecture stay."""
    for stage in cast("list[SuperStage]", list(net.stages)):
        scale_ends(stage)
        for block in stage.blocks():
            if block.fuse is not None:
                scale_convolution(block.fuse, 1)
            for layer in (*block.normal_layers(), block.resample):
                if layer is not None:
                    for operation in layer.values():
                        scale_operation(operation, len(layer))
