"""Real noise: photos and their noisy partners, found by their names, trained on and scored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modnas_fast import ModnasError, load
from modnas_fast.cli import main
from modnas_fast.images.degradations import Degradation
from modnas_fast.images.metrics import psnr
from modnas_fast.images.pairs import PairedSet, list_pairs
from modnas_fast.images.patches import PairSampler
from modnas_fast.runs.config import ConfigError, config_from_mapping
from modnas_fast.training import TrainConfig
from modnas_fast.training.loop import train
from tests.test_training import TINY

GT, NOISY = "0001_GT_SRGB_010.png", "0001_NOISY_SRGB_010.png"


def photo(seed: int, size: tuple[int, int] = (24, 20)) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]] / 7.0
    planes = [128 + 80 * np.sin(rows * (channel + 1) / 2 + seed) * np.cos(columns - seed) for channel in range(3)]
    return np.stack(planes, axis=2).astype(np.uint8)


def make_pairs(folder: Path, count: int = 4) -> Path:
    """A folder a scene, as SIDD has them; noise that grows with brightness, in every scene anew."""
    for index in range(count):
        scene = folder / f"{index:04}_S6"
        scene.mkdir(parents=True)
        clean = photo(index)
        noise = np.random.default_rng(index).normal(0, 0.5, clean.shape) * clean
        Image.fromarray(clean).save(scene / GT)
        Image.fromarray(np.clip(clean + noise, 0, 255).astype(np.uint8)).save(scene / NOISY)
    return folder


def test_names_join_them(tmp_path: Path) -> None:
    make_pairs(tmp_path / "sidd", 2)
    pairs = list_pairs([tmp_path / "sidd"], ("GT", "NOISY"))
    assert [str(relative) for _, _, relative in pairs] == [f"000{index}_S6/{GT}" for index in range(2)]
    assert all(noisy.name == NOISY and noisy.parent == clean.parent for clean, noisy, _ in pairs)

    for name, shade in (("gt", 10), ("lq", 200)):
        (tmp_path / "folders" / name).mkdir(parents=True)
        Image.fromarray(np.full((9, 9), shade, np.uint8)).save(tmp_path / "folders" / name / "1.png")
    ((name, clean, noisy),) = PairedSet([tmp_path / "folders"], 1, ("gt", "lq"))
    assert (name, int(clean[0, 0, 0]), int(noisy[0, 0, 0])) == ("gt/1.png", 10, 200)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "sidd", 2)
    with pytest.raises(ModnasError, match="no image has 'mean' in its name; say what tells clean from noisy"):
        list_pairs([folder], ("mean", "real"))
    Image.fromarray(photo(0, (24, 21))).save(folder / "0001_S6" / NOISY)
    with pytest.raises(ModnasError, match="differ in size: 20×24 and 21×24 pixels"):
        list(PairedSet([folder], 3, ("GT", "NOISY")))
    (folder / "0001_S6" / NOISY).unlink()
    with pytest.raises(ModnasError, match=rf"{GT}: its noisy partner .*{NOISY} is missing"):
        list_pairs([folder], ("GT", "NOISY"))


@pytest.mark.parametrize("names", [("", "NOISY"), ("GT", ""), ("GT", "GT")])
def test_names_tell_the_two_apart(names: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ModnasError, match=r"the names of pairs are .* give what only the clean ones have"):
        list_pairs([make_pairs(tmp_path, 1)], names)


def test_noisy_photos_that_are_alone_are_named(tmp_path: Path) -> None:
    """And not left out without a word; what is neither clean nor noisy is."""
    folder = make_pairs(tmp_path / "sidd", 3)
    Image.fromarray(photo(0)).save(folder / "thumbnail.png")
    assert len(list_pairs([folder], ("GT", "NOISY"))) == 3
    (folder / "0001_S6" / GT).unlink()
    with pytest.raises(ModnasError, match=rf"0001_S6/{NOISY}: its clean partner .*{GT} is missing; add it, or take"):
        list_pairs([folder], ("GT", "NOISY"))
    (folder / "0002_S6" / GT).unlink()
    with pytest.raises(ModnasError, match=r"is missing \(and 1 more\); add it"):
        list_pairs([folder], ("GT", "NOISY"))


def test_patches_are_aligned(tmp_path: Path) -> None:
    clean = [np.arange(20 * 24, dtype=np.uint16).reshape(20, 24, 1).astype(np.uint8) for _ in range(2)]
    noisy = [255 - image for image in clean]
    degraded, patches, _ = PairSampler(clean, 16, "pairs", (), torch.device("cpu"), 0, partners=noisy).sample(32)
    torch.testing.assert_close(degraded, 1 - patches)
    assert patches.unique().numel() > 100


def cut(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parent.parent / "examples" / "cut-pairs.py"
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pairs_are_cut(tmp_path: Path) -> None:
    """Crops are pairs again, of the same places in both photos; none is replaced unless it is asked for."""
    folder, output = make_pairs(tmp_path / "sidd", 2), tmp_path / "crops"
    finished = cut(folder, output, "--size", 8)
    assert finished.stdout == f"12 pairs of crops of 2 pairs in {output}\n"  # of 24×20: three by two, twice
    assert "100%" in finished.stderr
    crops = {name: photos for name, *photos in PairedSet([output], 3, ("GT", "NOISY"))}
    assert len(crops) == 12
    for name, *photos in PairedSet([folder], 3, ("GT", "NOISY")):
        for top in (0, 8, 16):
            for left in (0, 8):
                cropped = crops[name.replace(".png", f"_{top}_{left}.png")]
                for whole, crop in zip(photos, cropped, strict=True):
                    np.testing.assert_array_equal(crop, whole[top : top + 8, left : left + 8])

    again = cut(folder, output, "--size", 8)
    assert again.returncode == 2
    assert "0000_S6/0001_GT_SRGB_010_0_0.png: exists already; overwrite it (--overwrite" in again.stderr
    assert cut(folder, output, "--size", 8, "--overwrite").returncode == 0
    assert "4 pairs of crops" in cut(folder, tmp_path / "few", "--size", 8, "--crops", 2).stdout
    for arguments, says in ((["--size", 25], "no photo has 25×25 pixels; lower --size"), (["--size", 0], "at least 1")):
        refused = cut(folder, tmp_path / "none", *arguments)
        assert refused.returncode == 2
        assert says in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    TINY.save(tmp_path / "tiny.json")
    return {
        "output": str(tmp_path / "run"),
        "data": [str(make_pairs(tmp_path / "train"))],
        "genotype": str(tmp_path / "tiny.json"),
        "channels_in": 1,
        "degradation": "pairs",
        "levels": [],
        "patch": 16,
        "batch": 4,
        "steps": 300,
        "lr": 1e-2,
        "precision": "fp32",
        "validation": str(tmp_path / "train"),
        "device": "cpu",
    }


def test_trained_and_scored(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    weights = train(config_from_mapping(TrainConfig, settings), say=lines.append)
    net = load(weights)
    assert net.degradation == Degradation("pairs", ())
    evaluation = f"evaluate --data {settings['validation']} --model {weights}".split()
    command = [*evaluation, "--pairs", "GT", "NOISY", "--json"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["sigma"], result["pairs"], len(result["images"])) == (None, ["GT", "NOISY"], 4)
    pairs = list(PairedSet([settings["validation"]], 1, ("GT", "NOISY")))
    before = np.mean([psnr(noisy, clean) for _, clean, noisy in pairs])
    assert result["mean"]["psnr"] > before + 1
    assert f"{result['mean']['psnr']:.3f} dB" in lines[-1]
    main([*evaluation, "--sigma", "25"])  # which finds no image beside the folders
    assert "was trained for the noise of its pairs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [25]}, "pairs have none"),
        ({"pair_names": ["GT"]}, "pair_names"),
        ({"conditioned": True}, "range|none"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_mapping(TrainConfig, settings | changes)
