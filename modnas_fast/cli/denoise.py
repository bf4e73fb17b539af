"""Denoise image files, folders of them, and globs.

PNG, JPEG, TIFF (page by page), WebP, BMP and .npy, 8 and 16 bit, gray and RGB. Depth, alpha, ICC profile and EXIF are
kept. A file that fails is named and the rest goes on; nothing is left half-written, and existing outputs are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

from modnas_fast.cli.model_arguments import add_model_arguments, tile_size
from modnas_fast.cli.progress import ProgressLine
from modnas_fast.errors import ModnasError

if TYPE_CHECKING:
    from modnas_fast.engine.denoiser import Denoiser
    from modnas_fast.images.files import Frame, ImageFile

_AHEAD = 2  # files read before their turn, and results waiting to be saved: enough to overlap, few enough to hold


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image file, folder or glob pattern")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="folder, or a file name for one input file"
    )
    parser.add_argument(
        "--sigma", type=float, metavar="S", help="noise level, 0-255 scale; default: the model's, or estimated"
    )
    add_model_arguments(parser, several=True)
    parser.add_argument("--suffix", default="", help="added to the outputs' names: photo.png becomes photo<suffix>.png")
    parser.add_argument("--ext", help="write this format instead of the input's: png, tiff, jpg, webp, bmp, npy")
    parser.add_argument("-r", "--recursive", action="store_true", help="search folders in folders too")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.engine.denoiser import Denoiser
    from modnas_fast.images.files import check_writable, list_images

    jobs = _plan(list_images(arguments.inputs, recursive=arguments.recursive), arguments)
    model, tile = arguments.model, tile_size(arguments.tile)
    denoisers = [Denoiser(model, device, tile, arguments.x8, arguments.sigma) for device in _devices(arguments.device)]
    denoisers[0].check_level(arguments.sigma)
    progress = ProgressLine()
    failures = _Failures(progress)
    wanted = []
    for source, target in jobs:
        with failures.noted():
            check_writable(target, arguments.overwrite)
            wanted.append((source, target))
    used = _denoise_files(denoisers, wanted, arguments.overwrite, progress, failures)
    places = ", ".join(str(denoiser.device) for denoiser in denoisers)
    levels = sorted(level for denoiser in denoisers for level in denoiser.estimates)
    estimated = f" (noise estimated: σ = {' to '.join(f'{level:g}' for level in levels[:: max(1, len(levels) - 1)])})"
    names = " and ".join(sorted(used)) or denoisers[0].name
    progress.say(
        f"denoised {len(jobs) - failures.count} of {len(jobs)} with {names} on {places} "
        f"into {arguments.output}{estimated if levels else ''}"
    )
    return 1 if failures.count else 0


class _Stopped(Exception):
    """Ends the computing of an image that nobody waits for any more."""


@contextmanager
def _set_by_interrupt(stopping: Event) -> Iterator[None]:
    """So that pools, which end what they have begun, need not take the minutes that a large image has left."""
    try:
        yield
    except KeyboardInterrupt:
        stopping.set()
        raise


class _Failures:
    """Files that failed: each is named in a line of its own, and counted, while the rest goes on."""

    def __init__(self, progress: ProgressLine) -> None:
        self.count = 0
        self._progress = progress

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except (ModnasError, OSError, MemoryError) as error:
            self.count += 1
            self._progress.say(f"error: {error or type(error).__name__}")


def _plan(found: Sequence[tuple[Path, Path]], arguments: argparse.Namespace) -> list[tuple[Path, Path]]:
    """(input, output) pairs.

    Raises:
        ModnasError: two inputs with one output, an output that is an input, or one named like an image of another kind.
    """
    from PIL import Image

    from modnas_fast.images.files import WRITABLE_SUFFIXES

    output = Path(arguments.output)
    suffix = output.suffix.lower()
    if suffix in Image.registered_extensions().keys() - set(WRITABLE_SUFFIXES) and not output.is_dir():
        raise ModnasError(f"{output} cannot be written as {suffix}; choose from {', '.join(WRITABLE_SUFFIXES)}")
    names_a_file = suffix in WRITABLE_SUFFIXES and not output.is_dir()
    if names_a_file and len(found) > 1:
        raise ModnasError(f"{output} names one file, but there are {len(found)} inputs; give a folder")
    if names_a_file:
        targets = [output]
    else:
        extension = "." + arguments.ext.lstrip(".").lower() if arguments.ext else None
        targets = [
            output / relative.with_name(relative.stem + arguments.suffix + (extension or relative.suffix))
            for _, relative in found
        ]
    sources = {path.resolve(): path for path, _ in found}
    taken: dict[Path, Path] = {}
    for (source, _), target in zip(found, targets, strict=True):
        place = target.resolve()
        if place in sources:
            raise ModnasError(f"{target} is an input; choose another output folder or a --suffix")
        if place in taken:
            raise ModnasError(
                f"{taken[place]} and {source} would both become {target}; denoise them one after the other"
            )
        taken[place] = source
    return [(source, target) for (source, _), target in zip(found, targets, strict=True)]


def _devices(name: str) -> list[str]:
    """The devices that `--device` names: all GPUs for cuda:all.

    Raises:
        ModnasError: cuda:all where torch sees none.
    """
    if name != "cuda:all":
        return [name]
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        raise ModnasError("device is 'cuda:all', but torch sees no CUDA device; choose auto or cpu")
    return [f"cuda:{index}" for index in range(count)]


def _denoise_files(
    denoisers: Sequence[Denoiser],
    jobs: Sequence[tuple[Path, Path]],
    overwrite: bool,
    progress: ProgressLine,
    failures: _Failures,
) -> set[str]:
    """Read, denoise and write every file, the three overlapped; whichever denoiser is free takes the next.

    Returns:
        The names of the models that were used.
    """
    from modnas_fast.engine.tiling import portion
    from modnas_fast.images.files import check_writable, read_image, write_image

    stopping = Event()
    idle: SimpleQueue[Denoiser] = SimpleQueue()
    for denoiser in denoisers:
        idle.put(denoiser)
    running: list[tuple[Path, ImageFile, Future[tuple[Frame, ...]]]] = []
    saving: list[Future[None]] = []
    used: set[str] = set()
    split: set[str] = set()

    def update(share: float, text: str) -> None:
        if stopping.is_set():
            raise _Stopped
        progress.update(share, text)

    def note(chosen: Denoiser, frame: Frame) -> None:
        used.add(chosen.name)
        if chosen.net.channels_in == 1 and not frame.is_gray and chosen.name not in split:
            split.add(chosen.name)
            progress.say(f"note: {chosen.name} is for gray images; it runs red, green and blue one by one")

    def denoise(frames: Sequence[Frame], name: str, index: int) -> tuple[Frame, ...]:
        denoiser = idle.get()
        try:
            on_file = portion(partial(update, text=name), index, len(jobs))
            chosen = [denoiser.for_frame(frame) for frame in frames]
            for one, frame in zip(chosen, frames, strict=True):
                note(one, frame)
            return tuple(
                one.denoise_frame(frame, portion(on_file, page, len(frames)))
                for page, (one, frame) in enumerate(zip(chosen, frames, strict=True))
            )
        finally:
            idle.put(denoiser)

    def save_first(writer: ThreadPoolExecutor) -> None:
        target, image, frames = running.pop(0)
        with failures.noted():
            written = replace(image, frames=frames.result())
            saving.append(writer.submit(write_image, target, written, overwrite=overwrite))
        while len(saving) > _AHEAD:
            with failures.noted():
                saving.pop(0).result()

    workers = len(denoisers)
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(workers) as worker,
        ThreadPoolExecutor(1) as writer,
        _set_by_interrupt(stopping),
    ):
        readings = _ahead(reader, read_image, [source for source, _ in jobs])
        for index, ((source, target), reading) in enumerate(zip(jobs, readings, strict=True)):
            with failures.noted():
                image = reading.result()
                check_writable(target, overwrite, image)
                running.append((target, image, worker.submit(denoise, image.frames, source.name, index)))
            while len(running) >= workers:
                save_first(writer)
        while running:
            save_first(writer)
        for future in saving:
            with failures.noted():
                future.result()
    return used


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[Path], ImageFile], paths: Sequence[Path]
) -> Iterator[Future[ImageFile]]:
    """Futures of `read(path)`, at most `_AHEAD` of them started before they are asked for."""
    waiting: list[Future[ImageFile]] = []
    try:
        for index in range(len(paths)):
            while len(waiting) <= _AHEAD and index + len(waiting) < len(paths):
                waiting.append(pool.submit(read, paths[index + len(waiting)]))
            yield waiting.pop(0)
    finally:
        for future in waiting:
            future.cancel()
