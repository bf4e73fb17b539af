"""What a network costs, counted by walking the very modules that run, on the meta device: no memory, no arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import SIZE_MULTIPLE, Block, Genotype, Layer, Skip
from modnas_fast.networks.derived import DecoderBlock, DerivedNet, EncoderBlock, Stage
from modnas_fast.networks.receptive_field import receptive_field_radius

MAX_SIDE = 2**20  # beyond, byte counts would leave 64 bits


@dataclass(frozen=True)
class LayerSummary:
    """One row of a stage's table.

    Attributes:
        name: its place, as the paper calls it: "stem.1", "EB1.1", "EB1 down", "DB2 fuse", "DB2.1", "DB2 up", "out";
            "delta" is the stage's δ.
        op: its name in `PRIMITIVES`, "skip", or what is fixed: "conv_3x3", "conv_1x1", "relaxation".
        height, width: of its output, of the padded image.
        channels_in, channels_out: widths; of a skip, those of the layer that it is an alias of.
        parameters, macs, macs_with_bias: zero where the layer is not built.
        source: of a skip, the layer whose output it is, or "input", the block's (fused) input; otherwise None.
        used: whether it reaches the block's output; a later skip may leave it unused, and then it is not built.
    """

    name: str
    op: str
    height: int
    width: int
    channels_in: int
    channels_out: int
    parameters: int = 0
    macs: int = 0
    macs_with_bias: int = 0
    source: str | None = None
    used: bool = True


@dataclass(frozen=True)
class Summary:
    """A network of `stages` stages on one image; the paper's “FLOPs” are `macs_with_bias` at 48×48.

    Attributes:
        genotype: its name.
        stages, channels_in, height, width: what was asked; costs are those of the image padded to multiples of 8.
        parameters: weights, biases and one δ a stage.
        macs: multiply-accumulates of all convolutions, as they run: a 1×1 beside an interpolation on the smaller side,
            and a transposed one without the zeros that it could be said to multiply.
        macs_with_bias: `macs`, and one for every output value of a convolution.
        receptive_field: 2·`receptive_field_radius` + 1, the side in pixels of what an output pixel may depend on.
        receptive_field_radius: how far an output pixel sees through all stages, exactly. It may be less than `stages`
            times that of one: the pixels that see farthest need not be those that the next stage's read.
        activation_bytes: peak of the float32 tensors alive at once in plain PyTorch without autograd, from the image
            to the result, weights apart. Operations run one by one; while one does, its inputs and its output count,
            and so does all that Python still refers to: encoder features, a module's input until it returns. A
            convolution's scratch memory is the library's affair and does not count.
        layers: the table of one stage; its parameters and MACs, times `stages`, are the totals.
    """

    genotype: str
    stages: int
    channels_in: int
    height: int
    width: int
    parameters: int
    macs: int
    macs_with_bias: int
    receptive_field: int
    receptive_field_radius: int
    activation_bytes: int
    layers: tuple[LayerSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields in order, as JSON types."""
        return asdict(self)


def summarize(genotype: Genotype, stages: int = 1, channels_in: int = 1, height: int = 48, width: int = 48) -> Summary:
    """Count what a network of this genotype costs on one [1, channels_in, height, width] image.

    Raises:
        ModnasError: `stages` or `channels_in` below 1, or a side outside 1…`MAX_SIDE`.
    """
    for name, side in (("height", height), ("width", width)):
        if not 1 <= side <= MAX_SIDE:
            raise ModnasError(f"{name} is {side}; it must be 1…{MAX_SIDE}")
    with torch.device("meta"):
        net = DerivedNet(genotype, stages, channels_in)
        macs: dict[nn.Module, tuple[int, int]] = {}
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.register_forward_hook(partial(_count, macs))
        with torch.no_grad(), _LiveMemory() as memory:
            net(torch.empty(1, channels_in, height, width))
    radius = receptive_field_radius(genotype, stages)
    return Summary(
        genotype=genotype.name,
        stages=stages,
        channels_in=channels_in,
        height=height,
        width=width,
        parameters=_parameters(net),
        macs=sum(count for count, _ in macs.values()),
        macs_with_bias=sum(count + biases for count, biases in macs.values()),
        receptive_field=2 * radius + 1,
        receptive_field_radius=radius,
        activation_bytes=memory.peak,
        layers=tuple(_StageTable(genotype, net, macs, height, width).rows()),
    )


