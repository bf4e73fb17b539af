"""The paper's figures beside those measured here, a line each, with a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modnas_fast.bench.contenders import LABELS, PAPER, STAGES, STAND_INS, label
from modnas_fast.bench.paper import COUNTS, LEVELS, QUALITY, READING, SETTINGS, TIME
from modnas_fast.bench.rows import Row
from modnas_fast.networks.baselines import BASELINES

REPRODUCED, BETTER, WORSE, NOT_MEASURED = "reproduced", "better", "worse", "not measured"
# How far a figure may be off, as a share of the paper's, or in dB and SSIM, and still reproduce it.
_COUNT, _RATIO, _PSNR, _SSIM = 0.01, 0.1, 0.05, 0.002
IMAGES = {"Set12": 12, "BSD68": 68, "Urban100": 100, "LIVE1": 29}
_2080TI_GFLOPS = 13450.0  # RTX 2080 Ti, float32: 4352 cores × 2 × 1.545 GHz
URBAN100_PIXELS = 77_384_304
_NEEDS_WEIGHTS = "no weights at hand"
_WHY = {
    **{name: baseline.note for name, baseline in BASELINES.items()},
    "mod-nas-t3-c64": "open: the reading that gives the paper's other counts does not give this one",
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
    f"SSIM within {_SSIM}, ratios of time within {_RATIO:.0%} or the spread over images (20th to 80th percentile). "
    f"“{BETTER}” and “{WORSE}”: of a count fewer and more, of a score higher and lower; of a time, more and less "
    "favourable to MoD-NAS than the paper has it."
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
    tables = {"Table 1": "table1_set12_sigma25", "Table 2": "table2_and_6", "Table 5": "table5_live1_q20"}
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
                verdict = _judge(paper, measured, max(_COUNT * paper, _last_place(paper)), higher_is_better=False)
                note = STAND_INS.get(row["name"], "")
                if note:
                    verdict = NOT_MEASURED
                elif verdict != REPRODUCED:
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
        why = STAND_INS.get(name, "")
        yield _ratio_line("Table 2", name, "time, × MoD-NAS(T=1)’s", paper / base, found, name not in STAGES, why)


def _claims(rows: Sequence[Row]) -> Iterator[Line]:
    counts = {row["network"]: row for row in rows if row["op"] == COUNTS}
    for claim in PAPER["claims"]:
        of, to, quantity, share = claim["of"], claim["to"], claim["quantity"], claim["share"]
        what = f"{'MACs' if quantity == 'macs' else quantity}, share of {label(to)}’s"
        if quantity != "time":
            ratio = counts[of][quantity] / counts[to][quantity] if {of, to} <= counts.keys() else None
            verdict = _judge(share, ratio, _COUNT * share + 0.0005, higher_is_better=False)  # printed to 0.1 %
            note = _WHY.get(to, "") if verdict in (BETTER, WORSE) else ""
            yield Line("Claims", label(of), what, share, ratio, verdict, note)
            continue
        for backend in ("torch", "engine"):
            found = time_ratio(rows, of, to, backend)
            if backend == "torch" or found is not None:
                name = label(of) + (", engine" if backend == "engine" else "")
                yield _ratio_line("Claims", name, what, share, found, False, STAND_INS.get(to, ""))


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
    if found and found[1] <= paper <= found[2]:
        verdict = REPRODUCED
    if why:
        verdict = NOT_MEASURED
    return Line(table, LABELS.get(name, name), what, paper, measured, verdict, "; ".join(filter(None, (why, spread))))


def _qualities(rows: Sequence[Row]) -> Iterator[Line]:
    settings: Row = next((row for row in rows if row["op"] == SETTINGS), {})
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
                    note = "" if found else _NEEDS_WEIGHTS
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
        note = "" if found else _NEEDS_WEIGHTS
        yield Line("Table 1", row["label"], "PSNR, Set12 σ=25", row["psnr"], measured, verdict, note)


def _restored(rows: Sequence[Row]) -> Iterator[Line]:
    """Table 5; its DnCNN has 20 layers."""
    scores = {row["network"]: row for row in rows if row["op"] == QUALITY and row["data"] == "LIVE1"}
    for row in PAPER["table5_live1_q20"]:
        for score, within in (("psnr", _PSNR), ("ssim", _SSIM)):
            found = scores.get(row["name"].removesuffix("20"), {}).get(score, [])
            measured = float(np.mean(found)) if len(found) == IMAGES["LIVE1"] else None
            verdict = _judge(row[score], measured, within, higher_is_better=True)
            note = "" if measured else _NEEDS_WEIGHTS
            yield Line("Table 5", row["label"], f"{score.upper()}, LIVE1 q=20", row[score], measured, verdict, note)
