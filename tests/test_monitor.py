"""The collapse monitor: silent on what is healthy, and one precise warning for each kind of collapse."""

from __future__ import annotations

import math
from typing import Any

import pytest

from modnas_fast.genotype import PRIMITIVES
from modnas_fast.search.history import layer_kind
from modnas_fast.search.monitor import Thresholds, collapse_warnings
from tests.search_histories import healthy_history, softmax

History = list[dict[str, Any]]


@pytest.fixture
def history() -> History:
    return healthy_history()


def the_warning(history: History, thresholds: Thresholds | None = None) -> str:
    (warning,) = collapse_warnings(history, thresholds).values()
    return warning


@pytest.mark.parametrize("seed", range(3))
def test_healthy_searches_bring_no_warning_at_any_epoch(seed: int) -> None:
    history = healthy_history(seed=seed)
    for epochs in range(len(history) + 1):
        assert collapse_warnings(history[:epochs]) == {}


def test_without_validation_there_is_nothing_to_say(history: History) -> None:
    for record in history:
        record["validation_psnr"] = None
    assert collapse_warnings(history) == {}


def test_a_lasting_psnr_drop(history: History) -> None:
    best = max(history[:130], key=lambda record: record["validation_psnr"])
    for record in history[130:]:
        record["validation_psnr"] = best["validation_psnr"] - 2
    warning = the_warning(history)
    assert f"{best['validation_psnr'] - 2:.2f} dB, 2.00 dB below its best" in warning
    assert f"in epoch {best['epoch']}" in warning
    assert "since epoch 131" in warning


def test_dips_and_recoveries_are_no_collapse(history: History) -> None:
    for record in history[60:100] + history[138:]:
        record["validation_psnr"] -= 3
    assert collapse_warnings(history) == {}  # 40 epochs, but recovered; the last two, but only two
    assert collapse_warnings(history[:100])
    assert collapse_warnings(history, Thresholds(patience=2))
    assert collapse_warnings(history[:100], Thresholds(psnr_drop=4)) == {}


def test_psnr_of_some_epochs_only(history: History) -> None:
    for record in history:
        if record["epoch"] % 10:
            record["validation_psnr"] = None
        elif record["epoch"] > 110:
            record["validation_psnr"] -= 1.5
    assert "since epoch 120" in the_warning(history)
    assert collapse_warnings(history[:130]) == {}


def test_skipped_layers(history: History) -> None:
    for record in history[99:]:
        record["skipped_layers"] = 15 / 21
    warning = the_warning(history)
    assert "does without 15 of its 21 normal layers (71%; since epoch 100" in warning
    for record in history[99:]:
        record["skipped_layers"] = 14 / 21
    assert collapse_warnings(history) == {}


def test_skips_that_are_ties_do_not_count(history: History) -> None:
    """Just after the warm-up, γ differs by what a few steps of Adam make."""

    def skip(lead: float) -> None:
        for record in history[99:]:
            record["skipped_layers"] = 1.0
            record["gamma"] = {name: softmax([lead] + [0.0] * (len(p) - 1)) for name, p in record["gamma"].items()}

    skip(0.09)
    assert collapse_warnings(history) == {}
    skip(0.11)
    assert "does without 21 of its 21" in the_warning(history)


def test_a_skip_candidate_leads_the_strongest_operation_not_all_of_them(history: History) -> None:
    def skip(share: float) -> None:
        for record in history[99:]:
            record["skipped_layers"] = 1.0
            record["alpha"] |= {name: [1 / 7] * 7 for name in record["gamma"]}
            record["gamma"] = {n: [0.0] * (len(p) - 2) + [share, 1 - share] for n, p in record["gamma"].items()}

    skip(0.13)  # an operation has 0.124
    assert collapse_warnings(history) == {}
    skip(0.14)
    assert "does without 21 of its 21" in the_warning(history)


def test_skips_count_only_when_gamma_moves(history: History) -> None:
    for record in history[:40]:
        record["skipped_layers"] = 1.0
    assert collapse_warnings(history[:40]) == {}


def test_entropy_that_falls_too_fast(history: History) -> None:
    for record in history[50:]:
        record["alpha_entropy"] = max(0.3, 0.95 - 0.2 * (record["epoch"] - 50))
    warning = the_warning(history)
    assert "α was decided too fast" in warning
    assert "from 1.00 to 0.55 between epochs 47 and 52 " in warning
    slowly = healthy_history()
    for record in slowly[40:]:
        record["alpha_entropy"] = 1 - 0.05 * min(record["epoch"] - 40, 19)
    assert collapse_warnings(slowly) == {}


def test_entropy_that_comes_back(history: History) -> None:
    for record in history[50:55]:
        record["alpha_entropy"] = 0.2
    assert "too fast" in the_warning(history[:55])
    assert collapse_warnings(history) == {}


def everywhere(history: History, op: str, weight: float, since: int) -> None:
    """Let `op` lead in every normal layer with this ω."""
    ops = PRIMITIVES["normal"]
    for record in history[since - 1 :]:
        for name in record["alpha"]:
            if layer_kind(name) == "normal":
                rest = (1 - weight) / (len(ops) - 1)
                record["alpha"][name] = [weight if other == op else rest for other in ops]


@pytest.mark.parametrize("op", ["sep_conv_3x3", "dil_conv_5x5"])
def test_one_cheap_operation_everywhere(history: History, op: str) -> None:
    everywhere(history, op, 0.6, since=120)
    warning = the_warning(history)
    assert f"{op} in 21 of 21 normal layers, with a mean weight of 0.60 (since epoch 120)" in warning


def test_heavy_or_hardly_leading_operations_may_be_everywhere(history: History) -> None:
    everywhere(history, "res_block_3x3", 0.6, since=120)
    assert collapse_warnings(history) == {}
    everywhere(history, "dil_conv_3x3", 0.2, since=120)
    assert collapse_warnings(history) == {}


@pytest.mark.parametrize("key", ["train_psnr", "validation_psnr"])
def test_one_nan_psnr(history: History, key: str) -> None:
    history[76][key] = math.nan
    assert the_warning(history).startswith("NaN or infinite values in epoch 77:")


def test_nan_in_the_architecture(history: History) -> None:
    history[76]["alpha"]["DB1.2"] = [math.nan] * 7
    history[77]["gamma"]["EB2.1"] = [math.inf, 0.0]
    for record in history[78:80]:
        record |= dict.fromkeys(("beta", "genotype", "parameters", "macs", "macs_with_bias", "skipped_layers"))
    assert "in 4 epochs since epoch 77:" in the_warning(history)


def test_the_gravest_comes_first(history: History) -> None:
    history[76]["train_psnr"] = math.nan
    everywhere(history, "dil_conv_3x3", 0.9, since=90)
    for record in history[89:]:
        record["validation_psnr"] = 20.0
        record["skipped_layers"] = 1.0
        record["alpha_entropy"] = 0.05
    starts = ("NaN", "The supernet's validation PSNR", "Skips", "α was decided", "One cheap operation")
    for warning, start in zip(collapse_warnings(history).values(), starts, strict=True):
        assert warning.startswith(start)
        assert any(advice in warning for advice in ("lr", "checkpoint"))


def test_a_tie_at_the_start_of_the_search_is_no_domination() -> None:
    history = healthy_history(60)
    for record in history:
        record["alpha"] = {name: softmax([0.0] * len(weights)) for name, weights in record["alpha"].items()}
    assert collapse_warnings(history) == {}