def reached_positions(block: Block) -> tuple[int, ...]:
    """The layers, from 1, through which the block's output comes, first to last: live ones and skips between them."""
    reached: list[int] = []
    position = len(block.layers)
    while position > 0:
        reached.append(position)
        layer = block.layers[position - 1]
        position = layer.source if isinstance(layer, Skip) else position - 1
    return tuple(reversed(reached))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _count(macs: dict[nn.Module, tuple[int, int]], conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Forward hook: `macs[conv]` = (multiply-accumulates, biases added) from [1, C_in, H, W] to [1, C_out, H', W']."""
    assert isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d))
    # Every weight meets every position once: of the output, but of the input where a transposed convolution scatters.
    positions = (inputs[0] if isinstance(conv, nn.ConvTranspose2d) else output).shape[-2:].numel()
    macs[conv] = (conv.weight.numel() * positions, output.numel())


class _LiveMemory(TorchDispatchMode):
    """`peak`: the most bytes that the storages made inside were alive with, looked at after each operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._storages: dict[Any, int] = {}  # weak reference → bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._storages[StorageWeakRef(storage)] = storage.nbytes()
        self._storages = {reference: size for reference, size in self._storages.items() if not reference.expired()}
        self.peak = max(self.peak, sum(self._storages.values()))
        return result


class _StageTable:
    """The rows of a network's first stage, in the order in which the layers run."""

    def __init__(
        self, genotype: Genotype, net: DerivedNet, macs: dict[nn.Module, tuple[int, int]], height: int, width: int
    ) -> None:
        stage = net.stages[0]
        assert isinstance(stage, Stage)
        self._genotype, self._stage, self._macs = genotype, stage, macs
        self._image_channels = net.channels_in
        self._size = (height + -height % SIZE_MULTIPLE, width + -width % SIZE_MULTIPLE)
        self._channels = net.channels_in  # of the tensor that the next row reads

    def rows(self) -> Iterator[LayerSummary]:
        for number, conv in enumerate(self._stage.stem, 1):
            yield self._row(f"stem.{number}", "conv_3x3", conv, self._genotype.channels)
        features: list[int] = []
        modules = (*self._stage.encoder, *self._stage.decoder)
        for (name, block), module in zip(self._genotype.blocks(), modules, strict=True):
            if isinstance(module, DecoderBlock) and module.fuse is not None:
                self._channels += features.pop()
                yield self._row(f"{name} fuse", "conv_3x3", module.fuse, module.fuse.out_channels)
            yield from self._normal_rows(name, block, module)
            if isinstance(module, EncoderBlock):
                features.append(self._channels)
                yield self._resampled_row(f"{name} down", block, module.down, 0.5)
            elif isinstance(module, DecoderBlock) and module.up is not None:
                yield self._resampled_row(f"{name} up", block, module.up, 2)
        yield self._row("out", "conv_1x1", self._stage.out, self._image_channels)
        yield LayerSummary("delta", "relaxation", *self._size, self._channels, self._channels, parameters=1)

    def _normal_rows(self, name: str, block: Block, module: nn.Module) -> Iterator[LayerSummary]:
        built = module.layers
        assert isinstance(built, nn.ModuleDict)
        reached = reached_positions(block)
        widths = [self._channels]  # of L⁰, L¹, …
        for position, layer in enumerate(block.layers, 1):
            place, used = f"{name}.{position}", position in reached
            if isinstance(layer, Skip):
                widths.append(widths[layer.source])
                source = f"{name}.{layer.source}" if layer.source else "input"
                yield LayerSummary(place, "skip", *self._size, widths[-1], widths[-1], source=source, used=used)
                continue
            self._channels = widths[-1]
            widths.append(layer.channels)
            if used:
                yield self._row(place, layer.op, built[str(position - 1)], layer.channels)
            else:
                yield LayerSummary(place, layer.op, *self._size, self._channels, layer.channels, used=False)
        self._channels = widths[-1]

    def _resampled_row(self, place: str, block: Block, module: nn.Module, scale: float) -> LayerSummary:
        assert isinstance(block.resample, Layer)
        self._size = (int(self._size[0] * scale), int(self._size[1] * scale))
        return self._row(place, block.resample.op, module, block.resample.channels)

    def _row(self, place: str, op: str, module: nn.Module, channels_out: int) -> LayerSummary:
        counts = [self._macs[part] for part in module.modules() if part in self._macs]
        macs, biases = sum(count for count, _ in counts), sum(count for _, count in counts)
        channels_in, self._channels = self._channels, channels_out
        return LayerSummary(place, op, *self._size, channels_in, channels_out, _parameters(module), macs, macs + biases)
