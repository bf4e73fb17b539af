"""Measuring the paper's Tables 2, 5 and 6 on this machine; it goes on where it was interrupted.

Time, as the paper has it: the images of Urban100 at σ = 25 in gray, one by one and whole, float32 without TF32,
reading and noise apart. Every network runs once on each image before the next image comes, so that a clock that drifts
treats all alike, after one untimed call for every new size; a device is waited for after each call, and short calls,
which noise harms most, are repeated for their median. Each runs in the faster of two memory layouts, tried on a small
image. What is timed is scored where weights are at hand. Speed does not depend on weights: the others are drawn at
random.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modnas_fast.bench.contenders import (
    JPEG_QUALITY,
    LEVELS,
    NETWORKS,
    SCORED_ONLY,
    SIGMA,
    STAGES,
    Run,
    Weights,
    build,
    call_of,
    cost,
    engine_of,
    is_trained,
    obstacle,
    variants,
    weights_name,
)
from modnas_fast.bench.machine import measure_machine, without_tf32
from modnas_fast.bench.rows import Row, circumstances, read_rows, write_rows
from modnas_fast.errors import ModnasError
from modnas_fast.images.degradations import add_test_noise
from modnas_fast.images.evaluation import evaluate, read_clean_image
from modnas_fast.images.files import from_float, list_images
from modnas_fast.images.metrics import psnr, ssim

SETS = ("Set12", "BSD68", "Urban100", "LIVE1")
TIME, QUALITY, COUNTS = "paper time", "paper quality", "paper counts"
READING, MACHINE, SETTINGS = "paper reading", "paper machine", "paper"
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_TRIAL = 128  # side of the image that layouts are tried on
_CALLS, _ENOUGH = 5, 1.0  # calls of a network on an image at most, and the seconds from which no more are made

OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Attributes:
        data: set of `SETS` → folder of clean images; what needs another set is left out.
        networks: of `NETWORKS`, timed and scored; of `SCORED_ONLY`, scored.
        weights: files beside the shipped models.
        device: where networks run.
        images: how many of Urban100's images are timed, spread over the set; None for all.
        crop: side of the middle of these images that is taken; None for whole ones.
    """

    data: Mapping[str, Path]
    networks: Sequence[str] = NETWORKS
    weights: Weights = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    images: int | None = None
    crop: int | None = None

    @property
    def settings(self) -> Row:
        """What rows of one file share."""
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {"device": device, "threads": torch.get_num_threads(), "images": self.images, "crop": self.crop}


def measure_paper(request: Request, path: str | os.PathLike[str], progress: OnProgress) -> list[Row]:
    """Measure what the file does not have yet; the file is written after every network on every image.

    Args:
        request: what.
        path: the rows; they may come from an earlier call, also for other networks, with the same settings and weights.
        progress: called with the share of the work done and what runs.

    Raises:
        ModnasError: the file has rows of other settings or weights, or an image or weight file cannot be read.
    """
    book = _Book(Path(path), request)
    with without_tf32():
        _measure(request, book, progress)
    book.save()
    return book.rows


def _measure(request: Request, book: _Book, progress: OnProgress) -> None:
    absent = {name: why for name in request.networks if (why := obstacle(name))}
    book.note(request, absent)
    request = replace(request, networks=[name for name in request.networks if name not in absent])
    if not book.find(MACHINE, None):
        progress(0, "counting")
        for name in NETWORKS:
            book.add(op=COUNTS, network=name, **asdict(cost(name)))
        for name, counts in variants().items():
            book.add(op=COUNTS, network=name, **counts)
        book.add(op=MACHINE, **measure_machine(request.device))
    if "Urban100" in request.data:
        _measure_times(request, book, progress)
    _measure_quality(request, book, progress)


