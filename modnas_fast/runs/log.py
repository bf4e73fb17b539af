"""The TensorBoard log of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modnas_fast.errors import ModnasError


def tensorboard(folder: Path, step: int) -> Any:
    """A `SummaryWriter` into `folder`/tensorboard; what an interrupted run logged after `step` is dropped.

    Raises:
        ModnasError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ModnasError("the log needs TensorBoard: pip install 'modnas-fast[train]'") from None
    return SummaryWriter(folder / "tensorboard", purge_step=step)


Series = tuple[list[int], list[float]]  # steps, and a value at each


def read_log(folder: Path) -> dict[str, Series]:
    """What `tensorboard`'s writers logged, by tag; empty where there is no log.

    Raises:
        ModnasError: TensorBoard is not installed.
    """
    if not (folder / "tensorboard").is_dir():
        return {}
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise ModnasError("the log needs TensorBoard: pip install 'modnas-fast[train]'") from None
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    series = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    return {tag: ([event.step for event in found], [event.value for event in found]) for tag, found in series.items()}
