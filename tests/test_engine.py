"""The compiled engine against the derived network in float64: every operation, size, batch, stride, thread, variant."""

from __future__ import annotations

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modnas_fast import DerivedNet, Genotype, ModnasError
from modnas_fast.engine.engine import Cancelled, Engine, engine_obstacle
from tests.cases import random_genotype
from tests.parity import assert_parity
from tests.test_tiling import random_net

pytestmark = pytest.mark.skipif(bool(engine_obstacle()), reason=f"no compiled engine: {engine_obstacle()}")

if not engine_obstacle():
    from modnas_fast import _engine

    VARIANTS = _engine.variants()
else:
    VARIANTS = []
FLOAT32_VARIANTS = [variant for variant in VARIANTS if variant != "avx512_bf16"]  # which has avx512's code for it

SIZES = ((1, 1), (7, 9), (16, 8), (23, 41), (56, 40))


PROMISE = 1e-5  # the relative error of a published network, whole


def assert_engine_parity(net: DerivedNet, x: Tensor, published: bool = False, **settings) -> None:
    """Against the network in float64: a published one within the promise, others by the judge's error model.

    Random ones may amplify roundings so that PyTorch's float32 departs by more than the promise.
    """
    engine = Engine(net.genotype, net.state_dict(), **settings)
    exact = copy.deepcopy(net).double()
    weights = [parameter for parameter in net.parameters() if parameter.ndim == 4]
    bound: dict[str, Any] = {"reduction": 1, "tolerance": PROMISE, "reason": "promised for published networks"}
    if not published:
        bound = {"reduction": max(weight[0].numel() for weight in weights), "depth": len(weights)}
    assert_parity(
        lambda y: torch.from_numpy(engine(y.numpy())),
        torch.inference_mode()(exact.forward),
        x,
        gradients=False,
        **bound,
    )


