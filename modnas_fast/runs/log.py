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
