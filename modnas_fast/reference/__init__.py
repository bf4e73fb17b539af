"""What the supernet computes, in plain PyTorch, one operation a file: the definition of correct."""

from modnas_fast.reference.channel_gate import channel_gate_ref
from modnas_fast.reference.dense_aggregate import dense_aggregate_ref
from modnas_fast.reference.fold import fold_down_ref, fold_normal_ref, fold_up_ref
from modnas_fast.reference.folded_normal import folded_normal_ref
from modnas_fast.reference.folded_resample import folded_down_ref, folded_up_ref
from modnas_fast.reference.mixed_aggregate import mixed_aggregate_ref
from modnas_fast.reference.mixed_op import mixed_op_ref
from modnas_fast.reference.relax import relax_ref

__all__ = [
    "channel_gate_ref",
    "dense_aggregate_ref",
    "fold_down_ref",
    "fold_normal_ref",
    "fold_up_ref",
    "folded_down_ref",
    "folded_normal_ref",
    "folded_up_ref",
    "mixed_aggregate_ref",
    "mixed_op_ref",
    "relax_ref",
]
