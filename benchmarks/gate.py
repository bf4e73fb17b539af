"""The ratios that must hold: fails where a change made something slow again that is fast.

python -m benchmarks.gate

Rivals run in turn in one process, so that their ratio does not depend on how fast or busy the machine is. Only ratios
far from one are here, with limits far below what was measured, so that what fails is broken: a ratio fails if four
turns of five are below its limit. Small losses are for `modnas-fast bench compare`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.harness import interleave
from modnas_fast import load
from modnas_fast.engine.engine import Engine, engine_obstacle
from modnas_fast.ops.depthwise import depthwise_dweight
from modnas_fast.search import SuperNet
from modnas_fast.search.steps import Step, build_adam

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

    yield Gate("depthwise 5×5 weight gradient, ours to oneDNN’s", lambda: depthwise_dweight(x, dy, 5), by_onednn, 2.0)
    steps = {name: _w_step(name) for name in ("folded", "reference")}
    yield Gate("W-step of the supernet, folded to reference", steps["folded"], steps["reference"], 1.15)
    if engine_obstacle():
        yield f"the compiled engine: {engine_obstacle()}"
        return
    net = load("modnas-b-t1-gray-s25").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    engine = Engine(net.genotype, net.state_dict(), threads=torch.get_num_threads())
    y = torch.rand(1, 1, 256, 256)
    array = y.numpy()
    eager = torch.inference_mode()(net.forward)
    yield Gate("denoising 256×256, engine to eager PyTorch", lambda: engine(array), lambda: eager(y), 1.2)


def _w_step(backend: str) -> Callable[[], object]:
    torch.manual_seed(0)
    net = SuperNet(1, 32, backend=backend)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    clean = torch.rand(2, 1, 64, 64)
    noisy = clean + 25 / 255 * torch.randn_like(clean)
    parameters = list(net.weight_parameters())
    step = Step(net, parameters, build_adam(parameters, 1e-3, captured=False), False, world=1)
    return lambda: step(noisy, clean)


def main() -> int:
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
