"""Networks that run: derived nets and their weight files."""

from modnas_fast.networks.conditioned import ConditionedNet
from modnas_fast.networks.derived import DerivedNet, gray_to_rgb, with_stages
from modnas_fast.networks.levels import models_for, plain_net
from modnas_fast.networks.weights import WeightsError, load, save_weights, shipped_models

__all__ = [
    "ConditionedNet",
    "DerivedNet",
    "WeightsError",
    "gray_to_rgb",
    "load",
    "models_for",
    "plain_net",
    "save_weights",
    "shipped_models",
    "with_stages",
]