class _Book:
    """The rows of one file."""

    def __init__(self, path: Path, request: Request) -> None:
        self._path, self._here = path, {**circumstances(), **request.settings}
        self.rows: list[Row] = read_rows(path) if path.exists() else []
        head = self.find(SETTINGS, None)
        if self.rows and head is None:
            raise ModnasError(f"{path}: has other results; give a file of its own with -o")
        for key, value in request.settings.items():
            if head is not None and head.get(key) != value:
                raise ModnasError(f"{path}: was measured with {key} = {head.get(key)}, not {value}; give another file")
        if head is not None and head.get("commit") != self._here["commit"]:
            raise ModnasError(f"{path}: was measured at commit {head.get('commit')}; give another file with -o")
        for row in self.rows:
            self._check_weights(row, request)
        self._head = head or self.add(op=SETTINGS)

    def _check_weights(self, row: Row, request: Request) -> None:
        if row["op"] not in (TIME, QUALITY) or row["network"] not in request.networks:
            return
        level = row.get("level", SIGMA)
        before, now = row.get("weights"), weights_name(row["network"], level, request.weights)
        if before != now:
            raise ModnasError(
                f"{self._path}: {row['network']} at {level:g} was measured with {_named(before)}, not with "
                f"{_named(now)}; give another file with -o"
            )

    def note(self, request: Request, absent: Mapping[str, str]) -> None:
        """What was asked for, in all calls, and what this one cannot have, for verdicts to tell why a figure lacks."""
        asked = self._head.setdefault("asked", {})
        for name in request.networks:
            asked[name] = list(dict.fromkeys((*asked.get(name, ()), *request.data)))
        kept = {name: why for name, why in self._head.get("absent", {}).items() if name not in request.networks}
        self._head["absent"] = {**kept, **absent}

    def find(self, op: str, network: str | None, **more: Any) -> Row | None:
        wanted = {"op": op, **({"network": network} if network else {}), **more}
        return next((row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())), None)

    def add(self, **row: Any) -> Row:
        self.rows.append({**row, **self._here})
        return self.rows[-1]

    def save(self) -> None:
        write_rows(self._path, self.rows)


@dataclass
class _Timed:
    """A network in one of the ways it runs, and its row."""

    name: str
    run: Run
    row: Row
    device: torch.device
    warmed: set[torch.Size] = field(default_factory=set)

    @property
    def work(self) -> float:
        """About what an image takes beside the others: MACs, but small networks are bound by something else."""
        return max(cost(self.name).macs_per_pixel, 3e5)

    def __call__(self, y: Tensor) -> Tensor:
        return self.run(y.contiguous(memory_format=_LAYOUTS[self.row["layout"]]))

    def seconds(self, y: Tensor) -> tuple[float, Tensor]:
        """The median of as many calls as fit into a second, one to five; and what the last gave."""
        spent: list[float] = []
        while not spent or (len(spent) < _CALLS and sum(spent) < _ENOUGH):
            _wait(self.device)
            started = time.perf_counter()
            restored = self(y)
            _wait(self.device)
            spent.append(time.perf_counter() - started)
        return float(np.median(spent)), restored


@torch.inference_mode()
def _measure_times(request: Request, book: _Book, progress: OnProgress) -> None:
    files = _spread(list_images([request.data["Urban100"]]), request.images)
    timed: list[_Timed] = []
    for name in request.networks:
        if name in SCORED_ONLY:
            continue
        for backend, run in _ways(name, request):
            row = book.find(TIME, name, backend=backend)
            if row is None:
                start = {"layout": "", "trained": is_trained(name, SIGMA, request.weights), "samples_ms": []}
                used = weights_name(name, SIGMA, request.weights)
                row = book.add(op=TIME, network=name, backend=backend, dtype="float32", weights=used, **start)
            timed.append(_Timed(name, run, row, request.device))
    reading = book.find(READING, None) or book.add(op=READING, names=[], pixels=[], samples_ms=[])
    left = sum(one.work * (len(files) - len(one.row["samples_ms"])) for one in timed if not one.row.get("failed"))
    done = 0.0
    for index, (path, relative) in enumerate(files):
        pending = [one for one in timed if len(one.row["samples_ms"]) <= index and not one.row.get("failed")]
        if not pending:
            continue
        started = time.perf_counter()
        clean, y = _read(path, request.crop, request.device)
        _wait(request.device)
        if len(reading["samples_ms"]) <= index:
            reading["names"].append(str(relative))
            reading["pixels"].append(clean.size)
            reading["samples_ms"].append(_rounded(1e3 * (time.perf_counter() - started)))
        for one in pending:
            progress(min(done / left, 1), f"{relative} {one.name}")
            done += one.work
            try:
                _warm_up(one, y)
                seconds, restored = one.seconds(y)
            except RuntimeError as error:  # an allocation that fails is one, on CPU and CUDA
                if "memory" not in str(error):
                    raise
                one.row["failed"] = f"out of memory on {clean.shape[1]}×{clean.shape[0]} pixels"
                continue
            one.row["samples_ms"].append(_rounded(1e3 * seconds))
            if one.row["trained"]:
                _score(one.row, restored, clean)
            book.save()


