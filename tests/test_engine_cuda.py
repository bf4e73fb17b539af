"""The engine on CUDA, on devices that csrc/tests/cuda emulates: what it computes, memory, graphs, streams, errors.

Work is done as late as the emulated streams may do it, so that what nobody waited for shows; fresh memory holds NaN.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import modnas_fast
from modnas_fast import Genotype, ModnasError
from modnas_fast.engine import cuda
from modnas_fast.engine.engine import Cancelled, Engine
from tests import emulated_cuda
from tests.cases import random_genotype
from tests.emulated_cuda import DeviceArray, Machine, device_tensor, exact_engine
from tests.test_engine import SIZES, assert_engine_parity, relative_error
from tests.test_tiling import random_net

pytestmark = pytest.mark.skipif(emulated_cuda.COMPILER is None, reason="no C++ compiler")

HALVES = ("float16", "bfloat16")
MODEL = "modnas-b-t1-gray-s25"


@pytest.mark.parametrize("seed", range(24))
def test_random_genotypes(machine: Machine, seed: int) -> None:
    """Seeds 0…23 together hold every operation, skip pattern and width up to 12."""
    channels, stages = 1 + 2 * (seed % 2), 1 + seed % 3
    net = random_net(random_genotype(seed), stages, channels)
    height, width = SIZES[seed % len(SIZES)]
    x = torch.rand(1 + seed % 2, channels, height, width)
    assert_engine_parity(net, x, device="cuda", dtype="float32")


@pytest.mark.parametrize("name", ["modnas-b", "modnas-ar"])
def test_published_networks(machine: Machine, name: str) -> None:
    net = random_net(Genotype.load(name))
    assert_engine_parity(net, torch.rand(1, 1, 17, 26), published=True, device="cuda", dtype="float32")


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("seed", [*range(8), 100])
def test_random_genotypes_in_half_precision(machine: Machine, seed: int, dtype: str) -> None:
    """No farther from float64 than PyTorch's network in that precision, which also rounds images."""
    net = random_net(random_genotype(seed, 72 if seed >= 100 else 12), 1 + seed % 3)
    height, width = SIZES[1 + seed % 4]
    x = torch.from_numpy(np.random.default_rng(seed).random((1, 1, height, width), np.float32))
    half = Engine(net.genotype, net.state_dict(), device="cuda", dtype=dtype)(x)
    with torch.inference_mode():
        peer = copy.deepcopy(net).to(getattr(torch, dtype))(x.to(getattr(torch, dtype)))
    assert 1e-5 < relative_error(net, x, torch.from_numpy(half)) < 1.5 * relative_error(net, x, peer)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_published_network_in_half_precision(machine: Machine, dtype: str) -> None:
    net = modnas_fast.load(MODEL)
    x = torch.rand(1, 1, 24, 18)
    half = Engine(net.genotype, net.state_dict(), device="cuda", dtype=dtype)(x)
    assert relative_error(net, x, torch.from_numpy(half)) < {"float16": 1e-3, "bfloat16": 1e-2}[dtype]


def test_strided_images_are_read_and_written_where_they_are(machine: Machine, net: Any, image: np.ndarray) -> None:
    engine = exact_engine(net)
    expected = engine(image)
    wide = np.zeros((1, 1, 21, 68), np.float32)
    wide[..., ::2] = image
    target = np.full((1, 1, 42, 34), np.nan, np.float32)
    stream = machine.stream()
    given, out = DeviceArray(wide[..., ::2]), DeviceArray(target[:, :, ::-2][:, :, ::-1])
    assert engine(given, out=out, stream=stream) is out
    assert given.streams == [stream]
    assert np.isnan(target).all()  # nobody has waited
    machine.wait(stream)
    assert np.array_equal(out.array, expected)
    assert np.isnan(target[:, :, ::2]).all()
    flat = DeviceArray(np.lib.stride_tricks.as_strided(image.copy(), image.shape, (0, 0, 4 * 34, 4)))
    assert np.array_equal(read(machine, engine(flat)), expected)


