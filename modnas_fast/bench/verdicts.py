"""The paper's figures beside those measured here, a line each, with a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modnas_fast.bench.contenders import LABELS, LEVELS, NETWORKS, PAPER, SCORED_ONLY, STAGES, STAND_INS, label
from modnas_fast.bench.paper import COUNTS, QUALITY, READING, SETS, SETTINGS, TIME
from modnas_fast.bench.rows import Row
from modnas_fast.networks.baselines import BASELINES

REPRODUCED, BETTER, WORSE, NOT_MEASURED = "reproduced", "better", "worse", "not measured"
DIFFERS, OPEN = "differs", "open discrepancy"  # of counts, which are right or wrong
# How far a figure may be off, as a share of the paper's, or in dB and SSIM, and still reproduce it.
_COUNT, _RATIO, _PSNR, _SSIM = 0.01, 0.1, 0.05, 0.002
IMAGES = {"Set12": 12, "BSD68": 68, "Urban100": 100, "LIVE1": 29}
_TIGHT = 1.2  # how wide a ratio's spread may be, high over low, to say something
_2080TI_GFLOPS = 13450.0  # RTX 2080 Ti, float32: 4352 cores × 2 × 1.545 GHz
URBAN100_PIXELS = 77_384_304
_NOT_ASKED, _NEEDS_WEIGHTS, _NOT_YET = "not asked for", "no weights at hand", "not measured yet"
_WHY = {
    **{name: baseline.note for name, baseline in BASELINES.items()},
    "mod-nas-t3-c64": "the reading that gives the paper's other counts does not give this one",
}


@dataclass(frozen=True)
class Line:
    """One figure. `measured` may be there without a verdict: what was measured is then not what the paper did."""

    table: str
    network: str
    quantity: str
    paper: float
    measured: float | None
    verdict: str
    note: str = ""


LEGEND = (
    f"“{REPRODUCED}”: parameters and MACs within {_COUNT:.0%} or a unit of the last digit, PSNR within {_PSNR} dB, "
    f"SSIM within {_SSIM}, ratios of time within {_RATIO:.0%}, or within their spread over images (20th to 80th "
    f"percentile) where that is narrow, its ends less than {_TIGHT:g} to 1. “{BETTER}” and “{WORSE}”: of a score "
    "higher and lower; of a claim, more and less favourable to MoD-NAS than the paper has it. A count that is not the "
    f"paper’s “{DIFFERS}”, and the note says why; it is an “{OPEN}” where nobody knows."
)


def verdict_lines(rows: Sequence[Row]) -> list[Line]:
    """Every figure of Tables 1, 2, 5 and 6 and every claim, from the rows of `measure_paper`."""
    return [*_counts(rows), *_times(rows), *_claims(rows), *_qualities(rows), *_restored(rows)]


def _judge(paper: float, measured: float | None, within: float, *, higher_is_better: bool) -> str:
    if measured is None:
        return NOT_MEASURED
    if abs(measured - paper) <= within:
        return REPRODUCED
    return BETTER if (measured > paper) == higher_is_better else WORSE


def _counts(rows: Sequence[Row]) -> Iterator[Line]:
    found = {row["network"]: row for row in rows if row["op"] == COUNTS}
    tables = {
        "Table 1": "table1_set12_sigma25",
        "Table 2": "table2_and_6",
        "Table 4": "table4_sidd",
        "Table 5": "table5_live1_q20",
    }
    for table, key in tables.items():
        for row in PAPER[key]:
            counted = found.get(row["name"], {})
            for quantity, published, field, unit in (
                ("parameters, k", "parameters_k", "parameters", 1e3),
                ("MACs at 48×48, G", "macs_g", "macs", 1e9),
            ):
                paper = row.get(published)
                if paper is None:
                    continue
                measured = counted[field] / unit if field in counted else None
                note = STAND_INS.get(row["name"], "")
                if measured is None:
                    verdict, note = NOT_MEASURED, "no such count among the rows"
                elif note:
                    verdict = NOT_MEASURED
                elif abs(measured - paper) <= max(_COUNT * paper, _last_place(paper)):
                    verdict = REPRODUCED
                else:
                    verdict = OPEN if row["name"] == "mod-nas-t3-c64" else DIFFERS
                    note = _WHY.get(row["name"], "")
                yield Line(table, row["label"], quantity, paper, measured, verdict, note)


def _last_place(printed: float) -> float:
    """A unit of the last digit of a printed figure, which may be rounded or cut: 0.01 of 0.48, and 1 of 418."""
    return float(10.0 ** -len(f"{printed:g}".partition(".")[2]))


def milliseconds_per_megapixel(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """(network, backend) → its total over the pixels it had."""
    pixels: Sequence[int] = next((row["pixels"] for row in rows if row["op"] == READING), [])
    return {
        (row["network"], row["backend"]): sum(row["samples_ms"]) / sum(pixels[: len(row["samples_ms"])]) * 1e6
        for row in rows
        if row["op"] == TIME and row["samples_ms"]
    }


def time_ratio(rows: Sequence[Row], of: str, to: str, backend: str = "torch") -> tuple[float, float, float] | None:
    """Total of one network over another's (on PyTorch), and that ratio's 20th and 80th percentile over images."""
    found = {(row["network"], row["backend"]): row["samples_ms"] for row in rows if row["op"] == TIME}
    mine, theirs = found.get((of, backend), []), found.get((to, "torch"), [])
    count = min(len(mine), len(theirs))
    if not count:
        return None
    low, high = np.percentile(np.divide(mine[:count], theirs[:count]), (20, 80))
    return sum(mine[:count]) / sum(theirs[:count]), float(low), float(high)


def projected_seconds(row: Row) -> float:
    """All of Urban100 on an RTX 2080 Ti if arithmetic alone took time, at its float32 peak; a count's row."""
    return float(2 * row["macs_per_pixel"] * URBAN100_PIXELS / (_2080TI_GFLOPS * 1e9))