def _ways(name: str, request: Request) -> Iterator[tuple[str, Run]]:
    """PyTorch, and on CPUs the engine for our networks."""
    net = build(name, SIGMA, request.weights, request.device)
    yield "torch", call_of(name, net, SIGMA)
    engine = engine_of(net) if name in STAGES and request.device.type == "cpu" else None
    if engine is not None:
        yield "engine", engine


def _warm_up(one: _Timed, y: Tensor) -> None:
    """A row's layout is chosen once; every shape has one untimed call in a session."""
    small = y[..., :_TRIAL, :_TRIAL]
    if not one.row["layout"]:
        trials = {}
        for layout in _LAYOUTS if one.row["backend"] == "torch" else ["contiguous"]:
            one.row["layout"] = layout
            one(small)
            trials[layout] = one.seconds(small)[0]
        one.row["layout"] = min(trials, key=trials.__getitem__)
    if y.shape not in one.warmed:
        one(y)
        one.warmed.add(y.shape)


def _read(path: Path, crop: int | None, device: torch.device) -> tuple[np.ndarray[Any, Any], Tensor]:
    """The clean gray image [H, W, 1] and the noisy one on the device, or the middle of both."""
    clean = read_clean_image(path, 1, "awgn")
    noisy = add_test_noise(clean / 255.0, SIGMA)
    if crop is not None:
        rows, columns = (slice(max(0, side - crop) // 2, max(0, side - crop) // 2 + crop) for side in clean.shape[:2])
        clean, noisy = clean[rows, columns], noisy[rows, columns]
    return clean, torch.from_numpy(np.ascontiguousarray(noisy)).permute(2, 0, 1)[None].to(device)


def _score(row: Row, restored: Tensor, clean: np.ndarray[Any, Any]) -> None:
    output = from_float(restored[0].permute(1, 2, 0).float().cpu().numpy(), np.uint8)
    row.setdefault("psnr", []).append(psnr(output, clean))
    row.setdefault("ssim", []).append(ssim(output, clean) if min(clean.shape[:2]) >= 11 else float("nan"))


@dataclass(frozen=True)
class _Scored:
    """A network on a whole set: noise of `level`, or JPEG of that quality on LIVE1."""

    network: str
    data: str
    level: float

    @property
    def degradation(self) -> str:
        return "jpeg" if self.data == "LIVE1" else "awgn"


def _measure_quality(request: Request, book: _Book, progress: OnProgress) -> None:
    """What there are weights for, and not yet scored with the times, which Urban100 at σ = 25 is."""
    noisy = [
        _Scored(name, data, level)
        for name in request.networks
        for data in ("Set12", "BSD68", "Urban100")
        for level in LEVELS
        if name in SCORED_ONLY or (data, level) != ("Urban100", SIGMA)
    ]
    coded = [_Scored(name, "LIVE1", JPEG_QUALITY) for name, level in request.weights if level == JPEG_QUALITY]
    jobs = [
        job
        for job in (*noisy, *coded)
        if job.data in request.data and is_trained(job.network, job.level, request.weights)
    ]
    for index, job in enumerate(jobs):
        row = book.find(QUALITY, job.network, data=job.data, level=job.level)
        if row is None:
            used = weights_name(job.network, job.level, request.weights)
            what = {"network": job.network, "data": job.data, "level": job.level, "weights": used}
            row = book.add(op=QUALITY, **what, names=[], psnr=[], ssim=[])
        files = _spread(list_images([request.data[job.data]]), request.images if job.data == "Urban100" else None)
        left = files[len(row["names"]) :]
        net = build(job.network, job.level, request.weights, request.device)
        images = ((str(relative), read_clean_image(path, 1, job.degradation)) for path, relative in left)
        run = call_of(job.network, net, job.level)
        for score in evaluate(run, images, job.degradation, job.level, request.device):
            row["names"].append(score.name)
            row["psnr"].append(score.psnr)
            row["ssim"].append(score.ssim)
            share = (index + len(row["names"]) / len(files)) / len(jobs)
            progress(share, f"{job.network} on {job.data}, {score.name}")
            book.save()


def _spread(files: Sequence[tuple[Path, Path]], count: int | None) -> Sequence[tuple[Path, Path]]:
    """So many, evenly spread over the list."""
    if count is None or count >= len(files):
        return files
    return [files[index * len(files) // count] for index in range(count)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _named(weights: str | None) -> str:
    return weights[:19] + "…" if weights and weights.startswith("sha256:") else weights or "no weights"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
