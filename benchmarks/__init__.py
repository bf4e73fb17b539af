"""Measurements: `python -m benchmarks.bench_<stem>`; rows are kept under `benchmarks/results/`."""
