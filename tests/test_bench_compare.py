"""`modnas-fast bench compare`: what is called a difference, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from modnas_fast.bench.compare import FASTER, SAME, SLOWER, compare, left_out, mann_whitney
from modnas_fast.bench.rows import Row
from modnas_fast.cli import main


def row(samples: list[float], **more: object) -> Row:
    low, median, high = np.percentile(samples, (20, 50, 80))
    times = {"median_ms": float(median), "p20_ms": float(low), "p80_ms": float(high), "samples_ms": samples}
    return {"op": "denoise", "shape": [1, 1, 8, 8], **times, "commit": "x", "date": "today", **more}


def test_the_test_is_scipy_s() -> None:
    draw = np.random.default_rng(0)
    for shift in (0.0, 0.5, 2.0):
        a, b = draw.normal(size=11).round(1), draw.normal(shift, size=9).round(1)  # with ties
        expected = mannwhitneyu(a, b, method="asymptotic").pvalue
        assert mann_whitney([*a], [*b]) == pytest.approx(expected, rel=1e-9)
        a, b = draw.normal(size=7), draw.normal(shift, size=5)
        assert mann_whitney([*a], [*b]) == pytest.approx(mannwhitneyu(a, b, method="exact").pvalue, rel=1e-9)
    assert mann_whitney([1.0, 1.0], [1.0, 1.0]) == 1


def test_faster_slower_and_no_difference() -> None:
    base = [10.0, 10.2, 10.1, 9.9, 10.05, 10.3, 9.95]
    for factor, verdict in ((0.5, FASTER), (2.0, SLOWER), (1.0, SAME), (1.02, SAME)):
        (one,) = compare([row(base)], [row([factor * x for x in base], commit="y", date="later")])
        assert (one.verdict, one.ratio) == (verdict, pytest.approx(factor))
    noisy = [5.0, 20.0, 6.0, 18.0, 7.0, 15.0, 9.0]
    assert compare([row(base)], [row(noisy)])[0].verdict == SAME


def test_without_samples_intervals_must_not_meet() -> None:
    def bare(median: float, spread: float) -> Row:
        return {"op": "step", "median_ms": median, "p20_ms": median - spread, "p80_ms": median + spread}

    assert compare([bare(10, 1)], [bare(7, 1)])[0].verdict == FASTER
    assert compare([bare(10, 1)], [bare(8.5, 1)])[0].verdict == SAME
    assert compare([bare(10, 0)], [bare(5, 0)])[0].verdict == SAME  # measured once: nothing is shown


def test_images_are_compared_in_pairs() -> None:
    before = {"op": "paper time", "network": "rdn", "samples_ms": [10.0, 100.0, 1000.0, 50.0, 70.0]}
    after = {**before, "samples_ms": [9.0, 90.0, 905.0, 44.0, 64.0]}
    assert compare([before], [after])[0].verdict == FASTER
    assert compare([before], [{**after, "samples_ms": [9.0, 110.0, 905.0, 55.0, 64.0]}])[0].verdict == SAME


def test_what_differs_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    base = [10.0, 10.2, 10.1, 9.9, 10.05]
    for file, dtype in zip(files, ("float32", "bfloat16"), strict=True):
        file.write_text(json.dumps([row(base, dtype=dtype)]))
    assert main(["bench", "compare", *map(str, files)]) == 2
    error = capsys.readouterr().err
    assert "have no timed row in common (rows only in A: 1, only in B: 1; where only settings differ, " in error
    assert error.endswith("these do: dtype)\n")
    files[1].write_text(json.dumps([row([2 * x for x in base], dtype="float32")]))
    assert main(["bench", "compare", *map(str, files)]) == 0
    printed = capsys.readouterr().out
    assert "slower" in printed
    assert "2.000           0 faster, 1 slower, 0 no difference shown" in printed


def test_outcomes_make_no_row_another() -> None:
    """Which layout was the faster, whether weights were at hand, what rate came out."""
    base = [10.0, 10.2, 10.1, 9.9, 10.05]
    outcomes = {"layout": "contiguous", "trained": False, "gmac_s": 3.0, "roofline": 0.4, "p99_ms": 11.0}
    others = {"layout": "channels_last", "trained": True, "gmac_s": 9.0, "roofline": 0.8, "p99_ms": 9.0}
    (one,) = compare([row(base, **outcomes)], [row([2 * x for x in base], **others)])
    assert one.verdict == SLOWER
    (one,) = compare([row(base, dtype="float32")], [{"dtype": "float32", **row(base)}])  # entries in another order
    assert one.verdict == SAME


def test_rows_of_one_file_alone_are_counted_and_their_settings_named() -> None:
    base = [10.0, 10.2, 10.1, 9.9, 10.05]
    before = [row(base, backend=name, crop=128) for name in ("a", "b")]
    after = [row(base, backend="a", crop=128), *(row(base, backend=name, crop=64) for name in ("b", "c"))]
    assert left_out(before, after) == "rows only in A: 1, only in B: 2; where only settings differ, these do: crop"
    assert left_out(before, before) == ""
    assert left_out(before, []) == "rows only in A: 2, only in B: 0"
