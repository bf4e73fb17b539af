"""What training may start from, and networks that are told σ: levels between, validation at several levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modnas_fast.errors import ModnasError
from modnas_fast.images.degradations import Degradation
from modnas_fast.images.patches import PairSampler
from modnas_fast.networks import ConditionedNet, DerivedNet, load, save_weights
from modnas_fast.runs.config import ConfigError, config_from_mapping
from modnas_fast.training import TrainConfig
from modnas_fast.training.loop import train
from tests.test_training import (
    CPU,
    TINY,
    _one_thread,  # noqa: F401
    run,
    settings,  # noqa: F401
    synthetic_image,
    tensors_of,
)

Settings = dict[str, Any]


@pytest.fixture
def conditioned(settings: Settings) -> Settings:  # noqa: F811
    return settings | {"conditioned": True, "levels": [0, 55]}


def test_it_learns_to_use_the_level(conditioned: Settings, tmp_path: Path) -> None:
    """Told the level, it beats itself told another one, at both ends; and files say what it was trained for."""
    folder = run(conditioned, tmp_path / "run", steps=400, batch=4)
    net = load(folder / "weights.safetensors")
    assert isinstance(net, ConditionedNet)
    assert net.degradation == Degradation("awgn", (0, 55), between=True)
    images = [synthetic_image(i)[..., None] for i in range(20, 28)]
    losses = {}
    for sigma in (5.0, 50.0):
        noisy, clean, _ = PairSampler(images, 16, "awgn", (sigma,), CPU, seed=5).sample(64)
        with torch.inference_mode():
            losses |= {(sigma, told): float((net(noisy, told) - clean).square().mean()) for told in (5.0, 50.0)}
        losses[sigma, 0.0] = float((noisy - clean).square().mean())
    assert losses[5.0, 5.0] < 0.85 * losses[5.0, 50.0]
    assert losses[50.0, 50.0] < 0.85 * losses[50.0, 5.0]
    assert losses[50.0, 50.0] < 0.1 * losses[50.0, 0.0]


def test_what_it_may_start_from(conditioned: Settings, settings: Settings, tmp_path: Path) -> None:  # noqa: F811
    torch.manual_seed(3)
    plain = DerivedNet(TINY)
    plain.degradation = Degradation("awgn", (25,))
    save_weights(tmp_path / "plain.safetensors", plain)
    idle = {"steps": 1, "lr": 1e-12, "lr_final": 1e-12, "ema": 0}
    folder = run(conditioned, tmp_path / "from-plain", init=str(tmp_path / "plain.safetensors"), **idle)
    net = load(folder / "weights.safetensors")
    for name, value in plain.state_dict().items():
        if not name.endswith("delta"):
            torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=1e-9)

    back = run(settings, tmp_path / "back", init=str(folder / "weights.safetensors"), levels=[40], **idle)
    y = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(load(back / "weights.safetensors")(y), net(y, 40.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("levels", "degradation", "expected"),
    [
        ((0, 55), {"degradation": "pairs", "levels": []}, 10),
        ((20, 55), {"degradation": "jpeg", "levels": [80]}, 20),
    ],
)
def test_without_a_sigma_it_starts_from_a_moderate_one(
    levels: tuple[float, float],
    degradation: Settings,
    expected: float,
    settings: Settings,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A JPEG's quality is no σ, and pairs have no level at all."""
    torch.manual_seed(3)
    start = ConditionedNet(TINY)
    torch.nn.init.constant_(start.stages[0].log_lambda, 3)  # δ = 0.97, 0.89 and 0.34 at σ = 10, 20 and 80
    start.degradation = Degradation("awgn", levels, between=True)
    save_weights(tmp_path / "start.safetensors", start)
    for part in ("GT", "NOISY"):
        Image.fromarray(synthetic_image(1)).save(tmp_path / "train" / f"1_{part}.png")
    idle = {"steps": 1, "lr": 1e-12, "lr_final": 1e-12, "ema": 0, "init": str(tmp_path / "start.safetensors")}
    net = load(run(settings, tmp_path / "run", **idle, **degradation) / "weights.safetensors")
    y = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(net(y), start.at(expected)(y), rtol=1e-5, atol=1e-6)


