"""What a search takes, as `modnas-fast search` runs it: T = 2, C = 48, 12 patches of 64² a step, everything included.

python -m benchmarks.bench_search [--device cpu|cuda] [--precision bf16] [--steps 200]

Four epochs on crops of the example photograph: two of W alone, then two of W and A in turn. The second of each kind is
measured, for the first one compiles and captures. `protocol_hours` is what the paper's 140 epochs would take with as
many steps an epoch as 800 images give: 40 epochs of 33 W-steps, 100 of 33 W- and 33 A-steps.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import DTYPES, add_output, append_rows, positive
from modnas_fast.search.config import SearchConfig
from modnas_fast.search.history import read_history
from modnas_fast.search.loop import HISTORY, search

EPOCHS, WARMUP_EPOCHS, STEPS_AN_EPOCH = 140, 40, 400 // 12
_PHOTOGRAPH = Path(__file__).parents[1] / "examples/chelsea.png"
_CROPS = 8


def measure(device: str, precision: str, steps: int, folder: Path, **settings: Any) -> tuple[float, float]:
    """Seconds of a W-step, and of a W- and an A-step; `settings` are others of the search."""
    for place in ("images", "run"):
        (folder / place).mkdir()
    photograph = np.asarray(Image.open(_PHOTOGRAPH).convert("L"))
    for index, crop in enumerate(np.array_split(photograph, _CROPS, axis=1)):
        np.save(folder / f"images/{index}.npy", np.concatenate((crop, crop[:, ::-1]), axis=1))
    data = (str(folder / "images"),)
    config = SearchConfig(
        str(folder / "run"),
        data,
        epochs=4,
        warmup_epochs=2,
        steps=steps,
        device=device,
        precision=precision,
        **settings,
    )
    search(config)
    seconds = [record["seconds"] / steps for record in read_history(folder / "run" / HISTORY)]
    return seconds[1], seconds[3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=(*DTYPES,), default="bf16")
    parser.add_argument("--steps", type=positive, default=200, help="an epoch")
    add_output(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        alone, both = measure(arguments.device, arguments.precision, arguments.steps, Path(folder))
    hours = STEPS_AN_EPOCH * (WARMUP_EPOCHS * alone + (EPOCHS - WARMUP_EPOCHS) * both) / 3600
    rows = [
        {
            "op": "search step",
            "backend": "auto",
            "mode": mode,
            "dtype": DTYPES[arguments.precision],
            "shape": [12, 1, 64, 64],
            "median_ms": 1e3 * seconds,
            "protocol_hours": hours,
            "device": "cpu" if arguments.device == "cpu" else torch.cuda.get_device_name(),
        }
        for mode, seconds in (("W", alone), ("W and A", both))
    ]
    print(f"W {1e3 * alone:.2f} ms, W and A {1e3 * both:.2f} ms a step; the paper's protocol: {hours:.2f} h")
    print(append_rows(rows, arguments.output))


if __name__ == "__main__":
    main()
