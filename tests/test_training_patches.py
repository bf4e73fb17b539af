"""Trainings whose patches grow."""

from __future__ import annotations

from modnas_fast.images.patches import PairSampler
from tests.test_training import run, settings

__all__ = ["settings"]  # the fixture


def test_patches_grow(settings, tmp_path, monkeypatch):
    sizes = []
    original = PairSampler.sample

    def sample(self, *arguments):
        batch = original(self, *arguments)
        sizes.append(tuple(batch[0].shape))
        return batch

    monkeypatch.setattr(PairSampler, "sample", sample)
    run(settings, tmp_path / "run", patch=16, batch=2, patch_growth=[8], steps=5)
    assert sizes == [(8, 1, 8, 8)] * 3 + [(2, 1, 16, 16)] * 2