def test_rgb_may_start_from_gray(conditioned: Settings, tmp_path: Path) -> None:
    """Which then does to a gray picture in three channels what the gray network does."""
    idle = {"steps": 1, "lr": 1e-12, "lr_final": 1e-12, "ema": 0}
    gray = run(conditioned, tmp_path / "gray", seed=3) / "weights.safetensors"
    (tmp_path / "rgb").mkdir()
    for index in range(2):
        picture = np.stack([synthetic_image(index + channel) for channel in range(3)], axis=2)
        Image.fromarray(picture).save(tmp_path / "rgb" / f"{index}.png")
    changes = {"channels_in": 3, "data": [str(tmp_path / "rgb")], "validation": "", "init": str(gray)}
    rgb = load(run(conditioned, tmp_path / "wide", **changes, **idle) / "weights.safetensors")
    y = torch.rand(2, 1, 16, 24)
    torch.testing.assert_close(rgb(y.expand(-1, 3, -1, -1), 30.0), load(gray)(y, 30.0).expand(-1, 3, -1, -1))
    with pytest.raises(ModnasError, match="holds another network"):
        run(conditioned, tmp_path / "back", init=str(tmp_path / "wide" / "weights.safetensors"))


def test_init_starts_from_weights_of_the_same_network(settings: Settings, tmp_path: Path) -> None:  # noqa: F811
    first = run(settings, tmp_path / "first", steps=3)
    weights = str(first / "weights.safetensors")
    deeper = str(run(settings, tmp_path / "deeper", steps=1, stages=2) / "weights.safetensors")
    with pytest.raises(ModnasError, match=r"init: .* holds another network .*: it is .* with stages=2 channels_in=1"):
        run(settings, tmp_path / "other", init=deeper)
    second = run(settings, tmp_path / "second", init=weights, steps=1, lr=1e-8, lr_final=1e-8)
    for key, value in tensors_of(second / "weights.safetensors").items():
        torch.testing.assert_close(value, tensors_of(weights)[key], rtol=0, atol=1e-7)


@pytest.mark.parametrize("told", [False, True], ids=["plain", "told σ"])
def test_more_stages_may_start_from_fewer(
    settings: Settings,  # noqa: F811
    tmp_path: Path,
    told: bool,
) -> None:
    """Copies of the first stage come before it, with the δ of a fresh network, or with the same λ."""
    levels = {"conditioned": True, "levels": [0, 55]} if told else {}
    first = run(settings, tmp_path / "first", stages=2, steps=20, **levels) / "weights.safetensors"
    idle = {"init": str(first), "steps": 1, "lr": 1e-12, "lr_final": 1e-12, "ema": 0}
    net = load(run(settings, tmp_path / "deeper", stages=4, **idle, **levels) / "weights.safetensors")
    start = load(first)
    for stage, source in zip(net.stages, (0, 0, 0, 1), strict=True):
        ours, theirs = stage.state_dict(), start.stages[source].state_dict()
        fresh = {"delta": torch.tensor(0.0)} if stage in (net.stages[0], net.stages[1]) and not told else {}
        for name, value in (theirs | fresh).items():
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-10, msg=name)
    assert (start.stages[0].get_parameter("log_lambda" if told else "delta") - (10.0 if told else 0.0)).abs() > 1e-4


def test_it_is_validated_at_several_levels(conditioned: Settings, tmp_path: Path) -> None:
    lines: list[str] = []
    changes = {"steps": 2, "validation": str(tmp_path / "validation"), "validation_levels": [15, 50]}
    train(config_from_mapping(TrainConfig, conditioned | changes | {"output": str(tmp_path / "run")}), say=lines.append)
    scores = [line for line in lines if "dB" in line]
    assert [line.split(" at ")[1].split()[0] for line in scores] == ["15", "50"]


def test_the_end_is_validated_once(settings: Settings, tmp_path: Path) -> None:  # noqa: F811
    """Also where the last step is one to validate at."""
    changes = {"validation": str(tmp_path / "validation"), "validate_every": 2}
    for steps, expected in ((4, [2, 4]), (5, [2, 4, 5])):
        lines: list[str] = []
        config = settings | changes | {"steps": steps, "output": str(tmp_path / str(steps))}
        train(config_from_mapping(TrainConfig, config), say=lines.append)
        assert [int(line.split()[1].rstrip(":")) for line in lines if "dB" in line] == expected


@pytest.mark.parametrize("degradation", [{}, {"degradation": "pairs", "levels": []}])
def test_a_wrong_validation_folder_is_found_before_training(
    degradation: Settings,
    settings: Settings,  # noqa: F811
    tmp_path: Path,
) -> None:
    for part in ("GT", "NOISY"):
        Image.fromarray(synthetic_image(1)).save(tmp_path / "train" / f"1_{part}.png")
    with pytest.raises(ModnasError, match="none: does not exist; check its name"):
        run(settings, tmp_path / "run", validation=str(tmp_path / "none"), **degradation)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes", [{"levels": [25]}, {"levels": [50, 5]}, {"degradation": "jpeg", "levels": [10, 20]}]
)
def test_ranges_that_are_none(conditioned: Settings, changes: Settings, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ModnasError), match="give the lowest and the highest σ of a range"):
        config_from_mapping(TrainConfig, conditioned | changes | {"output": str(tmp_path / "run")})
