"""Every way in which the operators launch their Triton kernels, on tensors of the caller's making."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from modnas_fast.ops.fold_weights import empty_folded, empty_gradients

Map = Callable[[], Tensor]  # makes a feature map
Raw = Callable[..., Tensor]  # makes a raw parameter of a shape


@dataclass(frozen=True)
class Launch:
    """One pass of an operator: `run(feature map, raw parameter, C)` launches its kernels.

    `features` says whether a backward pass computes the gradients of its `count` feature maps, `parameters` whether
    those of its raw parameters; both are False of forward passes.
    """

    op: str
    run: Callable[[Map, Raw, int], object]
    count: int
    K: int = 0
    depth: int = 0
    features: bool = False
    parameters: bool = False

    @property
    def forward(self) -> bool:
        return not (self.features or self.parameters)

    @property
    def loads(self) -> int:
        """Feature maps that have to be read: a forward pass's inputs, or dy and what parameters' gradients need."""
        return self.count if self.forward else 1 + self.count * self.parameters

    @property
    def stores(self) -> int:
        """Feature maps that have to be written."""
        return 1 if self.forward else self.count * self.features

    def __str__(self) -> str:
        sizes = [f"{name}={value}" for name, value in (("K", self.K), ("l", self.depth)) if value]
        wanted = ["features"] * self.features + ["parameters"] * self.parameters
        return " ".join([self.op, *sizes, "forward" if self.forward else f"backward to {' and '.join(wanted)}"])


def launches(candidates: tuple[int, ...] = (7, 5, 4), depths: tuple[int, ...] = (3, 2, 1)) -> Iterator[Launch]:
    """All passes for these K and ℓ; normal layers, the only ones with a depth, have the largest K."""
    for wanted in ((False, False), (True, True), (True, False), (False, True)):
        for K in candidates:
            yield _mixed_op(K, *wanted)
        for depth in depths:
            yield _mixed_aggregate(max(candidates), depth, *wanted)
            yield _dense_aggregate(depth, *wanted)
        yield _channel_gate(*wanted)
        yield _relax(*wanted)


def _mixed_op(K: int, features: bool, parameters: bool) -> Launch:
    from modnas_fast.kernels.mixed_op import mixed_op_bwd, mixed_op_fwd

    def run(x: Map, raw: Raw, C: int) -> object:
        maps, raws = [x() for _ in range(K)], (raw(K), raw(K, C))
        if not (features or parameters):
            return mixed_op_fwd(maps, *raws)
        return mixed_op_bwd(x(), maps, *raws, features, parameters)

    return Launch("mixed_op", run, K, K, 0, features, parameters)


def _mixed_aggregate(K: int, depth: int, features: bool, parameters: bool) -> Launch:
    from modnas_fast.kernels.mixed_aggregate import mixed_aggregate_bwd, mixed_aggregate_fwd

    def run(x: Map, raw: Raw, C: int) -> object:
        history, maps, raws = [x() for _ in range(depth)], [x() for _ in range(K)], (raw(K), raw(K, C), raw(depth + 1))
        if not (features or parameters):
            return mixed_aggregate_fwd(history, maps, *raws)
        return mixed_aggregate_bwd(x(), history, maps, *raws, features, parameters)

    return Launch("mixed_aggregate", run, K + depth, K, depth, features, parameters)


def _dense_aggregate(depth: int, features: bool, parameters: bool) -> Launch:
    from modnas_fast.kernels.dense_aggregate import dense_aggregate_bwd, dense_aggregate_fwd

    def run(x: Map, raw: Raw, C: int) -> object:
        maps, gamma = [x() for _ in range(depth + 1)], raw(depth + 1)
        if not (features or parameters):
            return dense_aggregate_fwd(maps, gamma)
        return dense_aggregate_bwd(x(), maps, gamma, features, parameters)

    return Launch("dense_aggregate", run, depth + 1, 0, depth, features, parameters)


def _channel_gate(features: bool, parameters: bool) -> Launch:
    from modnas_fast.kernels.channel_gate import channel_gate_bwd, channel_gate_fwd

    def run(x: Map, raw: Raw, C: int) -> object:
        if not (features or parameters):
            return channel_gate_fwd(x(), raw(C))
        return channel_gate_bwd(x(), x(), raw(C), features, parameters)

    return Launch("channel_gate", run, 1, 0, 0, features, parameters)


def _relax(features: bool, parameters: bool) -> Launch:
    from modnas_fast.kernels.relax import relax_bwd, relax_fwd

    def run(x: Map, raw: Raw, C: int) -> object:
        v, y, delta = x(), x(), raw()
        if not (features or parameters):
            return relax_fwd(v, y, delta, torch.empty_like(v))
        return relax_bwd(x(), v, y, delta, features, features, parameters)

    return Launch("relax", run, 2, 0, 0, features, parameters)


@dataclass(frozen=True)
class Fold:
    """One pass of `fold_weights` for M layers of C channels: forward, or backward to `gates`, `weights` or both."""

    gates: bool = False
    weights: bool = False

    @property
    def forward(self) -> bool:
        return not (self.gates or self.weights)

    def __str__(self) -> str:
        wanted = ["gates"] * self.gates + ["weights"] * self.weights
        return "fold_weights " + ("forward" if self.forward else f"backward to {' and '.join(wanted)}")

    def tensors(self, raw: Raw, M: int, C: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Convolutions and 1×1s with their biases; and depthwise kernel, gates and carry."""
        convolutions = [x for size in (3, 5, 3, 1) for x in (raw(M, C, C, size, size), raw(M, C))]
        pointwises = [x for _ in range(6) for x in (raw(M, C, C, 1, 1), raw(M, C), raw(M, C))]
        return convolutions, pointwises, [raw(M, C, 1, 3, 3), raw(M, 7, C), raw(M)]

    def run(self, raw: Raw, M: int, C: int) -> None:
        from modnas_fast.kernels.fold_weights import fold_weights_bwd, fold_weights_fwd

        convolutions, pointwises, (depthwise, gates, carry) = self.tensors(raw, M, C)
        folded = empty_folded(gates)
        if self.forward:
            fold_weights_fwd(convolutions, pointwises, depthwise, gates, carry, folded)
        else:
            outputs = empty_gradients(gates, self.gates, self.weights)
            fold_weights_bwd(folded, convolutions, pointwises, depthwise, gates, *outputs)


FOLDS = tuple(Fold(*wanted) for wanted in ((False, False), (True, True), (True, False), (False, True)))