def _times(rows: Sequence[Row]) -> Iterator[Line]:
    """Relative to MoD-NAS(T=1), as devices differ."""
    seconds: Mapping[str, float | None] = {row["name"]: row["seconds"] for row in PAPER["table2_and_6"]}
    base = seconds["mod-nas-t1"]
    assert base is not None
    for name, paper in seconds.items():
        if paper is None or name == "mod-nas-t1":
            continue
        found = time_ratio(rows, name, "mod-nas-t1")
        why = STAND_INS.get(name, "") if found else _Reasons(rows).of_time(name, "mod-nas-t1")
        yield _ratio_line("Table 2", name, "time, × MoD-NAS(T=1)’s", paper / base, found, name not in STAGES, why)


def _claims(rows: Sequence[Row]) -> Iterator[Line]:
    counts = {row["network"]: row for row in rows if row["op"] == COUNTS}
    for claim in PAPER["claims"]:
        of, to, quantity, share = claim["of"], claim["to"], claim["quantity"], claim["share"]
        what = f"{'MACs' if quantity == 'macs' else quantity}, share of {label(to)}’s"
        if quantity != "time":
            ratio = counts[of][quantity] / counts[to][quantity] if {of, to} <= counts.keys() else None
            verdict = _judge(share, ratio, _COUNT * share + 0.0005, higher_is_better=False)  # printed to 0.1 %
            note = _WHY.get(to, "") if verdict in (BETTER, WORSE) else "" if ratio else "no such counts among the rows"
            yield Line("Claims", label(of), what, share, ratio, verdict, note)
            continue
        for backend in ("torch", "engine"):
            found = time_ratio(rows, of, to, backend)
            if backend == "torch" or found is not None:
                name = label(of) + (", engine" if backend == "engine" else "")
                why = STAND_INS.get(to, "") if found else _Reasons(rows).of_time(of, to)
                yield _ratio_line("Claims", name, what, share, found, False, why)


def _ratio_line(
    table: str,
    name: str,
    what: str,
    paper: float,
    found: tuple[float, float, float] | None,
    higher_is_better: bool,
    why: str,
) -> Line:
    measured = found and found[0]
    spread = f"{found[1]:.3g}–{found[2]:.3g} over images" if found else ""
    verdict = _judge(paper, measured, _RATIO * paper, higher_is_better=higher_is_better)
    if found and found[1] <= paper <= found[2] < _TIGHT * found[1]:
        verdict = REPRODUCED
    if why:
        verdict = NOT_MEASURED
    return Line(table, LABELS.get(name, name), what, paper, measured, verdict, "; ".join(filter(None, (why, spread))))


