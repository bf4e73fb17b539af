"""What ships agrees with itself: weights, cards, README, examples."""

import hashlib
import json
from pathlib import Path

import pytest

from modnas_fast.cli import main
from modnas_fast.networks import load, shipped_models
from modnas_fast.runs.config import load_config
from modnas_fast.search.config import SearchConfig
from modnas_fast.training import TrainConfig

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", shipped_models())
def test_card_describes_the_weights(name: str) -> None:
    path = shipped_models()[name]
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    net = load(name)
    assert card["name"] == name
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["parameters"] == sum(parameter.numel() for parameter in net.parameters())
    assert card["degradation"] == json.loads(net.degradation.to_json())
    assert (card["genotype"], card["stages"], card["channels_in"]) == (
        net.genotype.name,
        len(net.stages),
        net.channels_in,
    )
    for key in ("command", "data", "seed", "hours", "device", "start", "steps"):
        assert key in card


def test_readme_quotes_the_cards() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    def row(start: str, cells: list[str]) -> str:
        return f"| {start} | {' | '.join(cells)} |"

    def quality(scores: dict[str, dict[str, float]], prefix: str = "") -> list[str]:
        return [f"{score[prefix + 'psnr']:.2f} / {score[prefix + 'ssim']:.4f}" for score in scores.values()]

    for name, path in shipped_models().items():
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        photos, rgb = card["degradation"]["kind"] == "camera", card["channels_in"] == 3
        told = rgb and not photos
        assert row("σ = 25" if told else f"`{name}`", quality(card["scores"])) in readme
        for level in ("15", "50"):
            if f"scores_at_{level}" in card:
                assert row(f"σ = {level}" if told else f"`{name}`", quality(card[f"scores_at_{level}"])) in readme
        if told:
            assert f"channel by channel it is {card['scores']['LIVE1']['gray_psnr']:.2f} dB on LIVE1" in readme
        if card["degradation"]["kind"] == "jpeg":
            assert row("the JPEG itself", quality(card["scores"], "input_")) in readme
        if photos:
            kept = f"the photos as they are, {'RGB' if rgb else 'luma'}"
            assert row(kept, quality(card["scores"], "input_")) in readme


def test_models_verb_lists_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(shipped_models())
    for line, path in zip(lines, shipped_models().values(), strict=True):
        assert f" parameters, {path.stat().st_size / 1e6:.1f} MB; " in line
    assert main(["models", "--json"]) == 0
    assert [card["name"] for card in json.loads(capsys.readouterr().out)] == list(shipped_models())


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_example_configurations_are_valid(path: Path) -> None:
    kind = SearchConfig if path.stem.startswith("search") else TrainConfig
    load_config(kind, path)
