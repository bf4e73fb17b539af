"""What each lever of the training recipe is worth, in dB at a fixed number of pixels seen.

python -m benchmarks.bench_recipe --data DIR --validation Set12 [--steps 1500] [--levers NAME ...] [--runs runs/recipe]

Each run is `modnas-fast train` of MoD-NAS-B, T = 1, gray, σ = 25, from scratch, and differs from "base" in what its
lever names and in nothing else. The base runs with three seeds: a gain within their range is none. An interrupted call
goes on where it was when it is repeated; rows are written at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import DTYPES, append_rows
from modnas_fast import load
from modnas_fast.bench.rows import Row
from modnas_fast.bench.tables import RECIPE, recipe_table
from modnas_fast.cli.progress import ProgressLine
from modnas_fast.images.evaluation import EvaluationSet, evaluate, mean_scores
from modnas_fast.networks.weights import read_safetensors
from modnas_fast.runs.config import config_from_mapping
from modnas_fast.runs.processes import Interrupted
from modnas_fast.training import TrainConfig
from modnas_fast.training.loop import CHECKPOINT, train

SIGMA = 25.0
BASE: dict[str, Any] = {"levels": [SIGMA], "patch": 64, "batch": 8, "precision": "fp32", "validate_every": 10**9}
LEVERS: dict[str, dict[str, Any]] = {
    "base": {},
    "base, seed 1": {"seed": 1},
    "base, seed 2": {"seed": 2},
    "loss L1": {"loss": "l1"},
    "loss Charbonnier": {"loss": "charbonnier"},
    "loss PSNR": {"loss": "psnr"},
    "averaged over 100 steps": {"ema": 0.99},
    "not averaged": {"ema": 0.0},
    "rate 3e-4": {"lr": 3e-4, "lr_final": 3e-6},
    "rate 3e-3": {"lr": 3e-3, "lr_final": 3e-5},
    "Muon": {"optimizer": "muon"},
    "Muon, rate 3e-3": {"optimizer": "muon", "lr": 3e-3, "lr_final": 3e-5},
    "rate constant": {"lr_final": 1e-3},
    "gradients not clipped": {"clip": 1e9},
    "patches of 32²": {"patch": 32, "batch": 32},
    "patches of 128²": {"patch": 128, "batch": 2},
    "patches growing, 32² to 128²": {"patch": 128, "batch": 2, "patch_growth": [32, 64]},
    "batch 4": {"batch": 4},
    "batch 16": {"batch": 16},
    "bfloat16": {"precision": "bf16"},
    "scaled start": {"scaled_start": True},
    "scaled start, seed 1": {"scaled_start": True, "seed": 1},
    "scaled start, batch 4": {"scaled_start": True, "batch": 4},
    "scaled start, batch 4, Charbonnier, Muon": {
        "scaled_start": True,
        "batch": 4,
        "loss": "charbonnier",
        "optimizer": "muon",
    },
    "scaled start, batch 4, PSNR, Muon": {"scaled_start": True, "batch": 4, "loss": "psnr", "optimizer": "muon"},
}


def configuration(lever: str, steps: int, data: list[str], runs: Path) -> TrainConfig:
    """The run of a lever; as many pixels are seen in all as the base sees in `steps`."""
    entries: dict[str, Any] = BASE | LEVERS[lever]
    pixels = entries["batch"] * entries["patch"] ** 2
    entries["steps"] = steps * BASE["batch"] * BASE["patch"] ** 2 // pixels
    folder = runs / f"{steps}-{lever.replace(' ', '-').replace(',', '')}"
    return config_from_mapping(TrainConfig, entries | {"data": data, "output": str(folder)})


def score(folder: Path, validation: str) -> tuple[float, float]:
    """PSNR in dB and SSIM of a run's weights by the paper's protocol."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = load(folder / "weights.safetensors").to(device).eval()
    return mean_scores(list(evaluate(net, EvaluationSet(validation, 1, "awgn"), "awgn", SIGMA, device)))


def lever_row(lever: str, config: TrainConfig, validation: str, progress: ProgressLine) -> Row:
    """Train, or go on; the row of the result."""

    def report(step: int, share: float, decibel: float, seconds_left: float) -> None:
        progress.update(share, f"{lever}: step {step} {decibel:.2f} dB", seconds_left)

    train(config, report, lambda line: None)
    progress.clear()
    folder = Path(config.output)
    psnr, ssim = score(folder, validation)
    _, metadata = read_safetensors(folder / CHECKPOINT)
    return {
        "op": RECIPE,
        "backend": lever,
        "mode": f"{config.steps} steps of {config.batch} × {config.patch}²",
        "dtype": DTYPES[config.precision],
        "validation": Path(validation).name,
        "psnr": round(psnr, 3),
        "ssim": round(ssim, 4),
        "minutes": round(json.loads(metadata["state"])["elapsed"] / 60, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, metavar="DIR", help="clean training images")
    parser.add_argument("--validation", required=True, metavar="DIR", help="clean images that are scored")
    parser.add_argument("--steps", type=int, default=1500, help="of the base; the others see as many pixels")
    parser.add_argument("--levers", nargs="+", choices=LEVERS, default=list(LEVERS), metavar="NAME", help="which (all)")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipe"), metavar="DIR", help="where runs are kept")
    arguments = parser.parse_args()
    progress = ProgressLine()
    rows = []
    for lever in arguments.levers:
        config = configuration(lever, arguments.steps, arguments.data, arguments.runs)
        try:
            rows.append(lever_row(lever, config, arguments.validation, progress))
        except Interrupted:
            sys.exit("interrupted; the same command goes on from here")
    print(recipe_table(rows).markdown())
    print(append_rows(rows))


if __name__ == "__main__":
    main()