class _Reasons:
    """Why figures are not there. Files of before this was noted: every set was asked of every network but BM3D."""

    def __init__(self, rows: Sequence[Row]) -> None:
        head: Row = next((row for row in rows if row["op"] == SETTINGS), {})
        self._times = {row["network"]: row for row in rows if row["op"] == TIME}
        had = {(row["network"], row.get("data", "Urban100")): row for row in rows if row["op"] in (TIME, QUALITY)}
        sets = [data for data in SETS if any(found == data for _, found in had)]
        self._asked: Mapping[str, Sequence[str]] = head.get("asked") or {
            name: [data for data in sets if name != "bm3d" or (name, data) in had] for name, _ in had
        }
        self._absent: Mapping[str, str] = head.get("absent", {})

    def of_time(self, *names: str) -> str:
        """Of the first of these that has no times."""
        name = next((name for name in names if not self._times.get(name, {}).get("samples_ms")), names[0])
        return self._of(name, "Urban100") or str(self._times.get(name, {}).get("failed", _NOT_YET))

    def of_score(self, name: str, data: str) -> str:
        if name not in (*NETWORKS, *SCORED_ONLY):
            return _NEEDS_WEIGHTS
        return self._of(name, data) or (_NOT_YET if name == "bm3d" else _NEEDS_WEIGHTS)

    def _of(self, name: str, data: str) -> str:
        if name in self._absent:
            return self._absent[name]
        if name not in self._asked:
            return _NOT_ASKED
        return "" if data in self._asked[name] else f"{data} was not given"


def _qualities(rows: Sequence[Row]) -> Iterator[Line]:
    settings: Row = next((row for row in rows if row["op"] == SETTINGS), {})
    reasons = _Reasons(rows)
    scores = {(row["network"], row["data"], row["level"]): row for row in rows if row["op"] == QUALITY}
    scores |= {
        (row["network"], "Urban100", 25.0): row
        for row in rows
        if row["op"] == TIME and row.get("psnr") and row["backend"] == "torch"
    }
    for score, table, within in (("psnr", "Table 2", _PSNR), ("ssim", "Table 6", _SSIM)):
        for row in PAPER["table2_and_6"]:
            for data, values in row[score].items():
                for sigma, paper in zip(LEVELS, values, strict=True):
                    if paper is None:
                        continue
                    found = scores.get((row["name"], data, sigma), {}).get(score, [])
                    note = "" if found else reasons.of_score(row["name"], data)
                    if found and (len(found) < IMAGES[data] or (data == "Urban100" and settings.get("crop"))):
                        side = settings.get("crop") if data == "Urban100" else None
                        crops = f"{side}×{side} crops" if side else "images"
                        note = f"of {len(found)} {crops}, not of the whole set"
                    measured = float(np.mean(found)) if found else None
                    verdict = _judge(paper, measured, within, higher_is_better=True)
                    quantity = f"{score.upper()}, {data} σ={sigma:g}"
                    yield Line(table, row["label"], quantity, paper, measured, NOT_MEASURED if note else verdict, note)
    trained = scores.get(("mod-nas-t3", "Set12", 25.0), {}).get("psnr", [])
    for row in PAPER["table1_set12_sigma25"]:
        found = trained if row["name"] == "mod-nas-t3" and len(trained) == IMAGES["Set12"] else []
        measured = float(np.mean(found)) if found else None
        verdict = _judge(row["psnr"], measured, _PSNR, higher_is_better=True)
        note = "" if found else reasons.of_score(row["name"], "Set12")
        yield Line("Table 1", row["label"], "PSNR, Set12 σ=25", row["psnr"], measured, verdict, note)


def _restored(rows: Sequence[Row]) -> Iterator[Line]:
    """Table 5; its DnCNN has 20 layers."""
    scores = {row["network"]: row for row in rows if row["op"] == QUALITY and row["data"] == "LIVE1"}
    for row in PAPER["table5_live1_q20"]:
        name = row["name"].removesuffix("20")
        for score, within in (("psnr", _PSNR), ("ssim", _SSIM)):
            found = scores.get(name, {}).get(score, [])
            measured = float(np.mean(found)) if len(found) == IMAGES["LIVE1"] else None
            verdict = _judge(row[score], measured, within, higher_is_better=True)
            note = "" if measured else _Reasons(rows).of_score(name, "LIVE1")
            yield Line("Table 5", row["label"], f"{score.upper()}, LIVE1 q=20", row[score], measured, verdict, note)
