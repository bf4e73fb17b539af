"""The networks of the paper's Table 2, and those that one would pick today, as things to count and to time."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modnas_fast.engine.denoiser import default_model
from modnas_fast.engine.engine import Engine, engine_obstacle
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Block, Genotype, Layer
from modnas_fast.networks import ConditionedNet, DerivedNet, load, plain_net
from modnas_fast.networks.baselines import BASELINES, count, load_baseline
from modnas_fast.networks.baselines.dncnn import DnCNN
from modnas_fast.networks.summary import summarize

PAPER: Mapping[str, Any] = json.loads(resources.files("modnas_fast").joinpath("bench/paper.json").read_text("utf-8"))
LABELS: Mapping[str, str] = {row["name"]: row["label"] for row in PAPER["table2_and_6"]}
TODAYS: Mapping[str, str] = {"ffdnet": "FFDNet", "drunet": "DRUNet", "nafnet": "NAFNet", "scunet": "SCUNet"}
SCORED_ONLY = ("bm3d", "mod-nas-ar")
NETWORKS = (*(name for name in LABELS if name != "bm3d"), *TODAYS)
STAGES = {"mod-nas-t1": 1, "mod-nas-t3": 3, "mod-nas-t6": 6}
STAND_INS = {"hinas": "a stand-in is counted and timed: HiNAS’s cells are published as a figure only"}
SIGMA = 25.0  # of the timing protocol
LEVELS = (15.0, 25.0, 50.0)
JPEG_QUALITY = 20.0
_SHIPPED = {("mod-nas-t1", sigma): default_model(sigma) for sigma in (15.0, 25.0, 50.0)}

Run = Callable[[Tensor], Tensor]
Weights = Mapping[tuple[str, float], str]  # (network, σ) → file


@dataclass(frozen=True)
class Cost:
    """Parameters; MACs at 48×48 as the paper counts them; MACs and bytes a pixel, both at 256×256.

    Bytes: every convolution's and matrix product's inputs, weights and output once, in float32, for none stays in a
    cache and nothing is fused.
    """

    parameters: int
    macs: int
    macs_per_pixel: float
    bytes_per_pixel: float


def label(name: str) -> str:
    """As the paper's tables call it."""
    return LABELS.get(name) or TODAYS.get(name) or name


def check_name(name: str) -> str:
    """`name`, if it is a network of `NETWORKS`, BM3D or MoD-NAS-AR, which is only scored; `ModnasError` otherwise."""
    if name not in (*NETWORKS, *SCORED_ONLY):
        raise ModnasError(f"unknown network {name!r}; known: {', '.join((*NETWORKS, *SCORED_ONLY))}")
    return name


def obstacle(name: str) -> str:
    """Why this network cannot run here; empty if it can."""
    missing = name == "bm3d" and importlib.util.find_spec("bm3d") is None
    return "package bm3d is not installed: pip install bm3d" if missing else ""


def weights_name(name: str, sigma: float, weights: Weights) -> str | None:
    """What rows call the weights: a shipped model's name, or a file's SHA-256; None where there are none."""
    file = weights.get((name, sigma))
    return f"sha256:{_sha256(file)}" if file else _SHIPPED.get((name, sigma))


