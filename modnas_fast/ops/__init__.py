"""Fast equivalents of `reference`, and which backend of the supernet runs."""

from modnas_fast.ops._backend import BACKENDS, check_backend, explain_backend, select_backend, use_backend
from modnas_fast.ops.channel_gate import channel_gate
from modnas_fast.ops.convolution import convolution
from modnas_fast.ops.dense_aggregate import dense_aggregate
from modnas_fast.ops.depthwise import depthwise
from modnas_fast.ops.fast_convolutions import fast_convolutions
from modnas_fast.ops.fold import fold_down, fold_normal, fold_up
from modnas_fast.ops.fold_weights import fold_weights
from modnas_fast.ops.folded_normal import folded_normal
from modnas_fast.ops.folded_up import folded_up
from modnas_fast.ops.mixed_aggregate import mixed_aggregate
from modnas_fast.ops.mixed_op import mixed_op
from modnas_fast.ops.precision import convolution_dtype
from modnas_fast.ops.relax import relax

__all__ = [
    "BACKENDS",
    "channel_gate",
    "check_backend",
    "convolution",
    "convolution_dtype",
    "dense_aggregate",
    "depthwise",
    "explain_backend",
    "fast_convolutions",
    "fold_down",
    "fold_normal",
    "fold_up",
    "fold_weights",
    "folded_normal",
    "folded_up",
    "mixed_aggregate",
    "mixed_op",
    "relax",
    "select_backend",
    "use_backend",
]