@torch.inference_mode()
def relative_error(net: DerivedNet, x: Tensor, result: Tensor) -> float:
    """The relative L2 distance of `result` from the network in float64."""
    exact = copy.deepcopy(net).double()(x.double())
    return float((result.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("variant", FLOAT32_VARIANTS)
@pytest.mark.parametrize("seed", range(24))
def test_random_genotypes(seed: int, variant: str) -> None:
    """Seeds 0…23 together hold every operation, skip pattern and width up to 12."""
    channels, stages = 1 + 2 * (seed % 2), 1 + seed % 3
    net = random_net(random_genotype(seed), stages, channels)
    height, width = SIZES[seed % len(SIZES)]
    assert_engine_parity(net, torch.rand(1 + seed % 2, channels, height, width), threads=1 + seed % 3, variant=variant)


@pytest.mark.parametrize("variant", FLOAT32_VARIANTS)
@pytest.mark.parametrize("seed", range(100, 106))
def test_random_genotypes_of_wide_layers(seed: int, variant: str) -> None:
    """Widths of up to 72: more than one register tile, with and without left-over channels."""
    assert_engine_parity(random_net(random_genotype(seed, 72)), torch.rand(1, 1, 40, 24), threads=2, variant=variant)


def test_two_hundred_more_random_genotypes() -> None:
    for seed in range(200, 400):
        net = random_net(random_genotype(seed), 1 + seed % 2)
        assert_engine_parity(net, torch.rand(1, 1, *SIZES[seed % len(SIZES)]), threads=1 + seed % 2)


@pytest.mark.parametrize("size", [(1, 1), (3, 130), (64, 64), (101, 67), (41, 203)], ids=str)
@pytest.mark.parametrize("name", ["modnas-b", "modnas-ar"])
def test_published_networks(name: str, size: tuple[int, int]) -> None:
    net = random_net(Genotype.load(name))
    assert_engine_parity(net, torch.rand(1, 1, *size), published=True, threads=2)


@pytest.mark.parametrize(("stages", "channels", "batch"), [(3, 1, 2), (6, 3, 1), (1, 3, 5)])
def test_published_network_unfolded_in_colour_and_batches(stages: int, channels: int, batch: int) -> None:
    net = random_net(Genotype.load("modnas-b"), stages, channels)
    assert_engine_parity(net, torch.rand(batch, channels, 33, 26), published=True, threads=3)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_pretrained("modnas-b-t1-gray-s25", threads=2)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).random((1, 1, 45, 70), np.float32)


@pytest.mark.parametrize("size", [(203, 190), (330, 131)], ids=str)
@pytest.mark.parametrize("seed", [0, 3, 5, 8])
def test_layers_in_place(seed: int, size: tuple[int, int]) -> None:
    """Large tensors are overwritten band by band; results do not depend on who computes which part of a band."""
    net = random_net(random_genotype(seed, 40))
    x = torch.rand(1, 1, *size)
    assert_engine_parity(net, x, threads=3)
    results = [Engine(net.genotype, net.state_dict(), threads=threads)(x.numpy()) for threads in (1, 2, 3)]
    assert all(np.array_equal(results[0], result) for result in results)


def test_strided_inputs_and_outputs(engine: Engine, image: np.ndarray) -> None:
    expected = engine(image)
    for strided in (np.repeat(image, 2, axis=3)[..., ::2], image[..., ::-1, ::-1].copy()[..., ::-1, ::-1]):
        assert not strided.flags.c_contiguous
        assert np.array_equal(engine(strided), expected)
    flat = np.broadcast_to(image[..., :1], image.shape)
    assert np.array_equal(engine(flat), engine(flat.copy()))
    unaligned = np.zeros(image.nbytes + 1, np.int8)[1:].view(np.float32).reshape(image.shape)
    unaligned[:] = image
    assert not unaligned.flags.aligned
    assert np.array_equal(engine(unaligned), expected)
    with pytest.raises(ModnasError, match="aligned"):
        engine(image, out=unaligned)
    last = np.full((1, 1, 45, 140), np.nan, np.float32)
    assert engine(image, out=last[..., 1::2]).base is not None
    assert np.array_equal(last[..., 1::2], expected)
    assert np.isnan(last[..., ::2]).all()


def test_tensors_come_in_and_go_out_by_dlpack(engine: Engine, image: np.ndarray) -> None:
    out = torch.full((1, 1, 45, 70), torch.nan)
    engine(torch.from_numpy(image), out=out)
    assert np.array_equal(out.numpy(), engine(image))
    assert torch.equal(torch.from_dlpack(engine(image)), out)


def test_an_empty_batch(engine: Engine) -> None:
    assert engine(np.zeros((0, 1, 7, 9), np.float32)).shape == (0, 1, 7, 9)


def test_other_threads_run_meanwhile(engine: Engine) -> None:
    """The lock of the interpreter is free: another thread never waits for a good part of the call."""
    x = np.zeros((1, 1, 512, 512), np.float32)
    engine(x)
    with ThreadPoolExecutor(1) as pool:
        begin = before = time.perf_counter()
        call = pool.submit(engine, x)
        longest = 0.0
        while not call.done():
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
        assert longest < 0.5 * (before - begin)


def test_calls_repeat_to_the_bit_with_any_number_of_threads(engine: Engine, image: np.ndarray) -> None:
    expected = engine(image)
    engine(np.full((1, 1, 90, 50), np.float32(7)))  # leaves other values in the arena
    assert np.array_equal(engine(image), expected)
    for threads in (1, 3):
        assert np.array_equal(Engine.from_pretrained("modnas-b-t1-gray-s25", threads=threads)(image), expected)


def test_calls_from_several_threads(engine: Engine) -> None:
    images = [np.random.default_rng(i).random((1, 1, 20 + i, 31), np.float32) for i in range(8)]
    expected = [engine(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(engine, images), expected, strict=True):
            assert np.array_equal(got, want)


def test_nan_stays_where_it_can_be_seen(engine: Engine, image: np.ndarray) -> None:
    broken = image.copy()
    broken[0, 0, 3, 3] = np.nan
    assert np.isnan(engine(broken)[0, 0, 3, 3])


def test_progress_and_cancelling(engine: Engine, image: np.ndarray) -> None:
    shares: list[float] = []
    engine(np.concatenate([image, image]), progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    with pytest.raises(Cancelled, match="cancelled"):
        engine(image, progress=lambda share: share < 0.5)
    with pytest.raises(ZeroDivisionError):
        engine(image, progress=lambda share: 1 / 0)
    assert np.isfinite(engine(image)).all()


def test_the_plan_shows_every_layer_and_counts_what_the_summary_counts(engine: Engine) -> None:
    from modnas_fast.networks.summary import summarize

    fresh = engine.plan(120, 200)
    assert fresh.macs == summarize(engine.genotype, height=120, width=200).macs
    assert all(row.seconds == 0 for row in fresh.rows)
    engine.warmup(120, 200)
    table = str(engine.plan(120, 200))
    assert all(row.seconds > 0 for row in engine.plan(120, 200).rows)
    assert "winograd F(4x4,3x3)" in table
    assert "DB4 fuse" in table


@pytest.fixture(scope="module")
def half_engine() -> Engine:
    return Engine.from_pretrained("modnas-b-t1-gray-s25", threads=2, dtype="bfloat16")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [*range(8), 100, 101])
def test_random_genotypes_stored_in_bfloat16(seed: int, variant: str) -> None:
    """No farther from float64 than PyTorch's bfloat16 network, which also rounds weights and images."""
    net = random_net(random_genotype(seed, 72 if seed >= 100 else 12), 1 + seed % 3)
    height, width = SIZES[1 + seed % 4]
    x = torch.from_numpy(np.random.default_rng(seed).random((1, 1, height, width), np.float32))
    half = Engine(net.genotype, net.state_dict(), threads=2, dtype="bfloat16", variant=variant)(x)
    with torch.inference_mode():
        peer = copy.deepcopy(net).bfloat16()(x.bfloat16())
    assert 1e-4 < relative_error(net, x, torch.from_numpy(half)) < relative_error(net, x, peer)


def test_bfloat16_costs_next_to_no_decibels(engine: Engine, half_engine: Engine) -> None:
    from PIL import Image

    with Image.open("examples/chelsea.png") as picture:
        clean = np.asarray(picture.convert("L"), np.float32) / 255
    for seed, (top, left) in enumerate([(0, 0), (40, 120), (150, 300)]):
        crop = clean[top : top + 128, left : left + 128]
        noisy = crop + np.random.default_rng(seed).normal(0, 25 / 255, crop.shape).astype(np.float32)
        loss = [-10 * np.log10(np.mean((run(noisy[None, None])[0, 0] - crop) ** 2)) for run in (engine, half_engine)]
        assert loss[0] - loss[1] < 0.02


def test_bfloat16_halves_the_memory_and_repeats_to_the_bit(half_engine: Engine, image: np.ndarray) -> None:
    engine = Engine.from_pretrained("modnas-b-t1-gray-s25", threads=2)
    images = 3 * 2 * 4 * 512 * 512  # stay float32
    assert half_engine.working_bytes(512, 512) - images < 0.52 * (engine.working_bytes(512, 512) - images)
    assert "bfloat16" in str(half_engine.plan(64, 64))
    expected = half_engine(image)
    for threads in (1, 3):
        other = Engine.from_pretrained("modnas-b-t1-gray-s25", threads=threads, dtype="bfloat16")
        assert np.array_equal(other(image), expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001])
def test_bfloat16_keeps_nan(bits: int, variant: str, image: np.ndarray) -> None:
    """Of these bits a plain rounding to the upper half makes −0, +0 and infinity."""
    broken = image.copy()
    broken.view(np.uint32)[0, 0, 3, 3] = bits
    engine = Engine.from_pretrained("modnas-b-t1-gray-s25", threads=1, dtype="bfloat16", variant=variant)
    assert np.isnan(engine(broken)[0, 0, 3, 3])


def test_memory_is_shared_between_layers(engine: Engine) -> None:
    """No more than 72 channels of full size and the image, in two channels: outputs lie over inputs, and what only the
    next layer reads is never whole. Residual blocks alone would have 80."""
    assert engine.working_bytes(1024, 1024) < (72 + 2) * 4 * 1024 * 1024
    engine.release()
    assert np.isfinite(engine(np.zeros((1, 1, 9, 9), np.float32))).all()


@pytest.mark.parametrize("seed", range(8))
def test_tiled_equals_whole(seed: int) -> None:
    net = random_net(random_genotype(seed), 1 + seed % 2)
    engine = Engine(net.genotype, net.state_dict(), threads=2)
    x = np.random.default_rng(seed).random((1, 1, 203, 331), np.float32)
    whole = engine(x)
    assert np.abs(engine.run_tiled(x, 60) - whole).max() <= 1e-5 * max(1, np.abs(whole).max())


def test_the_memory_limit_is_kept_by_tiling(image: np.ndarray) -> None:
    large = np.tile(image, (1, 1, 12, 12))  # 540×840
    whole = Engine.from_pretrained("modnas-b-t1-gray-s25", threads=1)
    limit = whole.working_bytes(*large.shape[2:]) * 2 // 3
    tiled = Engine.from_pretrained("modnas-b-t1-gray-s25", threads=1, memory_limit=limit)
    tile = tiled._backend.tile_within_limit(*large.shape[2:])
    assert 0 < tile < 840
    assert tiled.working_bytes(min(540, tile + 240), min(840, tile + 240)) <= limit
    shares: list[float] = []
    assert np.abs(tiled(large, progress=shares.append) - whole(large)).max() < 1e-5
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    tiny = Engine.from_pretrained("modnas-b-t1-gray-s25", memory_limit=1 << 20)
    with pytest.raises(ModnasError, match="the smallest tile of this network takes"):
        tiny(large)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 3, 8, 8), np.float32), "one channel at a time"),
        (np.zeros((1, 1, 8, 8)), "float64"),
        (np.zeros((8, 8), np.float32), r"\[8, 8\]"),
        (np.zeros((1, 1, 0, 8), np.float32), r"\[1, 1, 0, 8\]"),
        ("photo.png", "cannot read a str"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.bfloat16), "cannot read a Tensor"),
        (np.zeros((1, 1, 8, 8), ">f4"), ">f4"),
    ],
)
def test_bad_inputs(engine: Engine, x: object, message: str) -> None:
    with pytest.raises(ModnasError, match=message):
        engine(x)