def _sha256(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def is_trained(name: str, sigma: float, weights: Weights) -> bool:
    """Whether there are weights at hand for this network and noise."""
    return name == "bm3d" or (name, sigma) in weights or (name, sigma) in _SHIPPED


def build(name: str, sigma: float, weights: Weights, device: torch.device) -> nn.Module:
    """The network for gray images, trained where weights are at hand and otherwise drawn at random from seed 0.

    Raises:
        ModnasError: a file that does not fit.
    """
    file = weights.get((name, sigma), _SHIPPED.get((name, sigma)))
    torch.manual_seed(0)
    stages = 3 if name == "mod-nas-ar" else STAGES.get(name)
    if stages is not None:
        net = load(file) if file else DerivedNet(Genotype.load("modnas-b"), stages)
        if len(net.stages) != stages or net.channels_in != 1:
            raise ModnasError(f"{file}: {len(net.stages)} stages for {net.channels_in} channels, not {name}")
        if isinstance(net, ConditionedNet):
            net = plain_net(net, sigma, str(file))
        return net.to(device).eval()
    if file:
        return load_baseline(name, file, 1, device)
    return BASELINES[name].build(1).to(device).eval()


def call_of(name: str, net: nn.Module, sigma: float) -> Run:
    """float [1, 1, H, W] to the same; σ goes where it is asked for."""
    if name in BASELINES and BASELINES[name].noise == "sigma":
        return lambda y: net(y, sigma)
    return lambda y: net(y)


def engine_of(net: nn.Module) -> Run | None:
    """The same network on the compiled engine; None where it is not built."""
    if engine_obstacle():
        return None
    assert isinstance(net, DerivedNet)
    engine = Engine(net.genotype, net.state_dict(), threads=torch.get_num_threads())
    return lambda y: torch.from_numpy(engine(y))


@cache
def cost(name: str) -> Cost:
    """What a network of `NETWORKS` costs, on the meta device."""
    net = _on_meta(name)
    run = call_of(name, net, SIGMA)
    with torch.no_grad(), _Traffic() as traffic:
        run(torch.empty(1, 1, 256, 256, device="meta"))
    if name in STAGES:
        small, large = (summarize(Genotype.load("modnas-b"), STAGES[name], 1, side, side) for side in (48, 256))
        return Cost(small.parameters, small.macs_with_bias, large.macs / 256**2, traffic.bytes / 256**2)
    small_cost, large_cost = count(name), count(name, 1, 256, 256)
    assert small_cost is not None  # BM3D is none of them
    assert large_cost is not None
    return Cost(small_cost.parameters, small_cost.macs, large_cost.macs / 256**2, traffic.bytes / 256**2)


def variants() -> dict[str, dict[str, int]]:
    """Parameters, and MACs at 48×48 where published, of what Tables 1, 4 and 5 have besides.

    C = 64; the networks for RGB photographs; AR, and DnCNN of 20 layers.
    """
    wide, ar = summarize(fixed_width(64), 3), summarize(Genotype.load("modnas-ar"), 3)
    with torch.device("meta"):
        deep = sum(x.numel() for x in DnCNN(1, 20).parameters())
    return {
        "mod-nas-t3-c64": {"parameters": wide.parameters, "macs": wide.macs_with_bias},
        **{name: {"parameters": _parameters(name, 3)} for name in (row["name"] for row in PAPER["table4_sidd"])},
        "mod-nas-ar": {"parameters": ar.parameters},
        "dncnn20": {"parameters": deep},
    }


def _parameters(name: str, channels_in: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in BASELINES[name].build(channels_in).parameters())


def fixed_width(channels: int) -> Genotype:
    """MoD-NAS-B's operations and depth with `channels` in every layer: Table 1's network without width search."""
    genotype = Genotype.load("modnas-b")

    def wide(layer: Any) -> Any:
        return replace(layer, channels=channels) if isinstance(layer, Layer) else layer

    def of(block: Block) -> Block:
        return replace(block, layers=tuple(map(wide, block.layers)), resample=wide(block.resample))

    return Genotype(channels, tuple(map(of, genotype.encoder)), tuple(map(of, genotype.decoder)), f"C = {channels}")


def weight_file(text: str) -> tuple[tuple[str, float], str]:
    """((network, σ), file) of "NAME=FILE" or "NAME@SIGMA=FILE".

    Raises:
        ModnasError: another form, or an unknown network.
    """
    target, equals, file = text.partition("=")
    name, _, level = target.partition("@")
    try:
        sigma = float(level or SIGMA)
    except ValueError:
        equals = ""
    if not equals or not os.path.isfile(file):
        raise ModnasError(f"--weights is {text!r}; give NAME=FILE or NAME@SIGMA=FILE with a file that exists")
    if sigma not in (*LEVELS, JPEG_QUALITY):
        known = ", ".join(f"{known:g}" for known in LEVELS)
        raise ModnasError(f"--weights {text}: scored are σ = {known}, and JPEG quality {JPEG_QUALITY:g}")
    return (check_name(name), sigma), file


def weight_files(texts: Sequence[str], networks: Sequence[str]) -> dict[tuple[str, float], str]:
    """`weight_file` of each.

    Raises:
        ModnasError: as it does; or two for one network and level, or one for a network that is not asked for.
    """
    found: dict[tuple[str, float], str] = {}
    for text in texts:
        key, file = weight_file(text)
        if key in found:
            raise ModnasError(f"--weights {text}: {key[0]} at {key[1]:g} has {found[key]} already; give one of them")
        if key[0] not in networks:
            raise ModnasError(f"--weights {text}: {key[0]} is not asked for; name it among --networks")
        found[key] = file
    return found


def _on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        net = DerivedNet(Genotype.load("modnas-b"), STAGES[name]) if name in STAGES else BASELINES[name].build(1)
    return net.eval()


class _Traffic(TorchDispatchMode):
    """`bytes` of the tensors that convolutions and matrix products take and give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _PRODUCTS:
            self.bytes += sum(x.numel() * 4 for x in tree_leaves((args, result)) if isinstance(x, Tensor))
        return result


_PRODUCTS = {
    getattr(torch.ops.aten, op) for op in ("convolution", "_convolution", "mm", "addmm", "bmm", "baddbmm", "linear")
}
