"""The kernels compile for every supported GPU: without spilling, into its shared memory, and to 16-byte accesses."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

# Feature maps that each kernel loads and stores, at the least, at K = 7 and ℓ = 3.
MAPS = {
    "_mixed_op_fwd_kernel": 8,
    "_mixed_op_bwd_kernel": 8,
    "_mixed_aggregate_fwd_kernel": 11,
    "_mixed_aggregate_bwd_kernel": 11,
    "_dense_aggregate_fwd_kernel": 5,
    "_dense_aggregate_bwd_kernel": 5,
    "_channel_gate_fwd_kernel": 2,
    "_channel_gate_bwd_kernel": 2,
    "_relax_fwd_kernel": 3,
    "_relax_bwd_kernel": 3,
}
PARAMETERS = {
    "_mixed_op_parameters_kernel",
    "_mixed_aggregate_parameters_kernel",
    "_dense_aggregate_gamma_kernel",
    "_channel_gate_beta_kernel",
    "_relax_delta_kernel",
}
WEIGHTS = {"_fold_weights_fwd_kernel", "_fold_weights_rows_kernel", "_fold_weights_columns_kernel"}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_compile_for_every_gpu() -> None:
    """The largest K and ℓ, bfloat16 channels_last and float32 contiguous; the command without --fewer does all."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.compile_kernels", "--fewer"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert {(row[0], row[1]) for row in rows} == {
        (name, f"sm_{capability}") for name in MAPS.keys() | PARAMETERS | WEIGHTS for capability in (75, 80, 86, 89, 90)
    }
    narrow = [row for row in rows if row[0] in MAPS and int(row[-1]) < MAPS[row[0]]]
    assert not narrow, narrow
