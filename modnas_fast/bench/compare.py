"""Two results files, row by row: what is faster, what is slower, and where nothing can be told."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modnas_fast.bench.rows import Row

SAME, FASTER, SLOWER = "no difference shown", "faster", "slower"
_LEVEL = 0.01  # of the test: one row in a hundred errs
_SMALLEST = 0.03  # a share below which a difference is not called one, however sure
_EXACT = 20
_FEWEST = 5  # samples on either side that the test needs
_TIMES = {"samples_ms", "median_ms", "p20_ms", "p80_ms", "p99_ms", "gmac_s", "roofline", "gb_per_s", "copy_gb_per_s"}
_RESULTS = {"peak_mib", "error", "psnr", "ssim", "names", "pixels", "layout", "trained", "weights", "protocol_hours"}
_CIRCUMSTANCES = {"versions", "commit", "date", "machine"}


@dataclass(frozen=True)
class Difference:
    """Times of one row in A and B, ms; `p` is the chance of such samples if both were the same, None without a test."""

    what: str
    before: float
    after: float
    p: float | None
    verdict: str

    @property
    def ratio(self) -> float:
        return self.after / self.before


def compare(before: Sequence[Row], after: Sequence[Row]) -> list[Difference]:
    """Every timed row that both have; of several with the same key the last.

    With 5 samples on either side the two-sided Mann–Whitney test decides at 1 %; with fewer, or none, the intervals
    from the 20th to the 80th percentile must not meet. Less than 3 % is never called a difference. The test knows
    nothing of a clock that was slower all through one of the files: rows that no change could touch tell that.
    Samples of one image each, those of `measure_paper`, are compared as pairs: the interval of their ratios must not
    hold 1.
    """
    earlier, later = _by_key(before), _by_key(after)
    return [_difference(key, earlier[key], later[key]) for key in earlier if key in later]


def left_out(before: Sequence[Row], after: Sequence[Row]) -> str:
    """How many timed rows stand in one file alone, and by which settings they miss their nearest; empty for none."""
    earlier, later = _by_key(before), _by_key(after)
    alone = [_what(row) for key, row in earlier.items() if key not in later]
    others = [_what(row) for key, row in later.items() if key not in earlier]
    if not alone and not others:
        return ""
    text = f"rows only in A: {len(alone)}, only in B: {len(others)}"
    nearest = [
        min((_differing(row, other) for other in others if other.get("op") == row.get("op")), key=len, default=())
        for row in alone
    ]
    keys = dict.fromkeys(key for found in nearest for key in found)
    return f"{text}; where only settings differ, these do: {', '.join(keys)}" if keys else text


def _differing(row: Row, other: Row) -> tuple[str, ...]:
    return tuple(key for key in {**row, **other} if row.get(key) != other.get(key))


def table(differences: Sequence[Difference]) -> Iterator[str]:
    """Text, a line a row, and the geometric mean of the ratios."""
    yield f"{'A, ms':>12} {'B, ms':>12} {'B / A':>7} {'p':>8}"
    for one in differences:
        p = "" if one.p is None else f"{one.p:.2g}"
        yield f"{one.before:12.4g} {one.after:12.4g} {one.ratio:7.3f} {p:>8}  {one.verdict:19}  {one.what}"
    if differences:
        mean = math.exp(sum(math.log(one.ratio) for one in differences) / len(differences))
        counts = ", ".join(f"{sum(x.verdict == kind for x in differences)} {kind}" for kind in (FASTER, SLOWER, SAME))
        yield f"{'geometric mean':>25} {mean:7.3f}           {counts}"


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of the Mann–Whitney U test: exact for up to 20 samples a side without ties, else approximate.

    The approximation is the normal one, corrected for ties and continuity.
    """
    pooled = sorted([*a, *b])
    n, m, total = len(a), len(b), len(pooled)
    ranks, ties, start = {}, 0.0, 0
    while start < total:
        end = start
        while end < total and pooled[end] == pooled[start]:
            end += 1
        ranks[pooled[start]] = (start + 1 + end) / 2
        ties += (end - start) ** 3 - (end - start)
        start = end
    u = sum(ranks[x] for x in a) - n * (n + 1) / 2
    if not ties and max(n, m) <= _EXACT:
        ways = _ways(n, m)
        tail = sum(ways[: int(min(u, n * m - u)) + 1]) / sum(ways)
        return min(1.0, 2 * tail)
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def _ways(n: int, m: int) -> list[int]:
    """How many orders of n samples among m others give U = 0, 1, …, n·m: coefficients of the Gaussian binomial."""
    ways = [1] + n * m * [0]
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):  # times 1 − q^(m + i)
            ways[u] -= ways[u - m - i]
        for u in range(i, n * m + 1):  # over 1 − q^i
            ways[u] += ways[u - i]
    return ways


def _by_key(rows: Sequence[Row]) -> Mapping[str, Row]:
    return {_key(row): row for row in rows if "median_ms" in row or row.get("samples_ms")}


def _key(row: Row) -> str:
    """What was measured, in words, whatever the order of the row's entries."""
    what = sorted(_what(row).items(), key=lambda item: (item[0] != "op", item[0]))
    return ", ".join(f"{_plain(value)}" if key == "op" else f"{key} {_plain(value)}" for key, value in what)


def _what(row: Row) -> Row:
    """Everything but what came out and when."""
    return {key: value for key, value in row.items() if key not in _TIMES | _RESULTS | _CIRCUMSTANCES}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _difference(what: str, before: Row, after: Row) -> Difference:
    a, b = (row.get("samples_ms", []) for row in (before, after))
    first, second = _median(before), _median(after)
    p = None
    if "median_ms" not in before:
        ratios = sorted(y / x for x, y in zip(a, b, strict=False))
        low, high = ratios[len(ratios) // 5], ratios[-1 - len(ratios) // 5]
        differs = len(ratios) >= _FEWEST and not low <= 1 <= high
    elif min(len(a), len(b)) >= _FEWEST:
        p = mann_whitney(a, b)
        differs = p < _LEVEL
    else:
        (low, high), (later_low, later_high) = _interval(before), _interval(after)
        differs = high < later_low or later_high < low
    if not differs or abs(second / first - 1) < _SMALLEST:
        return Difference(what, first, second, p, SAME)
    return Difference(what, first, second, p, FASTER if second < first else SLOWER)


def _median(row: Row) -> float:
    if "median_ms" in row:
        return float(row["median_ms"])
    ordered = sorted(row["samples_ms"])
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _interval(row: Row) -> tuple[float, float]:
    """The 20th and 80th percentile; a lone figure has no interval, and all it can show is nothing."""
    low, high = row.get("p20_ms", 0.0), row.get("p80_ms", math.inf)
    return (0.0, math.inf) if low == high else (low, high)
