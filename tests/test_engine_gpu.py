"""The engine on a real GPU: parity as on emulated devices, PyTorch's streams, graphs, and what `auto` keeps."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from modnas_fast import Denoiser, Genotype, ModnasError, load
from modnas_fast.engine.engine import Engine, engine_obstacle
from tests.cases import random_genotype
from tests.test_engine import SIZES, assert_engine_parity, relative_error
from tests.test_tiling import random_net

_OBSTACLE = engine_obstacle("cuda") if torch.cuda.is_available() else "there is no GPU"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(_OBSTACLE), reason=_OBSTACLE)]

HALVES = ("float16", "bfloat16")
MODEL = "modnas-b-t1-gray-s25"


def halves() -> tuple[str, ...]:
    return HALVES if torch.cuda.get_device_capability() >= (8, 0) else HALVES[:1]


@pytest.mark.parametrize("seed", range(48))
def test_random_genotypes(seed: int) -> None:
    channels, stages = 1 + 2 * (seed % 2), 1 + seed % 3
    net = random_net(random_genotype(seed, 72 if seed >= 24 else 12), stages, channels)
    x = torch.rand(1 + seed % 2, channels, *SIZES[seed % len(SIZES)])
    assert_engine_parity(net, x, device="cuda", dtype="float32")


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (101, 67), (256, 256)], ids=str)
@pytest.mark.parametrize("name", ["modnas-b", "modnas-ar"])
def test_published_networks(name: str, size: tuple[int, int]) -> None:
    net = random_net(Genotype.load(name), 2)
    assert_engine_parity(net, torch.rand(3, 1, *size), published=True, device="cuda", dtype="float32")


@pytest.mark.parametrize("seed", range(48))
def test_half_precision(seed: int) -> None:
    net = random_net(random_genotype(seed, 72 if seed >= 24 else 12), 1 + seed % 3)
    x = torch.from_numpy(np.random.default_rng(seed).random((2, 1, *SIZES[1 + seed % 4]), np.float32))
    for dtype in halves():
        half = Engine(net.genotype, net.state_dict(), device="cuda", dtype=dtype)(x)
        with torch.inference_mode():
            peer = copy.deepcopy(net).to(getattr(torch, dtype))(x.to(getattr(torch, dtype)))
        # Beyond float16's range, where PyTorch's has only NaN, the engine says so and computes in float32.
        limit = 1.5 * relative_error(net, x, peer) if peer.isfinite().all() else 1e-4
        assert relative_error(net, x, torch.from_numpy(half)) < limit


@pytest.mark.parametrize("side", [64, 200, 512])
def test_the_published_network_in_half_precision(side: int) -> None:
    net, x = load(MODEL), torch.rand(2, 1, side, side + 8)
    for dtype in halves():
        half = Engine(net.genotype, net.state_dict(), device="cuda", dtype=dtype)(x)
        assert relative_error(net, x, torch.from_numpy(half)) < {"float16": 1e-3, "bfloat16": 1e-2}[dtype]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_pretrained(MODEL, device="cuda")


def test_tensors_on_pytorchs_streams(engine: Engine) -> None:
    images = [torch.rand(1, 1, 128, 120).cuda() for _ in range(6)]
    expected = [torch.from_numpy(engine(image.cpu().numpy())).cuda() for image in images]
    exact = Engine.from_pretrained(MODEL, device="cuda", dtype="float32")
    wanted = [exact(image) for image in images]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    for run, want in ((engine, expected), (exact, wanted)):
        results: list[Any] = []
        for index, image in enumerate(images):
            with torch.cuda.stream(streams[index % 2]):
                torch.cuda._sleep(1_000_000)
                results.append(run(image.mul(1.0)).clone())
        torch.cuda.synchronize()
        assert all(torch.equal(got, right) for got, right in zip(results, want, strict=True))


def test_strided_tensors_out_and_graphs(engine: Engine) -> None:
    y = torch.rand(2, 1, 77, 130).cuda()
    expected = engine(y)
    out = torch.full((2, 1, 77, 260), torch.nan).cuda()
    for _ in range(4):
        other = y.clone()
        assert torch.equal(engine(other), expected)
        engine(y.flip(-1).flip(-1), out=out[..., ::2])
        assert torch.equal(out[..., ::2], expected)
    assert out[..., 1::2].isnan().all()
    assert torch.equal(torch.from_dlpack(_Foreign(engine, y).result), expected)


class _Foreign:
    """The result that an array of another library gets."""

    def __init__(self, engine: Engine, y: torch.Tensor) -> None:
        self._y = y
        self.result = engine(self)

    def __dlpack_device__(self) -> Any:
        return self._y.__dlpack_device__()

    def __dlpack__(self, *, stream: int | None = None, **others: Any) -> Any:
        return self._y.__dlpack__(stream=stream)


def test_tiles_memory_limit_and_release(engine: Engine) -> None:
    y = torch.rand(1, 1, 700, 900).cuda()
    whole = engine(y)
    assert (engine.run_tiled(y, 256) - whole).abs().max() < 2e-2  # float16 rounds alike, but tiles differ in order
    limit = engine.working_bytes(700, 900) * 2 // 3
    tiled = Engine.from_pretrained(MODEL, device="cuda", memory_limit=limit)
    assert (tiled(y) - whole).abs().max() < 2e-2
    free = torch.cuda.mem_get_info()[0]
    engine.release()
    assert torch.cuda.mem_get_info()[0] > free


def test_not_finite_is_done_again(engine: Engine) -> None:
    y = 1e5 * torch.rand(1, 1, 64, 64).cuda()
    with pytest.warns(RuntimeWarning, match="float16 went beyond its range"):
        result = engine(y)
    exact = Engine.from_pretrained(MODEL, device="cuda", dtype="float32")
    assert torch.equal(result, exact(y))


def test_the_plan_has_times(engine: Engine) -> None:
    plan = engine.plan(512, 512, timed=True)
    print(plan)
    assert all(row.seconds > 0 for row in plan.rows)


def test_auto_measures_and_says_which() -> None:
    denoiser = Denoiser(device="cuda")
    assert "engine" in denoiser.backend
    assert "PyTorch" in denoiser.backend
    assert " ms" in denoiser.backend
    y = torch.rand(1, 3, 70, 50)
    exact = Denoiser(device="cpu")(y)
    assert (denoiser(y) - exact).abs().max() < 2e-2
    assert (denoiser(y.cuda()).cpu() - exact).abs().max() < 2e-2


def test_a_tensor_elsewhere_is_refused(engine: Engine) -> None:
    with pytest.raises(ModnasError, match="out is"):
        engine(torch.rand(1, 1, 8, 8).cuda(), out=torch.rand(1, 1, 8, 8))
    if torch.cuda.device_count() > 1:
        with pytest.raises(ModnasError, match="cuda:1"):
            engine(torch.rand(1, 1, 8, 8, device="cuda:1"))