def read(machine: Machine, array: Any, device: int = 0) -> np.ndarray:
    """The contents of an array on the device, as a consumer with a stream of its own gets them."""
    stream = machine.stream(device)
    capsule = array.__dlpack__(stream=stream)  # held: it owns the memory
    host = np.empty(array.shape, np.float32)
    array.download(host, stream)
    del capsule
    return host


def test_other_arrays_get_an_array_that_speaks_dlpack(machine: Machine, net: Any, image: np.ndarray) -> None:
    engine = exact_engine(net)
    result = engine(DeviceArray(image))
    assert result.__dlpack_device__() == (2, 0)
    assert result.shape == image.shape
    assert np.array_equal(read(machine, result), engine(image))
    again = engine(result)  # which goes back in
    assert np.array_equal(read(machine, again), engine(engine(image)))


def test_an_array_may_change_when_the_call_has_returned(machine: Machine, net: Any, image: np.ndarray) -> None:
    """Its owner may drop it, and use its memory for something else on another stream."""
    engine, given = exact_engine(net), image.copy()
    result = engine(DeviceArray(given))
    given[:] = np.nan
    assert np.array_equal(read(machine, result), engine(image))


def test_tensors_on_the_device(machine: Machine, net: Any, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = machine.stream()
    current = type("Stream", (), {"cuda_stream": stream})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    engine = exact_engine(net)
    given = device_tensor(torch.from_numpy(image).requires_grad_())
    result = engine(given)
    assert isinstance(result, emulated_cuda.DeviceTensor)
    assert not result.requires_grad
    machine.wait(stream)
    assert np.array_equal(result.numpy(), engine(image))
    out = device_tensor(torch.full((1, 1, 21, 34), torch.nan))
    assert engine(given, out=out) is out
    machine.wait(stream)
    assert torch.equal(out, result)
    assert engine(device_tensor(torch.zeros(0, 1, 8, 8))).shape == (0, 1, 8, 8)
    for wrong in (torch.zeros(1, 1, 8, 8, dtype=torch.float16), torch.zeros(8, 8)):
        with pytest.raises(ModnasError, match=r"give float32 \[N, 1, H, W\] on cuda:0"):
            engine(device_tensor(wrong))


def test_a_size_that_comes_again_becomes_a_graph(machine: Machine, net: Any) -> None:
    engine = exact_engine(net)
    images = [np.random.default_rng(i).random((2, 1, 16, 24), np.float32) for i in range(4)]
    expected = [engine(image) for image in images[:1]]
    assert machine.count("graphs made") == 0
    expected += [exact_engine(net)(image) for image in images[1:]]
    stream, outs = machine.stream(), [np.full(image.shape, np.nan, np.float32) for image in images]
    for image, out in zip(images, outs, strict=True):
        engine(DeviceArray(image), out=DeviceArray(out), stream=stream)
    assert machine.count("graphs made") == 1
    assert machine.count("graph launches") == 4
    # Of every other pair of images: the stem, and where each of the two stages ends.
    assert machine.count("parts replaced") == 3 * 3
    machine.wait(stream)
    for out, want in zip(outs, expected, strict=True):
        assert np.array_equal(out, want)
    engine(DeviceArray(images[3]), out=DeviceArray(outs[3]), stream=stream)
    assert machine.count("parts replaced") == 3 * 3
    machine.wait(stream)  # before the images go


def test_graphs_of_sizes_that_are_no_multiples_of_8(machine: Machine, net: Any, image: np.ndarray) -> None:
    engine, stream = exact_engine(net), machine.stream()
    first, outs = engine(image), [np.full(image.shape, np.nan, np.float32) for _ in range(3)]
    for out in outs:
        engine(DeviceArray(image), out=DeviceArray(out), stream=stream)
    assert machine.count("graphs made") == 1
    machine.wait(stream)
    assert all(np.array_equal(out, first) for out in outs)


def test_graphs_are_kept_for_the_latest_sizes(machine: Machine) -> None:
    engine = exact_engine(random_net(random_genotype(3)))
    sizes = [(8, 8 * i) for i in range(17, 0, -1)]
    images = {size: np.random.default_rng(size[1]).random((1, 1, *size), np.float32) for size in sizes}
    expected = {}
    for size in sizes:
        expected[size] = engine(images[size])
        engine(images[size])
    assert machine.count("graphs made") == 17
    engine(images[sizes[-1]])
    assert machine.count("graphs made") == 17
    engine(images[sizes[0]])  # forgotten: known again, without a graph
    assert machine.count("graphs made") == 17
    assert np.array_equal(engine(images[sizes[0]]), expected[sizes[0]])
    assert machine.count("graphs made") == 18
    assert all(np.array_equal(engine(images[size]), expected[size]) for size in sizes)


def test_growing_memory_makes_graphs_anew(machine: Machine, net: Any, image: np.ndarray) -> None:
    engine = exact_engine(net)
    expected = [engine(image) for _ in range(3)]
    engine(np.tile(image, (1, 1, 2, 2)))
    assert all(np.array_equal(engine(image), want) for want in expected)
    assert machine.count("graphs made") == 2


def test_calls_on_two_streams_share_memory_in_turn(machine: Machine, net: Any) -> None:
    engine = exact_engine(net)
    images = [np.random.default_rng(i).random((1, 1, 16, 16), np.float32) for i in range(4)]
    expected = [engine(image) for image in images]
    streams = [machine.stream(), machine.stream()]
    outs = [np.full(image.shape, np.nan, np.float32) for image in images]
    for index, image in enumerate(images):
        engine(DeviceArray(image), out=DeviceArray(outs[index]), stream=streams[index % 2])
    machine.wait(streams[1])  # the other's calls came before
    assert np.array_equal(np.stack(outs), np.stack(expected))


NEAR_SIGHTED = random_genotype(256)  # sees 32 pixels far, so that small tiles are possible
LARGE = (1, 1, 91, 157)


@pytest.fixture
def large() -> np.ndarray:
    return np.random.default_rng(1).random(LARGE, np.float32)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_tiled_equals_whole(machine: Machine, large: np.ndarray, stages: int) -> None:
    engine = exact_engine(random_net(NEAR_SIGHTED, stages))
    whole, launches = engine(large), machine.count("launches")
    tiled = engine.run_tiled(large, 40)
    assert machine.count("launches") > 8 * launches
    assert np.abs(tiled - whole).max() <= 1e-5 * max(1, np.abs(whole).max())
    assert np.array_equal(engine.run_tiled(large, 1000), whole)


def test_the_memory_limit_is_kept(machine: Machine, large: np.ndarray) -> None:
    net = random_net(NEAR_SIGHTED)
    x = np.concatenate([large, large[..., ::-1], large[..., ::-1, :]])
    whole = exact_engine(net)
    expected = whole(x)
    launches = machine.count("launches")
    limit = whole.working_bytes(*LARGE[2:])
    for share, runs in ((1, 3), (2, 2)):  # images together: one, two
        machine.set()
        engine = exact_engine(net, memory_limit=share * limit)
        assert np.array_equal(engine(x), expected)
        assert machine.count("launches") == runs * launches
    machine.set()
    tiled, before = exact_engine(net, memory_limit=limit * 3 // 4), machine.taken()
    shares: list[float] = []
    assert np.abs(tiled(x, progress=shares.append) - expected).max() < 1e-5 * np.abs(expected).max()
    assert machine.count("launches") > 3 * launches
    assert machine.taken() - before <= limit * 3 // 4 + 2 * x.nbytes
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    with pytest.raises(ModnasError, match="memory_limit is 9; the smallest tile of this network takes"):
        exact_engine(net, memory_limit=9)(x)


def test_free_memory_is_the_limit(machine: Machine, large: np.ndarray) -> None:
    net = random_net(NEAR_SIGHTED)
    engine = exact_engine(net)
    expected, need = engine(large), engine.working_bytes(*LARGE[2:])
    engine.release()
    taken = machine.taken()
    machine.set(memory=taken + need + 2 * large.nbytes)
    assert np.abs(engine(large) - expected).max() < 1e-5 * np.abs(expected).max()
    assert need < 2 * (machine.taken() - taken) < 2 * need
    machine.set(memory=taken + 2 * large.nbytes + 100_000)
    engine.release()
    with pytest.raises(ModnasError, match=r"cuda:0 has \d+ bytes left; the smallest tile"):
        engine(large)
    with pytest.raises(ModnasError, match="cuda:0 has no memory for images"):
        engine(np.tile(large, (1, 1, 4, 4)))
    machine.set(memory=1000)
    with pytest.raises(ModnasError, match="cuda:0 has no memory for the weights"):
        exact_engine(net)


def test_more_images_or_rows_than_a_grid_has_run_in_turn(
    machine: Machine, large: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = exact_engine(random_net(NEAR_SIGHTED))
    x = np.concatenate([large, large[..., ::-1], large[..., ::-1, :]])[:, :, :30]
    expected, launches = engine(x), machine.count("launches")
    monkeypatch.setattr(cuda, "_MOST_IMAGES", 2)
    fresh = exact_engine(random_net(NEAR_SIGHTED))
    machine.set()
    assert np.array_equal(fresh(x), expected)
    assert machine.count("launches") == 2 * launches
    tall = np.ascontiguousarray(large.transpose(0, 1, 3, 2))
    whole = engine(tall)
    monkeypatch.setattr(cuda, "_MOST_ROWS", 150)
    machine.set()
    assert np.abs(fresh(tall) - whole).max() <= 1e-5 * np.abs(whole).max()
    assert machine.count("launches") > launches


def test_a_graph_that_finds_no_memory_does_without(machine: Machine, large: np.ndarray) -> None:
    engine = exact_engine(random_net(NEAR_SIGHTED))
    expected = engine(large)
    machine.set(memory=machine.taken() + 1000)
    assert np.abs(engine(large) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert machine.count("graphs made") == 0


def test_memory_that_is_gone_after_all_makes_tiles_smaller(machine: Machine, large: np.ndarray) -> None:
    net = random_net(NEAR_SIGHTED)
    expected = exact_engine(net)(large)
    engine = exact_engine(net)
    machine.set(memory=machine.taken() + 2 * large.nbytes + engine.working_bytes(*LARGE[2:]) * 5 // 4)
    machine.break_up(engine.working_bytes(*LARGE[2:]) * 3 // 4)
    assert np.abs(engine(large) - expected).max() < 1e-5 * np.abs(expected).max()
    machine.break_up(100_000)
    engine.release()
    with pytest.raises(ModnasError, match="bytes left; the smallest tile"):
        engine(large)


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_not_finite_is_done_again_in_float32(machine: Machine, net: Any, image: np.ndarray, dtype: str) -> None:
    engine = Engine(net.genotype, net.state_dict(), device="cuda", dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        usual = engine(image)
    large = image * np.float32(1e38 if dtype == "bfloat16" else 1e5)
    large[:, :, :8] *= 3 if dtype == "bfloat16" else 1
    with pytest.warns(RuntimeWarning, match=f"{dtype} went beyond its range") as caught:
        result = engine(large)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.array_equal(result, exact_engine(net)(large), equal_nan=True)
    assert np.array_equal(engine(image), usual)
    broken = image.copy()
    broken[0, 0, 3, 3] = np.nan
    with pytest.warns(RuntimeWarning, match="or the input is not finite"):
        assert np.isnan(engine(broken)[0, 0, 3, 3])
    out = DeviceArray(np.full(image.shape, np.nan, np.float32))
    with pytest.warns(RuntimeWarning, match="beyond its range"):
        engine(DeviceArray(large), out=out, stream=machine.stream())
    assert np.array_equal(out.array, result, equal_nan=True)  # such calls end when their result is there


def test_devices_are_left_as_they_were(machine: Machine, net: Any, image: np.ndarray) -> None:
    machine.choose(1)
    first, second = exact_engine(net), Engine(net.genotype, net.state_dict(), device="cuda:1", dtype="float32")
    assert machine.current == 1
    assert np.array_equal(first(image), second(image))
    result = read(machine, second(DeviceArray(image, 1)), 1)
    assert np.array_equal(result, first(image))
    assert machine.current == 1
    machine.choose(0)
    assert np.array_equal(first(image), second(image))
    first.plan(16, 16, timed=True)
    second.plan(16, 16, timed=True)
    second.release()
    assert machine.current == 0
    with pytest.raises(ModnasError, match="it is on cuda:1, the engine on cuda:0"):
        first(DeviceArray(image, 1))


def test_memory_goes_back(machine: Machine, net: Any, image: np.ndarray) -> None:
    before = machine.taken()
    engine = exact_engine(net)
    weights = machine.taken()
    engine(image)
    assert machine.taken() >= weights + engine.working_bytes(21, 34)
    engine.release()
    assert machine.taken() == weights
    assert np.isfinite(engine(image)).all()
    del engine
    assert machine.taken() == before


def test_calls_from_several_threads(machine: Machine, net: Any) -> None:
    engine = exact_engine(net)
    images = [np.random.default_rng(i).random((1, 1, 16 + i, 16), np.float32) for i in range(8)]
    expected = [engine(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(engine, images), expected, strict=True):
            assert np.array_equal(got, want)


def test_progress_and_cancelling(machine: Machine, large: np.ndarray) -> None:
    engine = exact_engine(random_net(NEAR_SIGHTED))
    shares: list[float] = []
    whole = engine(large, progress=shares.append)
    assert shares == [1.0]
    shares.clear()
    tiled = engine.run_tiled(large, 48, progress=shares.append)
    assert shares == sorted(shares)
    assert len(shares) == 8
    with pytest.raises(Cancelled, match="cancelled"):
        engine.run_tiled(large, 48, progress=lambda share: share < 0.5)
    with pytest.raises(ZeroDivisionError):
        engine.run_tiled(large, 48, progress=lambda share: 1 / 0)
    assert np.array_equal(engine.run_tiled(large, 48), tiled)
    assert np.array_equal(engine(large), whole)


def test_the_plan(machine: Machine) -> None:
    from modnas_fast.networks.summary import summarize

    engine = Engine.from_pretrained(MODEL, device="cuda")
    plan = engine.plan(64, 96)
    assert plan.macs == summarize(engine.genotype, height=64, width=96).macs
    assert all(row.seconds == 0 for row in plan.rows)
    image = 4 * 64 * 96
    assert plan.rows[0].traffic > image + 24 * image  # the stem reads the image and writes 48 channels
    assert plan.traffic == sum(row.traffic for row in plan.rows) > sum(row.bytes for row in plan.rows)
    small = exact_engine(random_net(NEAR_SIGHTED))
    assert all(row.seconds > 0 for row in small.plan(8, 8, timed=True).rows)
    assert "cuda:0 emulated device, float16, 1 stage, " in str(plan)
    assert "DB4 fuse" in str(plan)
    assert plan.rows[-1].name.endswith(" + out")  # one launch
    small.warmup(8, 16, images=2)
    assert machine.count("graphs made") == 1


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_host_sources_compile_with_nvidias_headers(tmp_path: Path) -> None:
    """The emulated runtime's functions are NVIDIA's, as far as the compiler can tell; the kernels' are others' test."""
    names = ("device", "graph", "network", "plan", "prepare", "select")
    sources = [*(emulated_cuda.CSRC / f"cuda/{name}.cpp" for name in names), emulated_cuda.CSRC / "cuda/image.cu"]

    def compile_one(source: Path) -> subprocess.CompletedProcess[str]:
        target = tmp_path / f"{source.name}.o"
        command = [
            "nvcc",
            "-std=c++17",
            "-O0",
            "-arch=sm_75",
            f"-I{emulated_cuda.CSRC}",
            "-c",
            str(source),
            "-o",
            str(target),
        ]
        return subprocess.run(command, capture_output=True, text=True)

    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(compile_one, sources):
            assert done.returncode == 0, done.stdout + done.stderr
