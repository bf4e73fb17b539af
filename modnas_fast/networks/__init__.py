"""Networks that run: derived nets and their weight files."""

from modnas_fast.networks.derived import DerivedNet
from modnas_fast.networks.weights import WeightsError, load, save_weights, shipped_models

__all__ = ["DerivedNet", "WeightsError", "load", "save_weights", "shipped_models"]
