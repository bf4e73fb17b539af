"""The benchmark of a search, in small."""

from pathlib import Path

from benchmarks.bench_search import measure


def test_both_kinds_of_steps_are_measured(tmp_path: Path) -> None:
    alone, both = measure("cpu", "fp32", 1, tmp_path, stages=1, channels=2, batch=2, patch=16)
    assert alone > 0
    assert both > 0
    assert len([*(tmp_path / "images").iterdir()]) == 8
