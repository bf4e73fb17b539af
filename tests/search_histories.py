"""Hand-made search histories: records as `epoch_record` writes them, without a search."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import numpy as np

from modnas_fast import Genotype
from modnas_fast.genotype import PRIMITIVES
from modnas_fast.networks.summary import Summary, summarize
from modnas_fast.search.history import layer_kind

LAYERS = [f"{block}.{n}" for block in ("EB1", "EB2", "EB3", "DB1", "DB2", "DB3", "DB4") for n in (1, 2, 3)]
LAYERS = sorted(
    [*LAYERS, "EB1 down", "EB2 down", "EB3 down", "DB1 up", "DB2 up", "DB3 up"],
    key=lambda name: (name[0] == "D", name[:3], name[3] == " ", name),
)


def healthy_history(epochs: int = 140, warmup: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """What a search that goes well leaves: α slowly decided, a third of the layers skipped, PSNR levelling off."""
    random = np.random.default_rng(seed)
    goals = {name: random.permutation(_goal(len(PRIMITIVES[layer_kind(name)]))) for name in LAYERS}
    depths = {name: random.normal(0, 1.5, int(name[-1]) + 1) for name in LAYERS if "." in name}
    widths = random.laplace(0.35, 0.45, (len(LAYERS), 48))
    genotype, summary = _network()
    records = []
    for epoch in range(1, epochs + 1):
        progress = max(0, epoch - warmup) / max(1, 140 - warmup)
        alpha = {name: softmax(goals[name] * progress + random.normal(0, 0.02, len(goals[name]))) for name in LAYERS}
        psnr = 29.1 - 6 * math.exp(-epoch / 6) - 0.6 * math.exp(-epoch / 40) + float(random.normal(0, 0.04))
        records.append(
            {
                "epoch": epoch,
                "phase": "weights" if epoch <= warmup else "alternate",
                "train_psnr": psnr - 0.3,
                "validation_psnr": psnr,
                "seconds": 61.5,
                "rate": 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * epoch / 140)),
                "alpha": alpha if progress else {name: softmax(0 * goals[name]) for name in LAYERS},
                "gamma": {name: softmax(depths[name] * progress) for name in depths},
                "beta": _histogram(1 + (widths - 1) * min(1.0, 1.3 * progress)),
                "alpha_entropy": float(np.mean([_entropy(weights) for weights in alpha.values()])),
                "skipped_layers": 7 / 21 * min(1.0, 2 * progress),
                "genotype": json.loads(genotype.to_json()),
                "parameters": summary.parameters,
                "macs": summary.macs,
                "macs_with_bias": summary.macs_with_bias,
            }
        )
    return records


@functools.cache
def _network() -> tuple[Genotype, Summary]:
    genotype = Genotype.load("modnas-b")
    return genotype, summarize(genotype, 2)


def softmax(logits: Any) -> list[float]:
    powers = np.exp(logits - np.max(logits))
    return [round(float(weight), 6) for weight in powers / powers.sum()]


def _goal(count: int) -> Any:
    return np.array([3.2, 1.8, *[0.0] * (count - 2)])


def _entropy(weights: list[float]) -> float:
    known = np.array(weights)
    return float(-(known * np.log(np.maximum(known, 1e-12))).sum() / math.log(len(weights)))


def _histogram(values: Any) -> dict[str, Any]:
    edges = np.arange(math.floor(values.min() / 0.05), math.floor(values.max() / 0.05) + 2) * 0.05
    counts = np.histogram(values, edges)[0]
    return {
        "edges": edges.round(10).tolist(),
        "counts": counts.tolist(),
        "operations": dict.fromkeys(LAYERS, "conv_3x3"),
    }
