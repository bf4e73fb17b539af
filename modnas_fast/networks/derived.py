"""The derived, fixed network: a genotype unfolded T times under the model-guided iteration (paper Eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import SIZE_MULTIPLE, Block, Genotype
from modnas_fast.images.degradations import Degradation
from modnas_fast.layers import build_operation


class DerivedBlock(nn.Module):
    """The live normal layers of one block, in order; `layers` is keyed by their index in the genotype."""

    def __init__(self, block: Block, channels_in: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for index, layer in block.live_layers():
            self.layers[str(index)] = build_operation("normal", layer.op, channels_in, layer.channels)
            channels_in = layer.channels

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = layer(x)
        return x


class EncoderBlock(DerivedBlock):
    """Normal layers, whose output is the encoder feature, then the down-sampling layer `down`; returns both outputs."""

    def __init__(self, block: Block, channels_in: int) -> None:
        super().__init__(block, channels_in)
        assert block.resample is not None
        self.down = build_operation("down", block.resample.op, block.channels_out(channels_in), block.resample.channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        feature = super().forward(x)
        return feature, self.down(feature)


class DecoderBlock(DerivedBlock):
    """`fuse` of concat(previous output, encoder feature) (not in DB1), normal layers, `up` (not in DB4)."""

    def __init__(self, block: Block, channels_in: int, channels_skip: int) -> None:
        if channels_skip:
            concatenated = channels_in + channels_skip
            channels_in = concatenated // 2
        super().__init__(block, channels_in)
        self.fuse = nn.Conv2d(concatenated, channels_in, 3, padding=1) if channels_skip else None
        width = block.channels_out(channels_in)
        self.up = build_operation("up", block.resample.op, width, block.resample.channels) if block.resample else None

    def forward(self, x: Tensor, feature: Tensor | None = None) -> Tensor:
        if self.fuse is not None:
            assert feature is not None
            x = self.fuse(torch.cat((x, feature), dim=1))
        x = super().forward(x)
        return x if self.up is None else self.up(x)


class Stage(nn.Module):
    """One unfolded step, xᵗ = δ·y + (1 − δ)·f(xᵗ⁻¹) (Eq. 6b), with weights of its own.

    f is the U-net: a stem of two 3×3 convolutions (the first without ReLU), EB1-EB3, DB1-DB4, then ReLU → 1×1. δ =
    sigmoid of the learned scalar `delta`, which starts at 0 (δ = 0.5).
    """

    def __init__(self, genotype: Genotype, channels_in: int) -> None:
        super().__init__()
        width = genotype.channels
        self.stem = nn.ModuleList([nn.Conv2d(channels_in, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)])
        self.encoder = nn.ModuleList()
        features: list[int] = []
        for block in genotype.encoder:
            self.encoder.append(EncoderBlock(block, width))
            features.append(block.channels_out(width))
            width = block.resample.channels  # type: ignore[union-attr]
        self.decoder = nn.ModuleList()
        skip = 0
        for block in genotype.decoder:
            self.decoder.append(DecoderBlock(block, width, skip))
            fused = (width + skip) // 2 if skip else width
            width = block.resample.channels if block.resample else block.channels_out(fused)
            skip = features.pop() if features else 0
        self.out = nn.Conv2d(width, channels_in, 1)
        self.delta = nn.Parameter(torch.zeros(()))

    def denoiser(self, x: Tensor) -> Tensor:
        """v = f(x), [N, C, H, W] to the same shape; H and W must be multiples of 8."""
        return self.after_stem(self.stem[0](x))

    def after_stem(self, x: Tensor) -> Tensor:
        """f without the stem's first convolution, whose result this takes."""
        x = self.stem[1](F.relu(x))
        features: list[Tensor] = []
        for block in self.encoder:
            feature, x = block(x)
            features.append(feature)
        x = self.decoder[0](x)
        for block in self.decoder[1:]:
            x = block(x, features.pop())
        return self.out(F.relu(x))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """xᵗ from xᵗ⁻¹ (`x`) and the noisy image (`y`), both [N, C, H, W] with H and W multiples of 8."""
        return relaxed(self.denoiser(x), y, self.delta.sigmoid())


def relaxed(v: Tensor, y: Tensor, delta: Tensor) -> Tensor:
    """δ·y + (1 − δ)·v (Eq. 6b), in y's precision also where autocast gives v in bf16."""
    return v + delta * (y - v)


