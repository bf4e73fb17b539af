"""`modnas-fast doctor` says what denoising runs on, and why."""

import pytest

from modnas_fast import Denoiser
from modnas_fast.cli import main
from modnas_fast.engine import denoiser as module
from modnas_fast.engine import engine
from modnas_fast.engine.engine import engine_obstacle


@pytest.mark.skipif(bool(engine_obstacle()), reason=f"no compiled engine: {engine_obstacle()}")
def test_the_engine_runs_where_it_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "compiled engine: runs" in printed
    assert "portable" in printed
    assert "on cpu by the engine" in printed


def test_without_it_torch_runs_and_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (engine, module):
        monkeypatch.setattr(place, "engine_obstacle", lambda: "no compiler was there")
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "compiled engine: not used: no compiler was there" in printed
    assert "by PyTorch (no compiler was there)" in printed
    assert Denoiser().backend == "PyTorch (no compiler was there)"
