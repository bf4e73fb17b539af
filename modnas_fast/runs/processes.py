"""This process's place among torchrun's, and the signals that stop a run between two steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from modnas_fast.errors import ModnasError
from modnas_fast.runs.memory import keep_freed_memory


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; the checkpoint is on disk and the same command goes on from it."""


@dataclass(frozen=True)
class Processes:
    """One process of `world`: rank 0 alone prints, logs, validates and saves."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def captures(self) -> bool:
        """Whether its steps run as CUDA graphs: those of several processes exchange gradients in between."""
        return self.device.type == "cuda" and self.world == 1

    @property
    def share(self) -> slice:
        """This process's part of a batch."""
        return slice(self.rank, None, self.world)

    def agree(self, value: float) -> float:
        """The first process's `value`, in every process."""
        if self.world == 1:
            return value
        agreed = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(agreed, src=0)
        return float(agreed)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """The mean over processes, as one reduction; a parameter without gradient counts as zero.

        DistributedDataParallel is no substitute: its reducer ends the process group's threads while it holds the GIL,
        which they may wait for. These networks' gradients are too small to be worth sending in parts.
        """
        if self.world == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))  # in place: fused Adam wants the parameter's memory layout


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """This process alone, or one of torchrun's (NCCL on CUDA, Gloo on CPUs), which on a CPU keeps what it frees.

    Args:
        device: "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises:
        ModnasError: CUDA is asked for and torch sees none.
    """
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise ModnasError("device is cuda, but torch sees no CUDA device; use device=cpu or auto")
    if not cuda:
        keep_freed_memory()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    place = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(dist.get_rank(), world, place)
    finally:
        dist.destroy_process_group()


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag that a loop reads between steps; a second one acts as usual."""
    seen: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(number, previous[number])

    for caught in (signal.SIGINT, signal.SIGTERM):
        previous[caught] = signal.signal(caught, note)
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
