"""Single operators under pytest-benchmark, beside plain PyTorch: pytest benchmarks/ --benchmark-only

Triton's operators where there is a GPU; what runs on CPUs everywhere. Every result is checked, loosely: tests/ has
parity in full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from modnas_fast import load, ops, reference
from modnas_fast.engine.engine import Engine, engine_obstacle
from modnas_fast.layers import MixedOp

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = (12, 48, 64, 64) if DEVICE == "cuda" else (4, 48, 64, 64)


def maps(count: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(SHAPE, device=DEVICE).contiguous(memory_format=torch.channels_last) for _ in range(count)]


def raw(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def operators() -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[Any]]]:
    """Name → Triton operator, its reference, arguments."""
    C = SHAPE[1]
    history, candidates = maps(3), maps(7)
    mixture = [raw(7), raw(7, C)]
    return {
        "mixed_op": (ops.mixed_op, reference.mixed_op_ref, [candidates, *mixture]),
        "channel_gate": (ops.channel_gate, reference.channel_gate_ref, [history[0], raw(C)]),
        "dense_aggregate": (ops.dense_aggregate, reference.dense_aggregate_ref, [history[:2], history[2], raw(3)]),
        "mixed_aggregate": (
            ops.mixed_aggregate,
            reference.mixed_aggregate_ref,
            [history, candidates, *mixture, raw(4)],
        ),
        "relax": (ops.relax, reference.relax_ref, [history[0], history[1], raw()]),
    }


def timed(benchmark: Any, run: Callable[[], Any]) -> Any:
    """The result; a device is waited for."""

    def waited() -> Any:
        result = run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return result

    with torch.no_grad():
        return benchmark(waited)


@pytest.mark.parametrize("backend", ["triton", "eager"])
@pytest.mark.parametrize("name", ["mixed_op", "channel_gate", "dense_aggregate", "mixed_aggregate", "relax"])
def test_operator(benchmark: Any, name: str, backend: str) -> None:
    if backend == "triton" and DEVICE == "cpu":
        pytest.skip("Triton's kernels need a CUDA device")
    operator, plain, arguments = operators()[name]
    benchmark.group = name
    result = timed(benchmark, lambda: (operator if backend == "triton" else plain)(*arguments))
    torch.testing.assert_close(result, plain(*arguments), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["folded", "candidates"])
def test_normal_layer(benchmark: Any, backend: str) -> None:
    """A normal layer's seven candidates: run one by one and mixed, or folded and run at once."""
    torch.manual_seed(0)
    layer = MixedOp("normal", SHAPE[1]).to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    (x,) = maps(1)
    alpha, beta = raw(7), raw(7, SHAPE[1])
    gates = torch.softmax(alpha, 0)[None, :, None] * beta[None]
    weights = {name: value.detach()[None] for name, value in layer.state_dict().items()}

    def folded() -> Tensor:
        fold = ops.fold_normal(weights, gates, torch.zeros(1, device=DEVICE))
        return ops.folded_normal(x, type(fold)(*(tensor[0] for tensor in fold)))

    def one_by_one() -> Tensor:
        return reference.mixed_op_ref(layer(x), alpha, beta)

    benchmark.group = "normal layer"
    result = timed(benchmark, folded if backend == "folded" else one_by_one)
    with torch.no_grad():
        torch.testing.assert_close(result, one_by_one(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["engine", "torch"])
def test_denoise_256(benchmark: Any, backend: str) -> None:
    net = load("modnas-b-t1-gray-s25", DEVICE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    y = torch.rand(1, 1, 256, 256, device=DEVICE)
    benchmark.group = "denoise 256×256"
    if backend == "torch":
        assert timed(benchmark, lambda: net(y)).shape == y.shape
        return
    if engine_obstacle(DEVICE):
        pytest.skip(engine_obstacle(DEVICE))
    state = {name: value.cpu() for name, value in net.state_dict().items()}
    way: dict[str, Any] = {"threads": torch.get_num_threads()} if DEVICE == "cpu" else {"device": DEVICE}
    engine = Engine(net.genotype, state, **way)
    result = torch.as_tensor(timed(benchmark, lambda: engine(y)))
    tolerance = 1e-3 if DEVICE == "cpu" else 1e-2  # on CUDA it computes in float16
    with torch.no_grad():
        torch.testing.assert_close(result, net(y), rtol=tolerance, atol=tolerance)
