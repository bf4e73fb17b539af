"""Choosing a backend."""

from __future__ import annotations

import pytest
import torch

from modnas_fast.errors import ModnasError
from modnas_fast.ops import BACKENDS, explain_backend, select_backend, use_backend

CPU = torch.device("cpu")


def test_auto_falls_back_and_an_explicit_choice_stands() -> None:
    assert select_backend("auto", CPU) == "folded"
    assert select_backend("reference", CPU) == "reference"
    assert select_backend("folded", CPU) == "folded"


def test_an_impossible_choice_raises_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModnasError, match="'fused' cannot run on cuda: Triton is not installed"):
        select_backend("fused", torch.device("cuda"))
    with pytest.raises(ModnasError, match="no backend 'triton'; choose from auto, reference, folded, fused"):
        select_backend("triton", CPU)
    with pytest.raises(ModnasError, match="no backend 'Folded'"), use_backend("Folded"):
        pass


def test_use_backend_nests_and_ends_with_its_block() -> None:
    with use_backend("reference"):
        assert select_backend("auto", CPU) == "reference"
        with use_backend("folded"):
            assert select_backend("reference", CPU) == "folded"
        assert select_backend("folded", CPU) == "reference"
        with pytest.raises(RuntimeError, match="out"), use_backend("auto"):
            raise RuntimeError("out")
        assert select_backend("folded", CPU) == "reference"
    assert select_backend("auto", CPU) == "folded"


def test_fused_runs_on_a_gpu_or_interpreted_and_only_by_name(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_backend("fused", torch.device("cuda")) == "fused"
    with pytest.raises(ModnasError, match="'fused' cannot run on meta: its Triton kernels need a CUDA device"):
        select_backend("fused", torch.device("meta"))
    monkeypatch.setattr("modnas_fast.kernels.tiles.INTERPRETED", True)
    assert select_backend("fused", CPU) == "fused"
    assert select_backend("auto", CPU) == "folded"
    monkeypatch.setattr("modnas_fast.kernels.tiles.INTERPRETED", False)
    with pytest.raises(ModnasError, match="'fused' cannot run on cpu: its Triton kernels need a CUDA device"):
        select_backend("fused", CPU)


def test_explain_backend_names_the_choice_and_every_reason() -> None:
    text = explain_backend(device="meta")
    assert text.splitlines()[0] == "auto on meta: folded"
    assert all(f"  {name}: " in text for name in BACKENDS)
    assert "  folded: runs; choice 1 of auto; folds in PyTorch: its Triton kernels are for CUDA devices" in text
    assert "  fused: its Triton kernels need a CUDA device" in text or "  fused: Triton is not installed" in text
    assert "'fused' cannot run" in explain_backend("fused", "meta").splitlines()[0]
    fold = explain_backend("folded", "cuda").splitlines()[2]
    assert fold.endswith(("; folds normal layers by Triton kernels", "; folds in PyTorch: Triton is not installed"))
    with use_backend("reference"):
        assert explain_backend("folded").startswith("folded on cpu, overridden by use_backend('reference'): reference")
