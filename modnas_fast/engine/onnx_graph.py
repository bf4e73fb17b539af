"""A derived network as an ONNX graph, built from the same list of layers that the compiled engine runs.

The graph takes images of any size: it pads them as `DerivedNet` does and crops the result. It uses standard operators
only. Needs the package `onnx` (the extra `onnx`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modnas_fast.engine.program import Array, Step, build_program
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import SIZE_MULTIPLE
from modnas_fast.networks import ConditionedNet, DerivedNet
from modnas_fast.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 23  # of 2025; what today's runtimes read
_IR_VERSION = 11
INPUT, LEVEL, OUTPUT = "noisy", "sigma", "clean"
_MEANINGS = {
    INPUT: "noisy images, in [0, 1]",
    LEVEL: "the noise's standard deviation in each image, on the 0-255 scale",
    OUTPUT: "the estimates, not clipped",
}


def build_onnx(net: DerivedNet, metadata: Mapping[str, str]) -> ModelProto:
    """The network as a checked ONNX model in float32.

    Args:
        net: the network; its precision is converted.
        metadata: recorded as the model's `metadata_props`.

    Returns:
        A model with the input `noisy` and the output `clean`, both [batch, C, height, width] with any batch, height and
        width of at least 1; values as in `DerivedNet.forward`, not clipped. A network for every σ has a second input,
        `sigma`, [batch] on the 0–255 scale.

    Raises:
        ModnasError: the package `onnx` is missing, or the weights hold NaN or infinity.
    """
    try:
        import onnx
    except ImportError:
        raise ModnasError("ONNX export needs the package onnx: pip install 'modnas-fast[onnx]'") from None
    conditions = _conditions(net)
    plain = net.at(0) if isinstance(net, ConditionedNet) else net
    weights = {name: value.detach().cpu().float().numpy() for name, value in plain.state_dict().items()}
    program = build_program(net.genotype, weights, len(net.stages), net.channels_in)
    builder = _Builder()
    noisy, size = builder.pad(INPUT)
    x = noisy
    for index, (steps, condition) in enumerate(zip(program, conditions, strict=True)):
        x = builder.stage(f"stage{index + 1}", steps, x, noisy, condition)
    builder.crop(x, size)
    shape: list[str | int | None] = ["batch", net.channels_in, "height", "width"]
    inputs = {INPUT: shape} | ({LEVEL: ["batch"]} if isinstance(net, ConditionedNet) else {})
    described = [
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, axes, doc_string=_MEANINGS[name])
            for name, axes in values.items()
        ]
        for values in (inputs, {OUTPUT: shape})
    ]
    graph = onnx.helper.make_graph(builder.nodes, "modnas_fast", described[0], described[1], builder.constants)
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(
        graph,
        opset_imports=[opset],
        ir_version=_IR_VERSION,
        producer_name="modnas-fast",
        producer_version=__version__,
    )
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


@dataclass
class _Condition:
    """How a stage uses s = σ/255: s · `level_weight` is added to the stem's first convolution, and δ = 1/(1 + λs²)."""

    level_weight: Array
    penalty: float  # λ


def _conditions(net: DerivedNet) -> list[_Condition | None]:
    """A stage's each; None where it is not told σ."""
    if not isinstance(net, ConditionedNet):
        return [None] * len(net.stages)
    state = {name: value.detach().cpu().float().numpy() for name, value in net.state_dict().items()}
    return [
        _Condition(state[f"stages.{t}.level_weight"], float(np.exp(state[f"stages.{t}.log_lambda"])))
        for t in range(len(net.stages))
    ]


