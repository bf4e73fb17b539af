"""What a baseline costs, counted as it runs, on the meta device: no memory, no arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from modnas_fast.errors import ModnasError
from modnas_fast.networks.baselines.registry import find
from modnas_fast.networks.summary import MAX_SIDE


@dataclass(frozen=True)
class Cost:
    """Of one image: `parameters`, and `macs`, multiply-accumulates as they run (padding included).

    MACs are those of convolutions and matrix products (linear layers, attention, N3Net's distances and sums); biases,
    norms, activations and other element-wise work are not counted. This is what the papers call FLOPs; counting a
    multiplication and an addition as two doubles it. A layer that runs several times counts as often.
    """

    parameters: int
    macs: int


def count(name: str, channels_in: int = 1, height: int = 48, width: int = 48) -> Cost | None:
    """The cost of a baseline on one [1, channels_in, height, width] image, or None for BM3D, which is no network.

    Raises:
        ModnasError: an unknown name, channels that the network has no version for, or a side outside 1…`MAX_SIDE`.
    """
    baseline = find(name, channels_in)
    for what, side in (("height", height), ("width", width)):
        if not 1 <= side <= MAX_SIDE:
            raise ModnasError(f"{what} is {side}; it must be 1…{MAX_SIDE}")
    with torch.device("meta"):
        net = baseline.build(channels_in).eval()
        parameters = sum(parameter.numel() for parameter in net.parameters())
        if not parameters:
            return None
        y = torch.empty(1, channels_in, height, width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(*((y, 25.0) if baseline.noise == "sigma" else (y,)))
    return Cost(parameters, counter.get_total_flops() // 2)
