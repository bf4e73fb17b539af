"""Configurations: strict keys, types, overrides and files."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from modnas_fast.cli import main
from modnas_fast.runs.config import ConfigError, config_from_mapping, config_to_json, load_config
from modnas_fast.search.config import SearchConfig
from modnas_fast.training import TrainConfig

EXAMPLES = Path(__file__).parent.parent / "examples"
SOUND = {"output": "out", "data": ["a"], "steps": 5}


def test_defaults_are_the_protocol():
    config = config_from_mapping(TrainConfig, SOUND)
    assert (config.genotype, config.stages, config.channels_in, config.levels) == ("modnas-b", 1, 1, (25.0,))
    assert (config.patch, config.batch, config.lr, config.lr_final) == (128, 32, 1e-3, 1e-5)
    assert config_from_mapping(TrainConfig, json.loads(config_to_json(config))) == config


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lr", "1e-3", 1e-3),  # YAML 1.1 reads 1e-3 as text
        ("lr", 1, 1.0),
        ("data", "one/folder", ("one/folder",)),
        ("levels", 50, (50.0,)),
        ("levels", ["15", 25], (15.0, 25.0)),
        ("steps", 100.0, 100),
        ("steps", "100", 100),
    ],
)
def test_values_are_converted(key, value, expected):
    converted = getattr(config_from_mapping(TrainConfig, SOUND | {key: value}), key)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stage": 1}, r"unknown key 'stage'; did you mean 'stages'\?"),
        ({"xyzzy": 1}, r"unknown key 'xyzzy'; the keys are output, data, "),
        ({7: 1}, r"unknown key 7; the keys are"),
        ({"output": ...}, "output is missing"),
        ({"data": ...}, "data is missing"),
        ({"data": []}, r"data is \(\); name at least one folder"),
        ({"data": [3]}, "data is 3; it must be text"),
        ({"output": 25}, "output is 25; it must be text"),
        ({"output": None}, "output is None; it must be text"),
        ({"stages": 0}, "stages is 0; it must be at least 1"),
        ({"stages": True}, "stages is True; it must be a number"),
        ({"stages": 1.5}, "stages is 1.5; it must be a number"),
        ({"stages": "one"}, "stages is 'one'; it must be a number"),
        ({"stages": [1]}, r"stages is \[1\]; it must be a number"),
        ({"batch": 0}, "batch is 0"),
        ({"validate_every": 0}, "validate_every is 0"),
        ({"channels_in": 2}, "channels_in is 2; 1 is gray, 3 is RGB"),
        ({"patch": 20}, "patch is 20; it must be a multiple of 8"),
        ({"patch": 0}, "patch is 0"),
        ({"patch_growth": (64, 32)}, r"patch_growth is \(64, 32\); choose multiples of 8 that divide 128, ascending"),
        ({"patch_growth": (48,)}, "patch_growth is"),
        ({"patch_growth": (128,)}, "patch_growth is"),
        ({"patch_growth": (4,)}, "patch_growth is"),
        ({"degradation": "blur"}, "degradation is 'blur'; choose from awgn, jpeg"),
        ({"degradation": "jpeg", "levels": [22.5]}, r"JPEG qualities are whole, 1 to 95"),
        ({"degradation": "camera"}, "cameras have noise of every level; give a range of σ, and conditioned: true"),
        ({"degradation": "camera", "conditioned": True}, "give the lowest and the highest σ of a range"),
        ({"levels": []}, r"levels is \(\); give at least one"),
        ({"levels": [25, -1]}, r"levels is \(25.0, -1.0\); give at least one, none negative"),
        ({"precision": "fp16"}, "precision is 'fp16'; choose bf16 or fp32"),
        ({"loss": "huber"}, "loss is 'huber'; choose mse, l1, charbonnier, psnr"),
        ({"device": "tpu"}, "device is 'tpu'; choose auto, cpu or cuda"),
        ({"lr": 0}, "lr_final is 1e-05"),
        ({"lr": float("nan")}, "lr_final is 1e-05; it must be positive and at most lr"),
        ({"lr_final": 1.0}, "lr_final is 1.0; it must be positive and at most lr"),
        ({"lr": "fast"}, "lr is 'fast'; it must be a number"),
        ({"clip": 0}, "clip is 0"),
        ({"ema": 1}, "ema is 1.0; it must be at least 0 and below 1"),
        ({"steps": 0}, "give the budget as steps or as minutes, one of the two"),
        ({"steps": -1}, "give the budget"),
        ({"minutes": 2}, "give the budget"),
        ({"steps": float("inf")}, "steps is inf; it must be a number"),
    ],
)
def test_strictness(changes, says):
    entries = {key: value for key, value in (SOUND | changes).items() if value is not ...}
    with pytest.raises(ConfigError, match=says) as caught:
        config_from_mapping(TrainConfig, entries)
    assert "\n" not in str(caught.value)


def test_load_config_and_overrides(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("output: out\ndata: [a, b]\nsteps: 10\nlevels: [15, 25]\n")
    assert load_config(TrainConfig, path) == TrainConfig("out", ("a", "b"), steps=10, levels=(15.0, 25.0))
    changed = load_config(TrainConfig, path, ["lr=1e-3", "levels=50", "data=[c]", "steps=0", "minutes=1.5", "init=a=b"])
    assert (changed.lr, changed.levels, changed.data) == (1e-3, (50.0,), ("c",))
    assert (changed.steps, changed.minutes, changed.init) == (0, 1.5, "a=b")
    assert load_config(TrainConfig, path, ["validation=a", "validation="]).validation == ""


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("output: [", [], "broken YAML"),
        ("- output", [], "a configuration is a mapping"),
        ("", [], "a configuration is a mapping"),
        ("output: a", ["lr"], "override 'lr' must read key=value"),
        ("output: a", ["lr=["], "broken YAML"),
        (
            "output: a\ndata: b\nsteps: 1",
            ["epochs=3"],
            "unknown key 'epochs'; did you mean 'steps'|unknown key 'epochs'",
        ),
        ("output: a\ndata: b\nsteps: 1", ["lr="], "lr is ''; it must be a number"),
    ],
)
def test_bad_files(tmp_path, text, overrides, says):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(TrainConfig, path, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("verb", "kind"), [("train", TrainConfig), ("search", SearchConfig)])
def test_the_keys_are_listed(verb, kind, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--keys"])
    said, _, defaults = capsys.readouterr().out.partition("Defaults:")
    for field in fields(kind):
        assert f"{field.name}=" in defaults
        assert re.search(rf"(^|, ){field.name}(,.*)?:", said, re.MULTILINE), f"{field.name} is not explained"


def test_unreadable_config(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: No such file"):
        load_config(TrainConfig, tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match=r"binary.yaml: not a text file"):
        load_config(TrainConfig, tmp_path / "binary.yaml")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_load(path):
    kind = SearchConfig if path.stem.startswith("search-") else TrainConfig
    assert load_config(kind, path).output.startswith("runs/")


def test_the_ablations_differ_from_the_paper_in_what_they_name():
    def settings(stem):
        return asdict(load_config(SearchConfig, EXAMPLES / f"search-{stem}.yaml")).items() - paper

    paper = asdict(load_config(SearchConfig, EXAMPLES / "search-modnas.yaml")).items()
    assert dict(settings("common-nas")) == {"output": "runs/search-common-nas", "stages": 1, "model_guide": False}
    assert dict(settings("fixed-width")) == {"output": "runs/search-fixed-width", "channels": 64, "width_search": False}
    assert dict(settings("skip-candidates")) == {"output": "runs/search-skip-candidates", "depth_search": "skip"}
    assert dict(settings("stages")) == {"output": "runs/search-t7", "stages": 7}