class DerivedNet(nn.Module):
    """The denoiser of a genotype: x⁰ = y; xᵗ = δ_t·y + (1 − δ_t)·f_t(xᵗ⁻¹), t = 1…T.

    Args:
        genotype: the architecture, shared by all stages.
        stages: T ≥ 1; every stage has weights of its own.
        channels_in: 1 for gray, 3 for RGB.

    Raises:
        ModnasError: `stages` or `channels_in` below 1.
    """

    def __init__(self, genotype: Genotype, stages: int = 1, channels_in: int = 1) -> None:
        super().__init__()
        for name, value in (("stages", stages), ("channels_in", channels_in)):
            if value < 1:
                raise ModnasError(f"{name} is {value}; it must be at least 1")
        self.genotype = genotype
        self.channels_in = channels_in
        self.degradation: Degradation | None = None  # what its weights were trained to undo, where known
        self.stages = nn.ModuleList(self._build_stage() for _ in range(stages))

    def _build_stage(self) -> nn.Module:
        return Stage(self.genotype, self.channels_in)

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' precision."""
        return self.get_parameter("stages.0.out.weight").dtype

    def forward(self, y: Tensor) -> Tensor:
        """Denoise a batch.

        Args:
            y: noisy images, float [N, C, H, W], nominally in [0, 1], any H, W ≥ 1, C = `channels_in`. Sizes that are
                no multiples of 8 are padded (replicate, right and bottom) and cropped back.

        Returns:
            The estimates xᵀ, of y's shape; differentiable in y and all parameters. Values are not clipped.

        Raises:
            ModnasError: y is no float [N, C, H, W] with this network's C.
        """
        return self._unfold(y)

    def _unfold(self, y: Tensor, *condition: Tensor) -> Tensor:
        """`condition` is what all stages are told beside the images."""
        check_batch(y, self.channels_in)
        height, width = y.shape[-2:]
        y = pad_to_multiple(y)
        x = y
        for stage in self.stages:
            x = stage(x, y, *condition)
        return x[..., :height, :width]


def gray_to_rgb(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A gray network's state dict as that of an RGB one, which does the same to a gray image in three channels.

    The stems' first kernels are spread over the channels, a third to each; the last layers' are given to all.
    """
    spread = dict(weights)
    for name, value in weights.items():
        if name.endswith("stem.0.weight"):
            spread[name] = value.repeat(1, 3, 1, 1) / 3
        elif name.endswith((".out.weight", ".out.bias")):
            spread[name] = value.repeat(3, *(1 for _ in value.shape[1:]))
    return spread


def with_stages(weights: Mapping[str, Tensor], stages: int) -> dict[str, Tensor]:
    """A state dict of at most `stages` stages as that of so many: a start for training, not the same network.

    Copies of the first stage come before it. Their δ is ½ again, as in a fresh network: with more, a stage says so
    little that training silences it.
    """
    added = stages - 1 - max(int(name.split(".")[1]) for name in weights)
    deeper = {}
    for name, value in weights.items():
        _, index, rest = name.split(".", 2)
        deeper[f"stages.{int(index) + added}.{rest}"] = value
        for copy in range(added if index == "0" else 0):
            deeper[f"stages.{copy}.{rest}"] = torch.zeros_like(value) if rest == "delta" else value
    return deeper


def check_batch(y: Tensor, channels_in: int) -> None:
    """Raise `ModnasError` unless `y` is a float [N, channels_in, H ≥ 1, W ≥ 1]."""
    if y.ndim != 4 or y.shape[1] != channels_in or not y.is_floating_point() or 0 in y.shape[2:]:
        raise ModnasError(
            f"expected float images in [0, 1] as [N, {channels_in}, H, W], got {y.dtype} {list(y.shape)}"
            + ("; for a gray network run RGB one channel at a time" if channels_in == 1 and y.ndim == 4 else "")
        )


def pad_to_multiple(y: Tensor) -> Tensor:
    """Replicate the last row and column until H and W are multiples of 8: the one padding rule of every backend."""
    # Written so that torch.export can see that 8 divides the new size; it traces one branch for all sizes.
    bottom, right = ((size + SIZE_MULTIPLE - 1) // SIZE_MULTIPLE * SIZE_MULTIPLE - size for size in y.shape[-2:])
    if torch.compiler.is_exporting() or bottom or right:
        return F.pad(y, (0, right, 0, bottom), mode="replicate")
    return y