def test_bad_outputs(engine: Engine, image: np.ndarray) -> None:
    with pytest.raises(ModnasError, match="out is float64"):
        engine(image, out=np.zeros(image.shape))
    with pytest.raises(ModnasError, match="shares memory"):
        engine(image, out=image)
    locked = np.zeros(image.shape, np.float32)
    locked.flags.writeable = False
    with pytest.raises(ModnasError, match="writeable"):
        engine(image, out=locked)


def test_bad_weights_are_named() -> None:
    net = random_net(random_genotype(3))
    good = {name: value.numpy() for name, value in net.state_dict().items()}
    broken = {
        "is missing": {name: value for name, value in good.items() if name != "stages.0.out.bias"},
        "extra is unknown": {**good, "extra": np.zeros(1)},
        r"out.bias is \[2\], not \[1\]": {**good, "stages.0.out.bias": np.zeros(2, np.float32)},
        "holds NaN": {**good, "stages.0.out.bias": np.full(1, np.nan, np.float32)},
        "not those of a derived network": {},
    }
    for message, weights in broken.items():
        with pytest.raises(ModnasError, match=message):
            Engine(net.genotype, weights)
    with pytest.raises(ModnasError, match="do not fit the genotype"):
        Engine(random_genotype(4), good)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"threads": 0}, "threads is 0"),
        ({"memory_limit": -1}, "memory_limit is -1"),
        ({"variant": "mmx"}, "variant is 'mmx'"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    net = random_net(random_genotype(3))
    with pytest.raises(ModnasError, match=message):
        Engine(net.genotype, net.state_dict(), **settings)


def test_sizes_below_one(engine: Engine) -> None:
    for call in (engine.plan, engine.working_bytes, engine.warmup):
        with pytest.raises(ModnasError, match="0x8 pixels; give sizes of at least 1"):
            call(0, 8)
    with pytest.raises(ModnasError, match="0 images of 8x8"):
        engine.warmup(8, 8, 0)


def test_a_level_that_the_model_is_not_for() -> None:
    assert Engine.from_pretrained("modnas-b-t1-gray-s25", sigma=25, threads=1).threads == 1
    with pytest.raises(ModnasError, match=r"trained for σ = 25, not for σ = 50; use modnas-b-t1-gray \(gray\) or"):
        Engine.from_pretrained("modnas-b-t1-gray-s25", sigma=50)
    with pytest.raises(ModnasError, match=r"trained for σ = 0 to 55, not for σ = 60; give a σ from 0 to 55"):
        Engine.from_pretrained("modnas-b-t1-gray", sigma=60)
    with pytest.raises(ModnasError, match="sigma is '25'; give one number on the 0–255 scale"):
        Engine.from_pretrained("modnas-b-t1-gray", sigma="25")
