"""Weight inheritance: a derived network cut out of its supernet, equal to what the supernet becomes once discretised.

Discretised means one-hot ω and p, so that a chosen operation counts fully and an alias is its source, and masks on the
channels that deriving dropped. The gates β stay: they scale an operation's outputs, so its last convolution takes them.

Which channels a sliced convolution keeps:

| convolution | inputs | outputs |
|---|---|---|
| stem | all | all |
| `fuse` | those kept of the up-sampled and of the encoder feature, a and b of them | (a + b) // 2, see below |
| a chosen operation's last (a residual block has two) | those that its predecessor kept | those kept, times β |
| every earlier one of it | those that its predecessor kept | the same |
| `out` | those that its predecessor kept | all |

Nothing in the search ranks the outputs of `fuse`, C in the supernet. Those of largest L1 norm stay, taken over the kept
inputs of the kernel and without the bias; of equals the lower index. Each stage ranks its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Block
from modnas_fast.layers import LAST_CONVOLUTIONS, MixedOp, SubPixelConv
from modnas_fast.networks import DerivedNet
from modnas_fast.search.architecture import Architecture, BlockParameters, MixtureParameters
from modnas_fast.search.derive import Derivation, LayerDecision
from modnas_fast.search.stage import SuperBlock, SuperStage
from modnas_fast.search.supernet import SuperNet
from modnas_fast.search.weights import supernet_channels


def inherit_weights(supernet: SuperNet, derivation: Derivation, stages: int | None = None) -> DerivedNet:
    """Slice a supernet's weights into its derived network.

    Args:
        supernet: with all stages' weights, and the β that are folded into them; left as it is.
        derivation: what `derive` made of `supernet.architecture`.
        stages: T of the derived network, the supernet's first ones; by default all.

    Returns:
        A network with weights of its own, in the supernet's precision and on its device. It equals the discretised
        supernet up to rounding.

    Raises:
        ModnasError: more stages than the supernet has, fewer than 1, or a derivation of another width.
    """
    count = len(supernet.stages) if stages is None else stages
    if count > len(supernet.stages):
        raise ModnasError(
            f"stages is {count}, but the supernet has weights for {len(supernet.stages)}; inherit that many or fewer"
        )
    genotype, channels = derivation.genotype, supernet_channels(supernet)
    if genotype.channels != channels:
        raise ModnasError(f"the derivation is of a supernet of {genotype.channels} channels; this one has {channels}")
    with torch.device("meta"):  # the supernet brings every value
        net = DerivedNet(genotype, count, supernet.channels_in)
    tensors: dict[str, Tensor] = {}
    with torch.no_grad():
        for index in range(count):
            slices = _StageSlices(cast(SuperStage, supernet.stages[index]), supernet.architecture, derivation)
            tensors |= {f"stages.{index}.{name}": value for name, value in slices.tensors.items()}
    net.load_state_dict(tensors, assign=True)
    return net


class _StageSlices:
    """One stage of the derived network: `tensors`, named as in its state dict. Channels are ascending index tensors."""

    def __init__(self, stage: SuperStage, architecture: Architecture, derivation: Derivation) -> None:
        self.tensors: dict[str, Tensor] = {"delta": stage.delta.clone()}
        self._decisions = derivation.decisions
        self._device = stage.delta.device
        everything = self._channels(range(derivation.genotype.channels))
        for name, value in stage.stem.named_parameters():
            self.tensors[f"stem.{name}"] = value.clone()
        x, features = everything, list[Tensor]()
        for (name, block), weights, raw in zip(
            derivation.genotype.blocks(), stage.blocks(), architecture.blocks(), strict=True
        ):
            place = f"{'encoder' if name.startswith('EB') else 'decoder'}.{int(name[2:]) - 1}"
            if weights.fuse is not None:
                x = self._fuse(place, weights.fuse, torch.cat((x, len(everything) + features.pop())))
            x = self._normal_layers(place, name, block, weights, raw, x)
            if weights.down is not None:
                features.append(x)
            if weights.resample is not None and raw.resample is not None:
                kind = "up" if weights.down is None else "down"
                decision = self._decisions[f"{name} {kind}"]
                x = self._operation(f"{place}.{kind}", decision, weights.resample, raw.resample, x)
        self._conv("out", stage.out, x, self._channels(range(stage.out.out_channels)))

    def _channels(self, indices: range | tuple[int, ...]) -> Tensor:
        return torch.tensor(indices, device=self._device)

    def _fuse(self, place: str, fuse: nn.Conv2d, inputs: Tensor) -> Tensor:
        norms = fuse.weight[:, inputs].abs().flatten(1).sum(1, dtype=torch.float64)
        outputs = norms.argsort(descending=True, stable=True)[: len(inputs) // 2].sort().values
        self._conv(f"{place}.fuse", fuse, inputs, outputs)
        return outputs

    def _normal_layers(
        self, place: str, name: str, block: Block, weights: SuperBlock, raw: BlockParameters, x: Tensor
    ) -> Tensor:
        """The block's chain of live layers; an alias hands on its source's channels, and so is not in it."""
        for index, _ in block.live_layers():
            x = self._operation(
                f"{place}.layers.{index}",
                self._decisions[f"{name}.{index + 1}"],
                cast(MixedOp, weights.layers[index]),
                cast(MixtureParameters, raw.layers[index]),
                x,
            )
        return x

    def _operation(
        self, place: str, decision: LayerDecision, candidates: MixedOp, raw: MixtureParameters, inputs: Tensor
    ) -> Tensor:
        outputs = self._channels(decision.kept)
        gate = raw.beta[list(candidates).index(decision.op), outputs]
        operation = candidates[decision.op]
        for name, conv in _convolutions(operation):
            if name not in LAST_CONVOLUTIONS:
                self._conv(f"{place}.{name}", conv, inputs, inputs)
            elif isinstance(operation, SubPixelConv):  # channel c of the result is shuffled from channels 4·c … 4·c + 3
                phases = (4 * outputs[:, None] + torch.arange(4, device=self._device)).flatten()
                self._conv(f"{place}.{name}", conv, inputs, phases, gate.repeat_interleave(4))
            else:
                self._conv(f"{place}.{name}", conv, inputs, outputs, gate)
        return outputs

    def _conv(
        self,
        name: str,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        inputs: Tensor,
        outputs: Tensor,
        gate: Tensor | None = None,
    ) -> None:
        """Store the convolution between these channels, its outputs times `gate`; a depthwise one has outputs only."""
        assert conv.bias is not None
        transposed = isinstance(conv, nn.ConvTranspose2d)
        weight = conv.weight.transpose(0, 1) if transposed else conv.weight  # [C_out, C_in or 1, k, k]
        weight, bias = weight[outputs], conv.bias[outputs]
        if conv.groups == 1:
            weight = weight[:, inputs]
        if gate is not None:
            weight, bias = gate[:, None, None, None] * weight, gate * bias
        self.tensors[f"{name}.weight"] = (weight.transpose(0, 1) if transposed else weight).contiguous()
        self.tensors[f"{name}.bias"] = bias


def _convolutions(operation: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.ConvTranspose2d]]:
    return cast("Iterator[tuple[str, nn.Conv2d | nn.ConvTranspose2d]]", operation.named_children())
