"""The supernet: every candidate of every layer at once, unfolded T times (paper Fig. 1 and Eq. 6-11)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.networks.derived import check_batch, pad_to_multiple
from modnas_fast.ops import check_backend, select_backend
from modnas_fast.search.architecture import Architecture
from modnas_fast.search.backends import FUNCTIONS
from modnas_fast.search.stage import SuperStage


class SuperNet(nn.Module):
    """The search space as one differentiable network: x⁰ = y; xᵗ = δ_t·y + (1 − δ_t)·f_t(xᵗ⁻¹), t = 1…T.

    A layer's output is the mixture of its candidates, z = Σ_o softmax(α)_o·β_o ⊙ o(L^{ℓ−1}), and in a normal layer
    L^ℓ = Σ_{i<ℓ} p_i·L^i + p_ℓ·z with p = softmax(γ). All stages share α, β, γ (`architecture`, see
    `search.architecture`); each has weights of its own, named as in `DerivedNet` with the operation's name after the
    layer's: `stages.0.encoder.1.layers.2.<op>.…` is what `DerivedNet` calls `stages.0.encoder.1.layers.2.…`.

    Backends compute the same from the same state dict; `backend` may be changed on a live network.

    Args:
        stages: T ≥ 1.
        channels: C ≥ 1, the width of every layer.
        channels_in: 1 for gray, 3 for RGB.
        backend: "auto", "reference", "folded" or "fused", which needs a GPU with Triton and has no float64; see
            `explain_backend`.
        depth_search: "dense", or "skip" for the ablation without γ; see `search.architecture`.

    Raises:
        ModnasError: a size below 1, or an unknown backend or `depth_search`.
    """

    def __init__(
        self,
        stages: int = 2,
        channels: int = 48,
        channels_in: int = 1,
        backend: str = "auto",
        depth_search: str = "dense",
    ) -> None:
        super().__init__()
        for name, value in (("stages", stages), ("channels", channels), ("channels_in", channels_in)):
            if value < 1:
                raise ModnasError(f"{name} is {value}; it must be at least 1")
        self.backend = check_backend(backend)
        self.channels_in = channels_in
        self.stages = nn.ModuleList(SuperStage(channels, channels_in) for _ in range(stages))
        self.architecture = Architecture(channels, depth_search)

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """W: the stages' weights, δ among them; what the training half of the data trains."""
        return self.stages.parameters()

    def architecture_parameters(self) -> Iterator[nn.Parameter]:
        """A = {α, β, γ}: what the validation half trains.

        Freeze it in a W-step, and W in an A-step: gradients that nobody needs then cost nothing.
        """
        return self.architecture.parameters()

    def forward(self, y: Tensor) -> Tensor:
        """Denoise a batch.

        Args:
            y: noisy images, float [N, C, H, W], nominally in [0, 1], any H, W ≥ 1, C = `channels_in`. Sizes that are
                no multiples of 8 are padded (replicate, right and bottom) and cropped back.

        Returns:
            The estimates xᵀ, of y's shape and dtype; differentiable once in y and all parameters. Values are not
            clipped.

        Raises:
            ModnasError: y is no float [N, C, H, W] with this network's C, or the backend cannot run on y's device.
        """
        check_batch(y, self.channels_in)
        backend = FUNCTIONS[select_backend(self.backend, y.device)]
        functions = backend(cast("list[SuperStage]", list(self.stages)), self.architecture)
        height, width = y.shape[-2:]
        y = pad_to_multiple(y)
        x = y
        for stage, of_stage in zip(self.stages, functions, strict=True):
            x = stage(x, y, of_stage)
        return x[..., :height, :width]
