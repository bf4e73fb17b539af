"""Score a model on a folder of clean images, by the protocol of the paper's tables.

Each image gets the fixed test noise (NumPy's legacy stream, seed 0), JPEG compression or the noise of a camera, its own
one each time, or has a noisy partner; it is denoised, rounded to 8 bit and compared: PSNR on [0, 255], SSIM with an
11x11 Gaussian window. Times are of the network alone, in ms.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modnas_fast.cli.model_arguments import add_model_arguments, tile_size
from modnas_fast.cli.progress import ProgressLine
from modnas_fast.errors import ModnasError

if TYPE_CHECKING:
    from modnas_fast.engine.baseline import BaselineDenoiser
    from modnas_fast.engine.denoiser import Denoiser
    from modnas_fast.images.evaluation import Score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of clean 8-bit images")
    degradation = parser.add_mutually_exclusive_group()
    degradation.add_argument("--sigma", type=float, default=25.0, metavar="S", help="noise level, 0-255 scale (25)")
    degradation.add_argument(
        "--pairs", nargs=2, metavar=("CLEAN", "NOISY"), help="noisy photos and their references: how their names differ"
    )
    degradation.add_argument("--jpeg", type=int, metavar="Q", help="JPEG compression of this quality instead of noise")
    degradation.add_argument("--camera", action="store_true", help="the noise of cameras, a different one each")
    add_model_arguments(parser)
    parser.add_argument("--baseline", metavar="NAME", help="another network, of `modnas-fast summary --baselines`")
    parser.add_argument("--weights", metavar="FILE", help="its published weights")
    parser.add_argument(
        "--rgb", action="store_true", help="score RGB, channel by channel with a gray --model; default: luma"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true")
    output.add_argument("--csv", action="store_true")
    parser.add_argument("--save-images", metavar="DIR", help="write the denoised images there, replacing older ones")


def run(arguments: argparse.Namespace) -> int:
    denoiser = _denoiser(arguments)
    kind, level = _degradation(arguments)
    progress = ProgressLine()
    trained = getattr(denoiser, "trained_for", None)  # of baselines nothing is known
    if trained is not None and not trained.covers(kind, level):
        progress.say(f"note: {denoiser.name} was trained for {trained}")
    channels = 3 if arguments.rgb else denoiser.net.channels_in
    assert isinstance(channels, int)  # nn.Module's attributes have no types
    scores = []
    for score, share in _scores(arguments, denoiser, channels):
        scores.append(score)
        progress.update(share, f"{score.name} {score.psnr:.2f} dB")
        if arguments.save_images:
            _save(Path(arguments.save_images) / Path(score.name).with_suffix(".png"), score)
    progress.clear()
    if arguments.json:
        print(json.dumps(_document(arguments, denoiser.name, str(denoiser.device), scores), indent=2, allow_nan=False))
    elif arguments.csv:
        _write_csv(scores)
    else:
        _print_table(scores)
    return 0


def _degradation(arguments: argparse.Namespace) -> tuple[str, float]:
    if arguments.pairs is not None:
        return "pairs", 0.0
    if arguments.camera:
        return "camera", 0.0
    return ("awgn", arguments.sigma) if arguments.jpeg is None else ("jpeg", float(arguments.jpeg))


def _scores(
    arguments: argparse.Namespace, denoiser: Denoiser | BaselineDenoiser, channels: int
) -> Iterator[tuple[Score, float]]:
    """Each image's score, and the share of the images that is done."""
    from modnas_fast.images.evaluation import EvaluationSet, evaluate, evaluate_pairs
    from modnas_fast.images.pairs import PairedSet

    images: EvaluationSet | PairedSet
    if arguments.pairs is not None:
        images = PairedSet([arguments.data], channels, arguments.pairs)
        scores = evaluate_pairs(denoiser, images)
    else:
        images = EvaluationSet(arguments.data, channels, _degradation(arguments)[0])
        scores = evaluate(denoiser, images, *_degradation(arguments))
    for count, score in enumerate(scores, 1):
        yield score, count / len(images)


def _denoiser(arguments: argparse.Namespace) -> Denoiser | BaselineDenoiser:
    kind, level = _degradation(arguments)
    sigma = level if kind == "awgn" else None
    if arguments.baseline is None:
        from modnas_fast.engine.denoiser import Denoiser

        if arguments.weights is not None:
            raise ModnasError("--weights belongs to --baseline; give a weight file of this package as --model")
        tile = tile_size(arguments.tile)
        model = arguments.model or next(iter(_shipped_for(arguments)), None)
        denoiser = Denoiser(model, arguments.device, tile, arguments.x8, sigma)
        return denoiser.for_channels(3 if arguments.rgb else 1)
    from modnas_fast.engine.baseline import BaselineDenoiser

    if arguments.model is not None or arguments.tile != "auto" or arguments.x8:
        raise ModnasError("--baseline runs a network of its own on whole images: leave --model, --tile and --x8 out")
    return BaselineDenoiser(arguments.baseline, arguments.weights, sigma, arguments.rgb, arguments.device)


def _shipped_for(arguments: argparse.Namespace) -> list[str]:
    """The shipped models for this quality of JPEG, or for photos; those for white noise are `Denoiser`'s to choose."""
    from modnas_fast.networks import models_for

    kind, level = _degradation(arguments)
    return [] if kind == "awgn" else models_for(kind, level, 3 if arguments.rgb else 1)


def _save(path: Path, score: Score) -> None:
    from modnas_fast.images.files import Frame, ImageFile, write_image

    write_image(path, ImageFile((Frame(score.output),)), overwrite=True)


def _document(arguments: argparse.Namespace, model: str, device: str, scores: list[Score]) -> dict[str, Any]:
    from modnas_fast.images.evaluation import mean_scores

    kind, level = _degradation(arguments)
    psnr, ssim = mean_scores(scores)
    return {
        "model": model,
        "data": arguments.data,
        "sigma": level if kind == "awgn" else None,
        "jpeg": arguments.jpeg,
        "pairs": arguments.pairs,
        "camera": arguments.camera,
        "device": device,
        "mean": {"psnr": _finite(psnr), "ssim": _finite(ssim)},
        "images": [{"name": s.name, "psnr": _finite(s.psnr), "ssim": _finite(s.ssim), "ms": s.ms} for s in scores],
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity, the PSNR of what is equal, and no NaN, the SSIM of what is too small for one."""
    return value if math.isfinite(value) else None


def _write_csv(scores: list[Score]) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("name", "psnr", "ssim", "ms"))
    for score in scores:
        table.writerow((score.name, f"{score.psnr:.4f}", f"{score.ssim:.6f}", f"{score.ms:.1f}"))


def _print_table(scores: list[Score]) -> None:
    from modnas_fast.images.evaluation import mean_scores

    width = max(len("mean"), *(len(score.name) for score in scores))
    print(f"{'image':<{width}}  PSNR dB    SSIM        ms")
    for score in scores:
        print(f"{score.name:<{width}}  {score.psnr:7.3f}  {score.ssim:.4f}  {score.ms:8.1f}")
    psnr, ssim = mean_scores(scores)
    total = sum(score.ms for score in scores)
    print(f"{'mean':<{width}}  {psnr:7.3f}  {ssim:.4f}  {total / len(scores):8.1f}   total {total / 1e3:.2f} s")
