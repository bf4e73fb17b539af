"""Side by side: a part of one image of each test set, clean, degraded, by BM3D, and by the shipped model, enlarged.

python -m benchmarks.crops --data DIR [-o FOLDER]      # DIR holds Set12, BSD68, Urban100, LIVE1, Classic5, real/PolyU

Writes a PNG a set, and a table of the whole images' PSNR to put beside them. BM3D needs its package (`pip install
bm3d`); it is for noise alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import RESULTS
from modnas_fast import Denoiser, load
from modnas_fast.images.evaluation import Score, evaluate, evaluate_pairs, read_clean_image
from modnas_fast.images.files import Frame, ImageFile, write_image
from modnas_fast.networks import ConditionedNet
from modnas_fast.networks.baselines.bm3d import BM3D

_SIDE = 88  # pixels of a part
_TIMES = 3
_GAP = 6
_POLYU = ("mean", "real")  # in the names of clean photos, and of noisy ones

Array = np.ndarray[Any, np.dtype[Any]]


class Crop(NamedTuple):
    """A part of an image of a set, by its top left corner, and what is done to it."""

    data: str
    file: str
    top: int
    left: int
    model: str
    level: float
    degradation: str = "awgn"


CROPS = (
    Crop("Set12", "05.png", 60, 100, "modnas-b-t1-gray-s25", 25),
    Crop("BSD68", "test008.png", 110, 230, "modnas-b-t1-gray-s25", 25),
    Crop("Urban100", "img_006_SRF_4_HR.png", 480, 500, "modnas-b-t1-gray-s25", 25),
    Crop("LIVE1", "parrots.png", 190, 165, "modnas-b-t1-rgb", 25),
    Crop("Classic5", "barbara.png", 60, 300, "modnas-ar-t1-gray-jpeg20", 20, "jpeg"),
    Crop("real/PolyU", "Canon5D2_5_160_6400_reciever_8_mean.JPG", 100, 130, "modnas-b-t1-rgb-photo", 0, "pairs"),
)


def results(crop: Crop, data: Path) -> dict[str, tuple[Array, float | None]]:
    """What stands side by side, by its name: the whole image, uint8 [H, W, C], and its PSNR."""
    net = load(crop.model).eval()
    clean = read_clean_image(data / crop.data / crop.file, net.channels_in, crop.degradation)

    def score(denoiser: Callable[[Tensor], Tensor]) -> Score:
        if crop.degradation == "pairs":
            noisy = read_clean_image(data / crop.data / crop.file.replace(*_POLYU), net.channels_in, "pairs")
            return next(evaluate_pairs(denoiser, [(crop.file, clean, noisy)]))
        return next(evaluate(denoiser, [(crop.file, clean)], crop.degradation, crop.level))

    denoisers: dict[str, Callable[[Tensor], Tensor]] = {"degraded": lambda y: y}
    if crop.degradation == "awgn":
        denoisers["BM3D"] = lambda y: BM3D(net.channels_in)(y, crop.level)
    if crop.degradation == "pairs":  # beside the model for white noise; both estimate how much there is
        denoisers |= {name: Denoiser(name) for name in ("modnas-b-t1-rgb", crop.model)}
    else:
        denoisers[crop.model] = net.at(crop.level) if isinstance(net, ConditionedNet) else net
    scores = {name: score(denoiser) for name, denoiser in denoisers.items()}
    return {"clean": (clean, None)} | {name: (found.output, found.psnr) for name, found in scores.items()}


def strip(images: list[Array], top: int, left: int) -> Array:
    """The parts of the images, enlarged without smoothing, with white between them."""
    parts = [image[top : top + _SIDE, left : left + _SIDE] for image in images]
    large = [part.repeat(_TIMES, axis=0).repeat(_TIMES, axis=1) for part in parts]
    gap = np.full((large[0].shape[0], _GAP, large[0].shape[2]), 255, np.uint8)
    pieces = [piece for part in large for piece in (gap, part)][1:]
    return np.concatenate(pieces, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the test sets are")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "crops", metavar="FOLDER")
    arguments = parser.parse_args()
    print("| image | from left to right, PSNR of the whole image |\n|---|---|")
    with torch.inference_mode():
        for crop in CROPS:
            found = results(crop, arguments.data)
            image = strip([image for image, _ in found.values()], crop.top, crop.left)
            write_image(arguments.output / f"{Path(crop.data).name}.png", ImageFile((Frame(image),)), overwrite=True)
            names = [name if psnr is None else f"{name} {psnr:.2f} dB" for name, (_, psnr) in found.items()]
            print(f"| {crop.data}, `{crop.file}` | {', '.join(names)} |")


if __name__ == "__main__":
    main()
