"""One network for every noise level: the derived network, told σ."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Genotype
from modnas_fast.images.degradations import Degradation, as_level
from modnas_fast.networks.derived import DerivedNet, Stage, relaxed

# log λ of a fresh network: δ is ½ at σ = 1.7 and below 0.01 from 18 on, so that f estimates the image itself. With ½
# at σ = 25, say, it would have to add the noise −1/(λs²)-fold: another multiple at every σ, which it does not learn.
_START = 10.0
_LARGEST_LOGIT = 30.0  # whose sigmoid is 1 in float32: δ at σ = 0


class ConditionedStage(Stage):
    """A stage that is told the level s = σ/255: δ = 1/(1 + λs²) with λ = exp(`log_lambda`), and f sees s.

    f gets s as a constant map beside its image, which goes on beyond the borders. Such a map adds the same to every
    pixel of the stem's first convolution: s times a learned number a channel, `level_weight` [C].
    """

    def __init__(self, genotype: Genotype, channels_in: int) -> None:
        super().__init__(genotype, channels_in)
        del self.delta
        self.level_weight = nn.Parameter(torch.zeros(genotype.channels))
        self.log_lambda = nn.Parameter(torch.tensor(_START))

    def forward(self, x: Tensor, y: Tensor, level: Tensor) -> Tensor:  # type: ignore[override]
        """As `Stage`'s; `level` is s, [N or 1, 1, 1, 1]."""
        first = self.stem[0](x)
        v = self.after_stem(first + (level * self.level_weight.view(1, -1, 1, 1)).to(first.dtype))
        return relaxed(v, y, 1 / (1 + self.log_lambda.exp() * level.square()))


class ConditionedNet(DerivedNet):
    """The denoiser of a genotype for every σ: xᵗ = δ_t(σ)·y + (1 − δ_t(σ))·f_t(xᵗ⁻¹, σ), δ_t(σ) = 1/(1 + λ_t (σ/255)²).

    Eq. 6 has δ as this function of σ; a `DerivedNet` learns its value at one. At a given σ both are the same network
    (`at`), so everything that runs a `DerivedNet` runs this one, at no cost.

    Args:
        genotype, stages, channels_in: as `DerivedNet`'s.
    """

    def _build_stage(self) -> nn.Module:
        return ConditionedStage(self.genotype, self.channels_in)

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:  # type: ignore[override]
        """Denoise a batch.

        Args:
            y: as `DerivedNet.forward`'s.
            sigma: the noise's standard deviation on the 0–255 scale, ≥ 0: a number, or a tensor of one or of [N].

        Returns:
            As `DerivedNet.forward`; differentiable in sigma too.

        Raises:
            ModnasError: as `DerivedNet.forward`, or another number of levels than of images.
        """
        level = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).reshape(-1, 1, 1, 1) / 255
        # Exported programs take one level an image, of which a comparison would make a constant.
        if not torch.compiler.is_exporting() and level.shape[0] not in (1, y.shape[0]):
            raise ModnasError(f"sigma holds {level.shape[0]} levels for {y.shape[0]} images; give one, or one an image")
        return self._unfold(y, level)

    def at(self, sigma: float) -> DerivedNet:
        """The plain network that this one is at σ (0–255 scale): a copy, equal up to rounding.

        Raises:
            ModnasError: as `as_level`.
        """
        sigma = as_level(sigma)
        state = {name: value.detach().clone() for name, value in self.state_dict().items()}
        level = sigma / 255
        for t in range(len(self.stages)):
            log_lambda = state.pop(f"stages.{t}.log_lambda")
            logit = -log_lambda - 2 * math.log(level) if level else torch.full_like(log_lambda, _LARGEST_LOGIT)
            state[f"stages.{t}.delta"] = logit.clamp(max=_LARGEST_LOGIT)
            state[f"stages.{t}.stem.0.bias"] += level * state.pop(f"stages.{t}.level_weight")
        net = DerivedNet(self.genotype, len(self.stages), self.channels_in)
        camera = self.degradation is not None and self.degradation.kind == "camera"
        net.degradation = None if camera else Degradation("awgn", (sigma,))
        net.load_state_dict(state, assign=True)
        return net.train(self.training)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take the state dict of a plain network but for its δ: a start for training, not the same network."""
        known = {name: value for name, value in weights.items() if not name.endswith(".delta")}
        self.load_state_dict(self.state_dict() | known)
