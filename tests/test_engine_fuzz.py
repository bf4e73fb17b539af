"""Broken files and broken requests: one clear error, or a network that runs; never a crash, never another exception."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modnas_fast import DerivedNet, Genotype, ModnasError, load
from modnas_fast.engine.engine import Engine, engine_obstacle
from modnas_fast.engine.program import Step, build_program, native_layer
from modnas_fast.networks.weights import net_from_bytes, weights_to_bytes
from tests.cases import random_genotype
from tests.test_tiling import random_net

pytestmark = pytest.mark.skipif(bool(engine_obstacle()), reason=f"no compiled engine: {engine_obstacle()}")

IMAGE = np.random.default_rng(0).random((1, 1, 9, 17), np.float32)
NUMBERS = (-(2**31), -5, -1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 64, 4096, 2**31 - 1)
LARGE_NUMBERS = (*NUMBERS, 2**61, 2**63 - 1)


def mutate_bytes(content: bytes, draw: random.Random, end: int) -> bytes:
    """One to four changes in the first `end` bytes, or a cut anywhere, or bytes added."""
    changed = bytearray(content)
    kind = draw.randrange(8)
    if kind == 0:
        return bytes(changed[: draw.randrange(len(changed))])
    if kind == 1:
        return bytes(changed + draw.randbytes(1 + draw.randrange(20)))
    for _ in range(1 + draw.randrange(4)):
        place = draw.randrange(end)
        if kind == 2:
            del changed[place]
        elif kind == 3:
            changed[place : place + 1] = draw.choice(
                (b"9", b"99999999", b"-1", b'"', b"{", b"null", b"1e400", b"\\u0000")
            )
        else:
            changed[place] = draw.choice((draw.randrange(256), 0, 255, ord("0") + draw.randrange(10)))
    return bytes(changed)


def refused(attempt: Callable[[], Any]) -> bool:
    """Whether it raised a ModnasError, of one line."""
    message = ""
    try:
        attempt()
    except ModnasError as error:
        message = str(error) or "\n"
    assert "\n" not in message
    return bool(message)


def run(read: Callable[[Any], DerivedNet], source: Any) -> None:
    net = read(source)
    if net.channels_in == 1:
        Engine(net.genotype, net.state_dict(), threads=1)(IMAGE)


def _parse(content: bytes) -> DerivedNet:
    return net_from_bytes(content, "file")


def test_broken_weight_files(tmp_path: Path) -> None:
    content = weights_to_bytes(random_net(random_genotype(5)))
    header = 8 + int.from_bytes(content[:8], "little")
    path = tmp_path / "broken.safetensors"
    refusals = 0
    for seed in range(400):
        draw = random.Random(seed)
        broken = mutate_bytes(content, draw, header if seed % 4 else len(content))

        path.write_bytes(broken)
        from_file, from_bytes = (
            refused(functools.partial(run, *source)) for source in ((load, path), (_parse, broken))
        )
        assert from_file == from_bytes
        refusals += from_file
    assert 200 < refusals < 400  # bytes of a weight may change without harm


def test_broken_genotypes() -> None:
    net = random_net(random_genotype(5))
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    text = net.genotype.to_json().encode()
    refusals = 0
    for seed in range(400):
        broken = mutate_bytes(text, random.Random(seed), len(text))
        refusals += refused(lambda: Engine(Genotype.from_json(broken.decode("utf-8", "replace")), weights))  # noqa: B023
    assert 300 < refusals < 400  # the name may change without harm


def mutate_genotype(entry: Any, draw: random.Random) -> Any:
    """The JSON value with one thing inside it replaced."""
    if isinstance(entry, dict) and entry and draw.random() < 0.9:
        key = draw.choice(sorted(entry))
        return {**entry, key: mutate_genotype(entry[key], draw)}
    if isinstance(entry, list) and entry and draw.random() < 0.8:
        place = draw.randrange(len(entry))
        return [*entry[:place], mutate_genotype(entry[place], draw), *entry[place + 1 :]]
    choices = (None, True, -1, 0, 1, 3, 10**9, 10**30, 1.5, "conv_3x3", "", [], {}, [[]], "area", "deconv_3x3")
    return draw.choice(choices)


def test_genotypes_of_another_structure() -> None:
    net = random_net(random_genotype(7))
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    tree = json.loads(net.genotype.to_json())
    for seed in range(400):
        broken = json.dumps(mutate_genotype(tree, random.Random(seed)))
        refused(lambda: Engine(Genotype.from_json(broken), weights, threads=1)(IMAGE))  # noqa: B023


def mutate_layers(stages: list[list[Any]], draw: random.Random, native: Any) -> None:
    """One wrong thing in the lists of layers that the extension module `native` is given."""
    layers = draw.choice(stages)
    place = draw.randrange(len(layers))
    layer = layers[place]
    kind = draw.randrange(12)
    if kind == 0:
        del layers[place]
    elif kind == 1:
        other = draw.randrange(len(layers))
        layers[place], layers[other] = layers[other], layer
    elif kind == 2:
        layers.insert(place, layer)
    elif kind == 3:
        stages.append(stages[0][: draw.randrange(len(layers) + 1)])
    elif kind == 4:
        weights = np.full(draw.choice((0, 1, 9, 64, 1000)), draw.choice((0.5, np.nan, np.inf)), np.float32)
        names = ("weight", "bias", "depthwise_weight", "depthwise_bias", "shortcut_weight", "shortcut_bias")
        getattr(layer, f"set_{draw.choice(names)}")(weights)
    elif kind == 5:
        layer.op = getattr(native.Op, draw.choice(("convolution", "separable", "sub_pixel", "nearest", "output")))
    elif kind == 6:
        layer.inputs = [draw.choice(NUMBERS) for _ in range(draw.randrange(4))]
    elif kind == 7:
        layer.delta = draw.choice((np.nan, np.inf, -1.0, 2.0))
    elif kind == 8:
        layer.channels = draw.choice(LARGE_NUMBERS)
    else:
        field = draw.choice(("output", "kernel", "stride", "dilation", "shortcut"))
        setattr(layer, field, draw.choice(NUMBERS))


def random_programs() -> list[tuple[tuple[Step, ...], ...]]:
    """Seeds 0…23, which together hold every operation."""
    programs = []
    for seed in range(24):
        net = random_net(random_genotype(seed), 1 + seed % 2)
        weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
        programs.append(build_program(net.genotype, weights, 1 + seed % 2, 1))
    return programs


def test_broken_layers_in_the_bindings() -> None:
    """The compiled part checks for itself: nothing that Python can hand it reads or writes foreign memory."""
    from modnas_fast import _engine

    programs = random_programs()
    refusals = 0
    for seed in range(1000):
        draw = random.Random(seed)
        stages = [[native_layer(_engine, step) for step in steps] for steps in draw.choice(programs)]
        mutate_layers(stages, draw, _engine)
        try:
            network = _engine.Network(1, stages, draw.choice((1, 2)), "", bool(draw.getrandbits(1)))
        except ValueError:
            refusals += 1
            continue
        image = IMAGE[0]
        out = np.empty_like(image)
        assert network.run(0, len(stages), image, image, out, 0, 0, None)
    assert 500 < refusals < 1000


@pytest.mark.parametrize(
    "arguments",
    [(0, [], 1, ""), (1, [], 1, ""), (1, [[]], 1, ""), (-1, [[]], 1, ""), (1, [[]], 0, ""), (1, [[]], 1, "mmx")],
)
def test_broken_networks_in_the_bindings(arguments: tuple[Any, ...]) -> None:
    from modnas_fast import _engine

    with pytest.raises(ValueError):
        _engine.Network(*arguments, False)


@pytest.fixture(scope="module")
def network() -> Any:
    return Engine.from_pretrained("modnas-b-t1-gray-s25", threads=1)._backend.network


GOOD = IMAGE[0]
OUT = np.empty_like(GOOD)
ENDLESS = np.broadcast_to(np.float32(0), (1, 2**40, 2**20))
ODD_STRIDES = np.zeros((1, 9, 17 * 4 + 1), np.int8)[..., :-1].view(np.float32)


@pytest.mark.parametrize(
    ("first", "last", "x", "y", "out", "top", "left"),
    [
        (0, 1, GOOD[0], GOOD, OUT, 0, 0),
        (0, 1, GOOD.astype(np.float64), GOOD, OUT, 0, 0),
        (0, 1, GOOD[:, :8], GOOD, OUT, 0, 0),
        (0, 1, GOOD, GOOD, np.empty((1, 40, 40), np.float32), 0, 0),
        (0, 1, GOOD, GOOD, OUT, 8, 0),
        (0, 1, GOOD, GOOD, OUT, -1, 0),
        (0, 1, GOOD, GOOD, OUT, 2**63 - 1, 0),
        (0, 2, GOOD, GOOD, OUT, 0, 0),
        (1, 1, GOOD, GOOD, OUT, 0, 0),
        (0, 1, GOOD, GOOD, np.broadcast_to(np.float32(0), GOOD.shape), 0, 0),
        (0, 1, ENDLESS, ENDLESS, OUT, 0, 0),
        (0, 1, ODD_STRIDES, GOOD, OUT, 0, 0),
    ],
)
def test_broken_images_in_the_bindings(network: Any, first, last, x, y, out, top, left) -> None:
    with pytest.raises(ValueError):
        network.run(first, last, x, y, out, top, left, None)


def test_broken_sizes_in_the_bindings(network: Any) -> None:
    for size in ((0, 8), (-8, 8), (2**62, 2**62), (2**63 - 1, 1)):
        for question in (network.report, network.working_bytes):
            with pytest.raises(ValueError):
                question(*size)
