"""The engine on CUDA refuses what it cannot do, in a sentence each; machines, images and layers that are wrong."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from modnas_fast import ModnasError
from modnas_fast.engine.engine import Engine, engine_obstacle
from modnas_fast.engine.program import native_layer
from tests import emulated_cuda
from tests.emulated_cuda import DeviceArray, Machine, exact_engine
from tests.test_engine_fuzz import mutate_layers, random_programs

pytestmark = pytest.mark.skipif(emulated_cuda.COMPILER is None, reason="no C++ compiler")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda:2"}, "there is no device cuda:2; this machine has 2"),
        ({"device": "cuda:x"}, "device is 'cuda:x'"),
        ({"device": "cuda", "dtype": "float64"}, "dtype is 'float64'"),
        ({"device": "cuda", "threads": 2}, "threads and variant are for the CPU"),
        ({"device": "cuda", "memory_limit": 0}, "memory_limit is 0"),
    ],
)
def test_bad_settings(machine: Machine, net: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModnasError, match=message):
        Engine(net.genotype, net.state_dict(), **settings)


@pytest.mark.parametrize(
    ("emulating", "message"),
    [
        ({"devices": 0}, "there is no GPU"),
        ({"driver": 12020}, r"the NVIDIA driver is too old: it runs CUDA 12\.2, .* with 13\.0; update the driver"),
        ({"driver": 0}, "no NVIDIA driver is installed"),
        ({"capability": 70}, r"compute capability 7\.0; the engine needs 7\.5"),
    ],
)
def test_machines_that_cannot_run_it(machine: Machine, net: Any, emulating: dict[str, int], message: str) -> None:
    machine.set(**emulating)
    assert engine_obstacle("cuda")
    with pytest.raises(ModnasError, match=message):
        exact_engine(net)


def test_bfloat16_needs_a_newer_device(machine: Machine, net: Any, image: np.ndarray) -> None:
    machine.set(capability=75)
    with pytest.raises(ModnasError, match=r"compute capability 7\.5\) cannot run bfloat16; choose float16"):
        Engine(net.genotype, net.state_dict(), device="cuda", dtype="bfloat16")
    assert np.isfinite(Engine(net.genotype, net.state_dict(), device="cuda")(image)).all()


def test_bad_images(machine: Machine, net: Any, image: np.ndarray) -> None:
    engine = exact_engine(net)
    for x, message in (
        (np.zeros((1, 3, 8, 8), np.float32), "one channel at a time"),
        (DeviceArray(np.zeros((1, 3, 8, 8), np.float32)), "one channel at a time"),
        (DeviceArray(np.zeros((1, 1, 8, 8))), "it is not float32"),
        (DeviceArray(np.zeros((8, 8), np.float32)), "it is not float32"),
        (DeviceArray(np.zeros((1, 1, 0, 8), np.float32)), r"\[1, 1, 0, 8\]"),
        ("photo.png", "cannot read a str"),
    ):
        with pytest.raises(ModnasError, match=message):
            engine(x)
    on_device = DeviceArray(image)
    for x, out, message in (
        (on_device, image.copy(), "out is a ndarray elsewhere"),
        (image, on_device, "out is on a CUDA device and the input is not"),
        (on_device, on_device, "out shares memory"),
        (on_device, DeviceArray(np.zeros((1, 1, 8, 8), np.float32)), r"out is \[1, 1, 8, 8\]; give float32"),
        (image, image, "out shares memory"),
    ):
        with pytest.raises(ModnasError, match=message):
            engine(x, out=out)
    assert engine(np.zeros((0, 1, 7, 9), np.float32)).shape == (0, 1, 7, 9)


def test_a_stream_that_is_captured_is_refused(machine: Machine, net: Any, image: np.ndarray) -> None:
    engine, stream = exact_engine(net), machine.stream()
    given, out = DeviceArray(image), DeviceArray(np.full_like(image, np.nan))
    with machine.captured(stream), pytest.raises(ModnasError, match="cuda:0: the stream is being captured in a CUDA"):
        engine(given, out=out, stream=stream)
    engine(given, out=out, stream=stream)
    machine.wait(stream)
    assert np.array_equal(out.array, engine(image))


def test_broken_layers_in_the_bindings(machine: Machine) -> None:
    """The compiled part checks for itself, as that for the CPU does."""
    from modnas_fast import _engine_cuda

    programs = random_programs()
    refusals = 0
    image = np.zeros((1, 1, 9, 17), np.float32)
    for seed in range(300):
        draw = random.Random(seed)
        stages = [[native_layer(_engine_cuda, step) for step in steps] for steps in draw.choice(programs)]
        mutate_layers(stages, draw, _engine_cuda)
        try:
            network = _engine_cuda.Network(1, stages, 0, "float32")
        except ValueError:
            refusals += 1
            continue
        given, made = (_engine_cuda.Array(0, image.shape) for _ in range(2))
        given.upload(image, 1)
        network.run(0, len(stages), given.image, given.image, made.image, 0, 0, 1)
        network.wait(1)
    assert 150 < refusals < 300


def test_broken_images_in_the_bindings(machine: Machine, net: Any) -> None:
    from modnas_fast._engine_cuda import Array, Image

    network = exact_engine(net)._backend.network
    good, small = Array(0, (1, 1, 9, 17)).image, Array(0, (1, 1, 8, 17)).image
    arguments = (0, 2, good, good, good, 0, 0, 1)
    for place, value in (
        (0, 2),
        (1, 3),
        (2, small),
        (4, Array(0, (1, 1, 40, 40)).image),
        (4, Array(0, (2, 1, 9, 17)).image),
        (4, Array(0, (1, 3, 9, 17)).image),
        (4, Image(0, (1, 1, 9, 17), (0, 0, 17, 1))),
        (4, Image(6, (1, 1, 9, 17), (0, 0, 17, 1))),
        (5, 8),
        (5, -1),
        (6, 2**62),
    ):
        with pytest.raises(ValueError):
            network.run(*arguments[:place], value, *arguments[place + 1 :])
    for box in ((0, 2, 0, 9, 0, 17), (0, 1, 3, 3, 0, 17), (0, 1, -1, 9, 0, 17), (0, 1, 0, 9, 0, 18)):
        with pytest.raises(ValueError):
            good.window(*box)
    for size in ((0, 8, 8), (1, 0, 8), (70000, 8, 8), (1, 2**62, 8)):
        with pytest.raises(ValueError):
            network.working_bytes(*size)