class _Builder:
    """Collects nodes and constants; methods that add nodes return the name of what the last one computes."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._names: set[str] = set()

    def _node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        self._names.add(output)
        return output

    def _constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        if name not in self._names:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
            self._names.add(name)
        return name

    def _integers(self, name: str, *values: int) -> str:
        return self._constant(name, np.array(values, np.int64))

    def pad(self, image: str) -> tuple[str, str]:
        """The image, its last row and column repeated up to multiples of 8; and its height and width before."""
        size = self._node("Shape", [image], "size", start=2)
        missing = self._node(
            "Mod", [self._node("Neg", [size], "minus_size"), self._integers("size_multiple", SIZE_MULTIPLE)], "missing"
        )
        pads = self._node("Concat", [self._integers("no_pads", *[0] * 6), missing], "pads", axis=0)
        return self._node("Pad", [image, pads], "padded", mode="edge"), size

    def crop(self, image: str, size: str) -> None:
        self._node("Slice", [image, self._integers("origin", 0, 0), size, self._integers("axes", 2, 3)], OUTPUT)

    def stage(self, place: str, steps: Sequence[Step], x: str, noisy: str, condition: _Condition | None) -> str:
        """xᵗ from xᵗ⁻¹ (`x`) and the padded noisy image."""
        tensors = {0: x}
        for step in steps:
            name = f"{place}/{step.name}"
            inputs = [self._relu(tensors[index]) if step.relu else tensors[index] for index in step.inputs]
            source = inputs[0] if len(inputs) == 1 else self._node("Concat", inputs, f"{name}/concat", axis=1)
            if step.op == "output":
                delta = self._delta(name, condition) if condition else None
                tensors[step.output] = self._output(step, name, source, noisy, delta)
            else:
                tensors[step.output] = self._layer(step, name, source)
            if condition and step is steps[0]:
                tensors[step.output] = self._tell_level(name, tensors[step.output], condition)
            if step.shortcut >= 0:
                shortcut = self._conv(step, f"{name}/shortcut", tensors[step.shortcut], "shortcut_")
                tensors[step.output] = self._node("Add", [tensors[step.output], shortcut], f"{name}/sum")
        return tensors[steps[-1].output]

    def _relu(self, x: str) -> str:
        name = f"{x}/relu"
        return name if name in self._names else self._node("Relu", [x], name)

    def _layer(self, step: Step, name: str, x: str) -> str:
        if step.op == "convolution":
            return self._conv(step, name, x, kernel=step.kernel, strides=[step.stride] * 2)
        if step.op == "separable":
            groups = int(step.weights["depthwise_weight"].shape[0])
            dilations = [step.dilation] * 2
            x = self._conv(step, f"{name}/depthwise", x, "depthwise_", step.kernel, group=groups, dilations=dilations)
            return self._conv(step, name, x)
        if step.op == "transposed":
            operands = self._weights(step, name)
            return self._node(
                "ConvTranspose", [x, *operands], name, strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]
            )
        if step.op == "sub_pixel":
            x = self._conv(step, f"{name}/conv", x, kernel=step.kernel)
            return self._node("DepthToSpace", [x], name, blocksize=2, mode="CRD")
        return self._enlarge(step, name, x)

    def _enlarge(self, step: Step, name: str, x: str) -> str:
        scales = self._constant("twice", np.array([1, 1, 2, 2], np.float32))
        if step.op == "bilinear":
            settings = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        else:
            settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self._node("Resize", [x, "", scales], name, **settings)

    def _level(self) -> str:
        """s = σ/255, [batch, 1, 1, 1]."""
        if "level" not in self._names:
            sigma = self._node("Reshape", [LEVEL, self._integers("level_shape", -1, 1, 1, 1)], "sigma_of_images")
            self._node("Mul", [sigma, self._constant("unit", np.array(1 / 255, np.float32))], "level")
        return "level"

    def _tell_level(self, name: str, x: str, condition: _Condition) -> str:
        weight = self._constant(f"{name}/level_weight", condition.level_weight.reshape(1, -1, 1, 1))
        return self._node("Add", [x, self._node("Mul", [self._level(), weight], f"{name}/level")], f"{name}/told")

    def _delta(self, name: str, condition: _Condition) -> str:
        square = self._node("Mul", [self._level(), self._level()], f"{name}/level_squared")
        penalty = self._constant(f"{name}/lambda", np.array(condition.penalty, np.float32))
        weighted = self._node("Mul", [square, penalty], f"{name}/lambda_level_squared")
        one = self._constant("one", np.array(1, np.float32))
        return self._node("Reciprocal", [self._node("Add", [weighted, one], f"{name}/denominator")], f"{name}/delta")

    def _output(self, step: Step, name: str, x: str, noisy: str, delta: str | None) -> str:
        """δ·y + (1 − δ)·v; where δ is a constant, the factor of v is in the weights of its 1×1 convolution."""
        if delta is not None:
            v = self._conv(step, f"{name}/conv", x)
            rest = self._node("Sub", [noisy, v], f"{name}/removed")
            return self._node("Add", [v, self._node("Mul", [rest, delta], f"{name}/kept")], name)
        scaled = {kind: array * np.float32(1 - step.delta) for kind, array in step.weights.items()}
        v = self._conv(replace(step, weights=scaled), f"{name}/conv", x)
        constant = self._constant(f"{name}/delta", np.array(step.delta, np.float32))
        return self._node("Add", [self._node("Mul", [noisy, constant], f"{name}/delta_y"), v], name)

    def _conv(self, step: Step, name: str, x: str, kind: str = "", kernel: int = 1, **settings: Any) -> str:
        """A convolution padded so that one of stride 1 keeps the size; `kind` as in `Step.weights`."""
        padding = (kernel - 1) // 2 * settings.get("dilations", [1])[0]
        settings |= {"kernel_shape": [kernel] * 2, "pads": [padding] * 4}
        return self._node("Conv", [x, *self._weights(step, name, kind)], name, **settings)

    def _weights(self, step: Step, name: str, kind: str = "") -> list[str]:
        return [self._constant(f"{name}/{part}", step.weights[kind + part]) for part in ("weight", "bias")]
