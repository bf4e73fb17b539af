"""A genotype and its weights as the flat list of layers that the compiled engine runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import SIZE_MULTIPLE, Block, Genotype, Layer

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Step:
    """One layer of a stage; the fields are those of `csrc/layer.h`, weights by their names there."""

    name: str
    op: str
    inputs: tuple[int, ...]
    output: int
    channels: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    relu: bool = False
    shortcut: int = -1
    delta: float = 0.0
    weights: dict[str, Array] = field(default_factory=dict)


def build_program(
    genotype: Genotype, weights: Mapping[str, Array], stages: int, channels_in: int
) -> tuple[tuple[Step, ...], ...]:
    """The steps of every stage.

    Args:
        genotype: the architecture.
        weights: float32 arrays under the names of `DerivedNet`'s state dict.
        stages, channels_in: as `DerivedNet`'s.

    Raises:
        ModnasError: a name is missing or unknown, an array has another shape than the genotype asks for, or it holds
            NaN or infinity.
    """
    taken = _Weights(weights)
    program = tuple(tuple(_Stage(genotype, channels_in, taken, f"stages.{t}.").steps()) for t in range(stages))
    taken.check_all_used()
    return program


class _Weights:
    """Arrays by name, checked as they are taken."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._used: set[str] = set()

    def take(self, name: str, *shape: int) -> Array:
        if name not in self._arrays:
            raise ModnasError(f"the weights do not fit the genotype: {name} is missing")
        array = np.asarray(self._arrays[name], dtype=np.float32)
        if array.shape != shape:
            raise ModnasError(f"the weights do not fit the genotype: {name} is {list(array.shape)}, not {list(shape)}")
        if not np.isfinite(array).all():
            raise ModnasError(f"the weights cannot be used: {name} holds NaN or infinite values")
        self._used.add(name)
        return array

    def check_all_used(self) -> None:
        unknown = sorted(self._arrays.keys() - self._used)
        if unknown:
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise ModnasError(f"the weights do not fit the genotype: {unknown[0]} is unknown{more}")


