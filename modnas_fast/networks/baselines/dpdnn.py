"""DPDNN: a U-Net denoiser inside six unfolded iterations; the hand-made network closest to MoD-NAS."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modnas_fast.networks.baselines.padding import pad_to
from modnas_fast.networks.derived import check_batch

WIDTH = 64
SCALES = 4
ITERATIONS = 6


class DPDNN(nn.Module):
    """xᵗ⁺¹ = (1 − δ_t − η_t)·(xᵗ + f(xᵗ)) + η_t·xᵗ + δ_t·y, t = 1…6, x¹ = y; f, the U-Net, is one for all iterations.

    f: four encoders (three 3×3 convs, then one of stride 2), a 3×3 conv, four decoders (3×3 transposed conv of stride 2
    without ReLU, concat with the encoder's feature, 1×1 conv to 64, four 3×3 convs, the last without ReLU), a 3×3 conv;
    64 channels and ReLU throughout.

    As in the released code, scales 3 and 4 go down by the convolutions of scales 1 and 2; their own are counted but
    never used.

    Counts: 1,363,661 parameters, 4.73 G MACs at 48×48. MoD-NAS gives 1363k and 5.25 G, which is what comes
    out when a transposed convolution counts at every output position (5.24 G) and not where it scatters from.

    Source: W. Dong, P. Wang, W. Yin, G. Shi, F. Wu, X. Lu, "Denoising Prior Driven Deep Neural Network for Image
    Restoration", IEEE TPAMI 2019, and the authors' PyTorch code.
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        for scale in range(SCALES):
            self.encoders.append(_convs(channels_in if scale == 0 else WIDTH, 3))
            self.downs.append(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1), nn.ReLU()))
            self.ups.append(nn.ConvTranspose2d(WIDTH, WIDTH, 3, stride=2, padding=1, output_padding=1))
            layers = [nn.Conv2d(2 * WIDTH, WIDTH, 1), nn.ReLU(), *_convs(WIDTH, 4)]
            self.decoders.append(nn.Sequential(*layers[:-1]))
        self.middle = _convs(WIDTH, 1)
        self.out = nn.Conv2d(WIDTH, channels_in, 3, padding=1)
        self.delta = nn.ParameterList(nn.Parameter(torch.tensor(0.1)) for _ in range(ITERATIONS))
        self.eta = nn.ParameterList(nn.Parameter(torch.tensor(0.9)) for _ in range(ITERATIONS))

    def denoiser(self, x: Tensor) -> Tensor:
        """x + f(x), [N, C, H, W] with sides that are multiples of 16."""
        features: list[Tensor] = []
        z = x
        for scale, encoder in enumerate(self.encoders):
            features.append(encoder(z))
            z = self.downs[scale % 2](features[-1])
        z = self.middle(z)
        for scale in reversed(range(SCALES)):
            z = self.decoders[scale](torch.cat((self.ups[scale](z), features[scale]), dim=1))
        return x + self.out(z)

    def forward(self, y: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] to the same shape; sides are padded (replicate) to multiples of 16 and cropped."""
        check_batch(y, self.channels_in)
        height, width = y.shape[-2:]
        padded = pad_to(y, 2**SCALES)
        x = padded
        for delta, eta in zip(self.delta, self.eta, strict=True):
            x = (1 - delta - eta) * self.denoiser(x) + eta * x + delta * padded
        return x[..., :height, :width]


def _convs(channels_in: int, count: int) -> nn.Sequential:
    """`count` times a 3×3 conv to 64 channels, then ReLU."""
    layers: list[nn.Module] = []
    for index in range(count):
        layers += [nn.Conv2d(WIDTH if index else channels_in, WIDTH, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


AUTHORS_KEYS = (
    *((rf"^Feature_Encoder{scale + 1}_fe\.", f"encoders.{scale}.") for scale in range(SCALES)),
    *((rf"^Feature_Encoder{scale + 1}_down\.", f"downs.{scale}.") for scale in range(SCALES)),
    *((rf"^decoder_up{scale + 1}\.", f"ups.{scale}.") for scale in range(SCALES)),
    *((rf"^Feature_Decoder{scale + 1}\.", f"decoders.{scale}.") for scale in range(SCALES)),
    *((rf"^delta_{iteration + 1}$", f"delta.{iteration}") for iteration in range(ITERATIONS)),
    *((rf"^eta_{iteration + 1}$", f"eta.{iteration}") for iteration in range(ITERATIONS)),
    (r"^encoder_end\.", "middle."),
    (r"^Feature_Decoder_end\.", "out."),
)
