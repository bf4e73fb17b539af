"""The training configuration; the paper's protocol is the default."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from modnas_fast.images.degradations import Degradation
from modnas_fast.runs.config import ConfigError, require
from modnas_fast.training.losses import LOSSES


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run (paper section 4.1).

    Args:
        output: folder of the run: checkpoint, weights, TensorBoard log, a copy of this configuration.
        data: folders of clean training images (searched recursively).
        genotype: a published name or a JSON file.
        stages, channels_in: T, and 1 (gray: colour images are converted to luma) or 3 (RGB).
        degradation: "awgn" (levels are σ on the 0–255 scale), "jpeg" (levels are qualities), "pairs" (photos in
            `data` and their noisy partners; levels are []) or "camera" (what cameras would have added, `images.camera`;
            conditioned, levels are the lowest and the highest σ that is told, as `estimate_coarse_sigma` has it).
        levels: drawn uniformly for every patch.
        pair_names: of "pairs", what tells clean files from noisy ones; see `images.pairs.list_pairs`.
        conditioned: the network is told σ (`ConditionedNet`); `levels` are the ends of what is drawn.
        patch, batch: side in pixels (a multiple of 8) and patches a step, over all processes.
        patch_growth: smaller sides that come first, all for equal parts of the budget, in batches of as many pixels:
            [32, 64] before 128 in batches of 2 are 32 patches, then 8 (progressive learning, Zamir et al., CVPR 2022).
        steps, minutes: the budget, exactly one of the two: optimiser steps, or minutes of training time.
        loss: "mse" (the paper's), "l1", "charbonnier" or "psnr" (`training.losses`).
        optimizer: "adam" (the paper's) or "muon", for the dense kernels between feature maps (`training.muon`).
        lr, lr_final: cosine schedule from lr to lr_final over the budget.
        clip: largest gradient norm.
        ema: decay of the exponential moving average of the weights, which is what is validated and saved.
        precision: "bf16" (autocast) or "fp32".
        seed: of the initial weights, patches and noise.
        scaled_start: without `init`, weights from which every layer hands on as much as it takes in
            (`networks.initial`), which evens out seeds in short trainings; false for PyTorch's.
        init: weights to start from, "" for a fresh start. A conditioned network may start from a plain one, an
            RGB one from a gray one, one of more stages from one of fewer (`networks.with_stages`); a plain one starts
            from what a conditioned one is at the first of `levels`, or at σ = 10 where these are no σ.
        validation: folder of clean images scored with the fixed test noise, "" for none.
        validation_levels: that it is scored at, () for the first of `levels`.
        validate_every, checkpoint_every: in steps and in seconds.
        device: "auto", "cpu" or "cuda".
    """

    output: str
    data: tuple[str, ...]
    genotype: str = "modnas-b"
    stages: int = 1
    channels_in: int = 1
    degradation: str = "awgn"
    levels: tuple[float, ...] = (25.0,)
    pair_names: tuple[str, ...] = ("GT", "NOISY")
    conditioned: bool = False
    patch: int = 128
    batch: int = 32
    patch_growth: tuple[int, ...] = ()
    steps: int = 0
    minutes: float = 0.0
    loss: str = "mse"
    optimizer: str = "adam"
    lr: float = 1e-3
    lr_final: float = 1e-5
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "bf16"
    seed: int = 0
    scaled_start: bool = False
    init: str = ""
    validation: str = ""
    validation_levels: tuple[float, ...] = ()
    validate_every: int = 2000
    checkpoint_every: float = 60.0
    device: str = "auto"

    def patches(self, share: float) -> tuple[int, int]:
        """Side and number of a step's patches when `share` of the budget, below 1, is used up."""
        sides = (*self.patch_growth, self.patch)
        side = sides[int(share * len(sides))]
        return side, self.batch * (self.patch // side) ** 2

    def __post_init__(self) -> None:
        require(self, bool(self.data), "data", "name at least one folder of clean images")
        for key in ("stages", "batch", "validate_every"):
            require(self, getattr(self, key) >= 1, key, "it must be at least 1")
        require(self, self.channels_in in (1, 3), "channels_in", "1 is gray, 3 is RGB")
        require(self, self.patch >= 8 and self.patch % 8 == 0, "patch", "it must be a multiple of 8")
        sides = (*self.patch_growth, self.patch)
        growing = all(a < b for a, b in itertools.pairwise(sides))
        whole = all(side >= 8 and side % 8 == 0 and self.patch % side == 0 for side in sides)
        require(self, growing and whole, "patch_growth", f"choose multiples of 8 that divide {self.patch}, ascending")
        Degradation(self.degradation, self.levels, self.conditioned)
        require(self, len(self.pair_names) == 2, "pair_names", "give the clean files' part and the noisy ones'")
        if self.validation_levels:
            Degradation(self.degradation, self.validation_levels)
        require(self, self.loss in LOSSES, "loss", f"choose {', '.join(LOSSES)}")
        require(self, self.optimizer in ("adam", "muon"), "optimizer", "choose adam or muon")
        require(self, self.precision in ("bf16", "fp32"), "precision", "choose bf16 or fp32")
        require(self, self.device in ("auto", "cpu", "cuda"), "device", "choose auto, cpu or cuda")
        require(self, 0 < self.lr_final <= self.lr, "lr_final", "it must be positive and at most lr")
        require(self, self.clip > 0, "clip", "it must be positive")
        require(self, 0 <= self.ema < 1, "ema", "it must be at least 0 and below 1")
        if (self.steps > 0) == (self.minutes > 0):
            raise ConfigError("give the budget as steps or as minutes, one of the two")
