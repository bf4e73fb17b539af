"""The training loop for derived networks, its configuration and its checkpoints."""

from modnas_fast.training.config import TrainConfig

__all__ = ["TrainConfig"]