class _Stage:
    """Walks a stage as `networks.derived.Stage` does; tensors are numbered as they are made, 0 is the image."""

    def __init__(self, genotype: Genotype, channels_in: int, weights: _Weights, prefix: str) -> None:
        self._genotype, self._channels_in, self._weights, self._prefix = genotype, channels_in, weights, prefix
        self._current, self._width = 0, channels_in  # the tensor that the next layer reads, and its channels
        self._count = 0

    def steps(self) -> Iterator[Step]:
        for index in range(2):
            yield self._conv(f"stem.{index + 1}", f"stem.{index}", self._genotype.channels, 3, relu=index == 1)
        features: list[tuple[int, int]] = []
        for index, (name, block) in enumerate(self._genotype.blocks()):
            encoder = index < len(self._genotype.encoder)
            place = f"encoder.{index}" if encoder else f"decoder.{index - len(self._genotype.encoder)}"
            if not encoder and index > len(self._genotype.encoder):
                yield self._fuse(f"{name} fuse", f"{place}.fuse", *features.pop())
            for position, layer in block.live_layers():
                yield from self._normal(f"{name}.{position + 1}", f"{place}.layers.{position}", layer)
            if encoder:
                features.append((self._current, self._width))
                yield from self._down(f"{name} down", f"{place}.down", block)
            elif block.resample is not None:
                yield from self._up(f"{name} up", f"{place}.up", block.resample)
        logit = float(self._weights.take(f"{self._prefix}delta"))
        step = self._step("out", "output", self._channels_in, relu=True, delta=1 / (1 + np.exp(-logit)))
        yield self._with_weights(step, "out", (self._channels_in, self._width_before, 1, 1))

    def _step(self, name: str, op: str, channels: int, **settings: Any) -> Step:
        self._count += 1
        step = Step(name, op, (self._current,), self._count, channels, **settings)
        self._width_before = self._width
        self._current, self._width = self._count, channels
        return step

    def _with_weights(self, step: Step, place: str, shape: tuple[int, ...], kind: str = "") -> Step:
        """Adds the weight of this shape and the bias at `place`; `kind` is "", "depthwise_" or "shortcut_"."""
        biases = shape[1] if step.op == "transposed" else shape[0]
        step.weights[f"{kind}weight"] = self._weights.take(f"{self._prefix}{place}.weight", *shape)
        step.weights[f"{kind}bias"] = self._weights.take(f"{self._prefix}{place}.bias", biases)
        return step

    def _conv(self, name: str, place: str, channels: int, kernel: int, *, relu: bool, stride: int = 1) -> Step:
        step = self._step(name, "convolution", channels, kernel=kernel, stride=stride, relu=relu)
        return self._with_weights(step, place, (channels, self._width_before, kernel, kernel))

    def _fuse(self, name: str, place: str, feature: int, width: int) -> Step:
        """A 3×3 convolution of the current tensor and an encoder feature side by side, without ReLU."""
        total = self._width + width
        step = self._step(name, "convolution", total // 2, kernel=3)
        step.inputs = (*step.inputs, feature)
        return self._with_weights(step, place, (total // 2, total, 3, 3))

    def _separable(self, name: str, places: tuple[str, str], channels: int, kernel: int, dilation: int) -> Step:
        step = self._step(name, "separable", channels, kernel=kernel, dilation=dilation, relu=True)
        self._with_weights(step, places[0], (self._width_before, 1, kernel, kernel), "depthwise_")
        return self._with_weights(step, places[1], (channels, self._width_before, 1, 1))

    def _normal(self, name: str, place: str, layer: Layer) -> Iterator[Step]:
        op, _, size = layer.op.rpartition("_")
        kernel = int(size[0])
        if op == "conv":
            yield self._conv(name, f"{place}.conv", layer.channels, kernel, relu=True)
        elif op == "dil_conv":
            places = (f"{place}.depthwise", f"{place}.pointwise")
            yield self._separable(name, places, layer.channels, kernel, 2)
        elif op == "sep_conv":
            for half, channels in ((1, self._width), (2, layer.channels)):
                places = (f"{place}.depthwise{half}", f"{place}.pointwise{half}")
                yield self._separable(f"{name}.{half}", places, channels, kernel, 1)
        else:
            source, width = self._current, self._width
            yield self._conv(f"{name}.1", f"{place}.conv1", width, 3, relu=True)
            step = self._conv(f"{name}.2", f"{place}.conv2", layer.channels, 3, relu=True)
            step.shortcut = source
            yield self._with_weights(step, f"{place}.shortcut", (layer.channels, width, 1, 1), "shortcut_")

    def _down(self, name: str, place: str, block: Block) -> Iterator[Step]:
        assert block.resample is not None
        op, channels = block.resample.op, block.resample.channels
        if op == "conv_3x3":
            yield self._conv(name, f"{place}.conv", channels, 3, relu=True, stride=2)
            return
        step = self._conv(name, f"{place}.pointwise", channels, 1, relu=False, stride=2)  # nearest: the even pixels
        if op != "nearest":
            # The mean of 2×2 pixels, then 1×1, is one 2×2 convolution of stride 2.
            step.kernel = 2
            step.weights["weight"] = np.broadcast_to(step.weights["weight"] / 4, (channels, self._width_before, 2, 2))
        yield step

    def _up(self, name: str, place: str, layer: Layer) -> Iterator[Step]:
        channels = layer.channels
        if layer.op == "deconv_3x3":
            step = self._step(name, "transposed", channels, kernel=3, relu=True)
            yield self._with_weights(step, f"{place}.conv", (self._width_before, channels, 3, 3))
        elif layer.op == "sub_pixel":
            step = self._step(name, "sub_pixel", channels, kernel=3, relu=True)
            yield self._with_weights(step, f"{place}.conv", (4 * channels, self._width_before, 3, 3))
        else:
            # The 1×1 convolution commutes with the interpolation, exactly, and runs on the smaller side.
            yield self._conv(f"{name} 1x1", f"{place}.pointwise", channels, 1, relu=False)
            yield self._step(name, "bilinear" if layer.op == "bilinear" else "nearest", channels)


def native_layer(native: Any, step: Step) -> Any:
    """The step as a `Layer` of the extension module `native`."""
    layer = native.Layer()
    layer.name, layer.op, layer.inputs, layer.output = step.name, getattr(native.Op, step.op), step.inputs, step.output
    layer.channels, layer.kernel, layer.stride, layer.dilation = step.channels, step.kernel, step.stride, step.dilation
    layer.relu, layer.shortcut, layer.delta = step.relu, step.shortcut, step.delta
    for name, array in step.weights.items():
        getattr(layer, f"set_{name}")(array)
    return layer


assert SIZE_MULTIPLE == 8, "csrc pads images to multiples of 8"
