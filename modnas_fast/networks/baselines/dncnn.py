"""DnCNN: the plain residual CNN that learned denoisers are measured against."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modnas_fast.networks.derived import check_batch

WIDTH = 64


class DnCNN(nn.Module):
    """x̂ = y − R(y); R is conv → ReLU, then depth − 2 times conv → batch norm → ReLU, then conv; all 3×3, 64 channels.

    With batch norm (how it is trained) only the first convolution has a bias; folded (how it is deployed) all have one
    and the norms are gone. 17 layers serve one noise level, 20 the blind models.

    Counts at depth 17: 556,096 parameters, 1.2767 G MACs at 48×48; MoD-NAS gives 556k and 1.28 G.

    Source: K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for
    Image Denoising", IEEE TIP 2017.

    Args:
        channels_in: 1 for gray, 3 for RGB.
        depth: convolutions, at least 2.
        folded: without batch norm, biases everywhere.
    """

    def __init__(self, channels_in: int = 1, depth: int = 17, folded: bool = False) -> None:
        super().__init__()
        self.channels_in = channels_in
        layers: list[nn.Module] = [nn.Conv2d(channels_in, WIDTH, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=folded))
            if not folded:
                layers.append(nn.BatchNorm2d(WIDTH, eps=1e-4))
            layers.append(nn.ReLU())
        layers.append(nn.Conv2d(WIDTH, channels_in, 3, padding=1, bias=folded))
        self.model = nn.Sequential(*layers)

    def forward(self, y: Tensor) -> Tensor:
        """Float [N, C, H, W] in [0, 1], any size, to the same shape."""
        check_batch(y, self.channels_in)
        return y - self.model(y)


def from_authors(state: Mapping[str, Tensor], channels_in: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """A folded network for a published file, and the file's tensors in its names.

    Files call the layers `model.N` or `dncnn.N`, have batch norm or have it folded already, and biases in all, in
    the first or in no convolution; any other that lacks is left out for the loader to complain about. Norms fold
    exactly: W ← W·γ/√(σ² + ε), b ← (b − μ)·γ/√(σ² + ε) + β. ε = 1e-4 is the authors'; files without any bias come
    from a port that kept 1e-5. Tensors that are no such layers stay as they are, for the same.
    """
    number = re.compile(r"^(?:model|dncnn)\.(\d+)\.weight$")
    places = sorted(int(found[1]) for key in state if (found := number.match(key)) and state[key].ndim == 4)
    if len(places) < 2:
        return DnCNN(channels_in, folded=True), dict(state)
    prefix = "model" if f"model.{places[0]}.weight" in state else "dncnn"
    epsilon = 1e-4 if f"{prefix}.{places[0]}.bias" in state else 1e-5
    biased = [place for place in places if f"{prefix}.{place}.bias" in state]
    without = biased in ([], places[:1])  # by design, not by damage
    left, folded = dict(state), {}
    for index, place in enumerate(places):
        weight = left.pop(f"{prefix}.{place}.weight")
        bias = left.pop(f"{prefix}.{place}.bias", weight.new_zeros(len(weight)))
        norm = [f"{prefix}.{place + 1}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        if all(key in state and state[key].shape == bias.shape for key in norm):
            gain, shift, mean, variance = (left.pop(key) for key in norm)
            left.pop(f"{prefix}.{place + 1}.num_batches_tracked", None)
            scale = gain * torch.rsqrt(variance + epsilon)
            weight, bias = weight * scale[:, None, None, None], (bias - mean) * scale + shift
        folded[f"model.{2 * index}.weight"] = weight
        if place in biased or without:
            folded[f"model.{2 * index}.bias"] = bias
    return DnCNN(channels_in, depth=len(places), folded=True), folded | left
