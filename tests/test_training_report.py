"""The training report: pages that say what the runs logged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modnas_fast import Genotype, ModnasError
from modnas_fast.cli import main
from modnas_fast.runs.log import read_log
from modnas_fast.training import TrainConfig
from modnas_fast.training.loop import train
from modnas_fast.training.report import is_training, write_training_report
from tests.cases import random_genotype
from tests.test_report import Page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that differ in rate and levels, of 200 steps each, on one small image."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    Image.fromarray(pixels).save(folder / "images/0.png")
    genotype: Genotype = random_genotype(0, max_channels=2)
    genotype.save(folder / "genotype.json")
    images = (str(folder / "images"),)
    for name, lr, levels in (("slow & steady", 1e-4, ()), ("fast", 1e-3, (15.0, 50.0))):
        train(
            TrainConfig(
                str(folder / name),
                images,
                genotype=str(folder / "genotype.json"),
                patch=8,
                batch=1,
                steps=200,
                lr=lr,
                validation=images[0],
                validation_levels=levels,
                validate_every=100,
                precision="fp32",
            )
        )
    return [folder / "slow & steady", folder / "fast"]


def test_one_run(runs: list[Path], tmp_path: Path) -> None:
    write_training_report(runs[:1], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    logged = read_log(runs[0])
    steps, values = logged["validation/psnr"]
    assert steps[0] == 100
    assert steps[-1] == 200
    assert all(map(math.isfinite, values))
    assert page.headings == ["slow & steady", "PSNR over the steps"]
    for said in ("200 of 200", "1 patch of 8 × 8", f"{values[-1]:.3f} dB", f"{logged['train/psnr'][1][-1]:.2f} dB"):
        assert said in page.text
    assert len(page.svgs) == 1
    assert "training patches" in page.source
    assert "http" not in page.source.replace("http://www.w3.org", "")


def test_several_runs_side_by_side(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "page.html"
    assert main(["report", *map(str, runs), "-o", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    page = Page(target)
    assert "Settings that differ" in page.headings
    for said in ("Validation PSNR at 15", "Validation PSNR at 50", "validation_levels", "0.0001"):
        assert said in page.text
    assert "batch" not in page.text.partition("Settings that differ")[2]


def test_a_run_without_a_log_and_what_is_no_run(runs: list[Path], tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_text((runs[0] / "config.json").read_text())
    assert is_training(begun)
    write_training_report([begun], tmp_path / "page.html")
    assert "0 of 200" in Page(tmp_path / "page.html").text
    (begun / "config.json").write_text(json.dumps({"epochs": 3}))
    assert not is_training(begun)
    with pytest.raises(ModnasError, match="trainings and searches have reports of their own"):
        write_training_report([runs[0], begun], tmp_path / "page.html")
    (tmp_path / "foreign.html").write_text("<html></html>")
    with pytest.raises(ModnasError, match="no report of ours"):
        write_training_report(runs, tmp_path / "foreign.html")
