"""E-CAE: a convolutional autoencoder found by evolutionary search."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.networks.derived import check_batch

# The published genotype, in order: output channels, kernel size, whether the decoder's mirror layer gets its output.
ENCODER = (
    (64, 3, True),
    (64, 1, False),
    (128, 3, False),
    (64, 1, True),
    (128, 5, True),
    (128, 3, False),
    (64, 1, False),
)
OUTPUT_KERNEL = 3


class ECAE(nn.Module):
    """Seven encoder layers at full size, the same seven mirrored as decoder, a 3×3 conv to the image; no biases.

    A layer is ReLU(conv); where the encoder's layer is tied, its mirror gives ReLU(ReLU(conv(x)) + encoder's output).

    Counts (gray): 1,062,016 parameters, 2.45 G MACs at 48×48, as MoD-NAS gives.

    Source: M. Suganuma, M. Ozay, T. Okatani, "Exploiting the Potential of Standard Convolutional Autoencoders for Image
    Restoration by Evolutionary Search", ICML 2018, and the denoiser's genotype that came with its code. One model for
    several noise levels (30, 50, 70).
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.layers = nn.ModuleList()
        width = channels_in
        for channels, kernel, _ in (*ENCODER, *reversed(ENCODER), (channels_in, OUTPUT_KERNEL, False)):
            self.layers.append(nn.Conv2d(width, channels, kernel, padding=kernel // 2, bias=False))
            width = channels

    def forward(self, y: Tensor) -> Tensor:
        """Float [N, C, H, W] in [0, 1], any size, to the same shape."""
        check_batch(y, self.channels_in)
        x = y
        tied: list[Tensor] = []
        for index, (_, _, ties) in enumerate(ENCODER):
            x = F.relu(self.layers[index](x))
            if ties:
                tied.append(x)
        for index, (_, _, ties) in enumerate(reversed(ENCODER), len(ENCODER)):
            x = F.relu(self.layers[index](x))
            if ties:
                x = F.relu(x + tied.pop())
        return self.layers[-1](x)


AUTHORS_KEYS = ((r"^layer_module\.(\d+)\.conv1\.0\.", r"layers.\1."),)
