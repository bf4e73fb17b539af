"""The levers of the training recipe: what differs, the budget, and going on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.bench_recipe import BASE, LEVERS, configuration, lever_row
from modnas_fast.bench.tables import RECIPE, recipe_table
from modnas_fast.cli.progress import ProgressLine


@pytest.mark.parametrize("lever", LEVERS)
def test_a_lever_sees_as_many_pixels_and_differs_in_what_it_names(lever: str) -> None:
    base, config = (configuration(name, 64, ["data"], Path("runs")) for name in ("base", lever))
    pixels = [run.steps * run.batch * run.patch**2 for run in (base, config)]
    assert pixels[0] == pixels[1] == 64 * BASE["batch"] * BASE["patch"] ** 2
    differing = {key for key, value in asdict(config).items() if value != asdict(base)[key]}
    assert differing - {"output", "steps"} == set(LEVERS[lever])


def test_no_two_levers_share_a_run() -> None:
    assert len({configuration(lever, 8, ["data"], Path("runs")).output for lever in LEVERS}) == len(LEVERS)


def test_a_row_says_what_the_run_reached_and_a_second_call_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("train", "Tiny"):
        (tmp_path / folder).mkdir()
        Image.fromarray(rng.integers(0, 255, (128, 128), np.uint8)).save(tmp_path / folder / "a.png")
    config = configuration("patches of 128²", 1, [str(tmp_path / "train")], tmp_path / "runs")
    rows = [lever_row("base", config, str(tmp_path / "Tiny"), ProgressLine()) for _ in range(2)]
    assert rows[0] == rows[1]
    assert (rows[0]["op"], rows[0]["mode"], rows[0]["validation"]) == (RECIPE, "1 steps of 2 × 128²", "Tiny")
    assert 5 < rows[0]["psnr"] < 25


def test_gains_are_over_the_mean_of_the_bases_seeds() -> None:
    def row(lever: str, psnr: float) -> dict[str, object]:
        common = {"op": RECIPE, "mode": "", "ssim": 0.8, "minutes": 1.0, "validation": "Set12"}
        return {"backend": lever, "psnr": psnr, **common}

    table = recipe_table([row("base", 27.0), row("base, seed 1", 27.2), row("loss L1", 26.0), row("loss L1", 27.4)])
    assert [line[3] for line in table.rows] == ["-0.100 dB", "+0.100 dB", "+0.300 dB"]
    assert "0.200 dB" in table.note
    assert not recipe_table([]).rows
