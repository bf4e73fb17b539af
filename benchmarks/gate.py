"""The ratios that must hold: fails where a change made something slow again that is fast.

python -m benchmarks.gate

Rivals run in turn in one process, so that their ratio does not depend on how fast or busy the machine is. Only ratios
far from one are here, with limits far below what was measured, so that what fails is broken: a ratio fails if four
turns of five are below its limit. Small losses are for `modnas-fast bench compare`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.harness import interleave
from modnas_fast import load
from modnas_fast.engine.engine import Engine, engine_obstacle
from modnas_fast.layers import MixedOp
from modnas_fast.ops import fold_normal, folded_normal
from modnas_fast.ops.depthwise import depthwise_dweight
from modnas_fast.reference import mixed_op_ref

_REPEATS = 7


@dataclass(frozen=True)
class Gate:
    """`slow` takes at least `limit` times as long as `fast`."""

    name: str
    fast: Callable[[], object]
    slow: Callable[[], object]
    limit: float

    def ratios(self) -> tuple[float, float]:
        """Median of the turns' ratios, and their 80th percentile."""
        timings = interleave({"fast": self.fast, "slow": self.slow}, _REPEATS, warmup=2)
        turns = np.divide(timings["slow"].samples, timings["fast"].samples)
        return float(np.median(turns)), float(np.percentile(turns, 80))


def gates() -> Iterator[Gate | str]:
    """Every ratio, or why it cannot be looked at here."""
    torch.manual_seed(0)
    x, dy = torch.randn(2, 4, 48, 64, 64).unbind()

    def by_onednn() -> None:
        weight = x.new_empty(48, 1, 5, 5)
        sizes = [1, 1], [2, 2], [1, 1], False, [0, 0], 48
        torch.ops.aten.convolution_backward(dy, x, weight, None, *sizes, [False, True, False])

    yield _normal_layer()
    if engine_obstacle():
        yield f"the compiled engine: {engine_obstacle()}"
        return
    yield Gate("depthwise 5×5 weight gradient, ours to oneDNN’s", lambda: depthwise_dweight(x, dy, 5), by_onednn, 1.5)
    net = load("modnas-b-t1-gray-s25").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    engine = Engine(net.genotype, net.state_dict(), threads=torch.get_num_threads())
    y = torch.rand(1, 1, 256, 256)
    array = y.numpy()
    eager = torch.inference_mode()(net.forward)
    yield Gate("denoising 256×256, engine to eager PyTorch", lambda: engine(array), lambda: eager(y), 1.5)


def _normal_layer() -> Gate:
    """A normal layer's forward pass: its seven candidates folded and run at once, or run one by one and mixed."""
    layer = MixedOp("normal", 48).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(4, 48, 64, 64).contiguous(memory_format=torch.channels_last)
    alpha, beta = torch.randn(7), torch.rand(7, 48)
    gates = torch.softmax(alpha, 0)[None, :, None] * beta
    weights = {name: value.detach()[None] for name, value in layer.state_dict().items()}

    @torch.no_grad()
    def folded() -> object:
        fold = fold_normal(weights, gates, torch.zeros(1))
        return folded_normal(x, type(fold)(*(tensor[0] for tensor in fold)))

    @torch.no_grad()
    def one_by_one() -> object:
        return mixed_op_ref(layer(x), alpha, beta)

    return Gate("a normal layer forward, folded to its candidates one by one", folded, one_by_one, 1.15)


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    failed = False
    for gate in gates():
        if isinstance(gate, str):
            print(f"not looked at: {gate}")
            continue
        median, best = gate.ratios()
        holds = best >= gate.limit
        failed |= not holds
        print(f"{'holds' if holds else 'FAILS'}  {median:6.2f}×, at least {gate.limit:g}×  {gate.name}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
