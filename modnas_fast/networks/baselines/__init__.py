"""Clean PyTorch definitions of the networks that MoD-NAS compares with, their counts, and their public weights."""

from modnas_fast.networks.baselines.count import Cost, count
from modnas_fast.networks.baselines.load import load_baseline
from modnas_fast.networks.baselines.registry import BASELINES, Baseline

__all__ = ["BASELINES", "Baseline", "Cost", "count", "load_baseline"]
