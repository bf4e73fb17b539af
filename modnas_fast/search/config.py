"""The search configuration; the paper's protocol is the default."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modnas_fast.images.degradations import Degradation
from modnas_fast.ops import check_backend
from modnas_fast.runs.config import require
from modnas_fast.search.architecture import DEPTH_SEARCHES


@dataclass(frozen=True)
class SearchConfig:
    """Everything that decides a search (paper section 4.1, Algorithm 1).

    Args:
        output: folder of the run: checkpoints, `supernet.safetensors`, `history.jsonl`, TensorBoard log, `config.json`.
        data: folders of clean training images (searched recursively); one random half trains W, the other A.
        channels_in: 1 (gray: colour images are converted to luma) or 3 (RGB).
        degradation, levels: as in training; "awgn" at σ = 25 in the paper.
        stages, channels: T and C of the supernet.
        patch, batch: side in pixels (a multiple of 8) and patches a step, over all processes.
        epochs, warmup_epochs: in the first `warmup_epochs` only W is trained; then an A-step follows every W-step.
        steps: W-steps an epoch; 0 for one image of the half a patch, as an epoch over the data would have.
        lr, lr_final: cosine schedule of both Adams over all epochs.
        lr_architecture: where A's Adam starts instead of at `lr`, falling in proportion; 0 for `lr`, as in the paper.
            A search of fewer A-steps than the paper's 100 epochs goes as far with a higher one.
        precision: "bf16" (autocast) or "fp32".
        backend: of the supernet; "auto" takes the fastest.
        scaled_start: initial weights from which every layer hands on as much as it takes in (`networks.initial`), so
            that the low resolutions take part from the start; false for PyTorch's.
        seed: of the halves, the initial weights, patches and noise.
        validation: folder of clean images scored with the fixed test noise every epoch, "" for none.
        checkpoint_every: seconds between checkpoints within an epoch; every epoch ends with one.
        stop_on_collapse: end the search when the collapse monitor warns, instead of only saying so.
        device: "auto", "cpu" or "cuda".
        model_guide: false for the common-NAS ablation (Fig. 3): δ is held at 0, so that x = f(y); with stages = 1.
        width_search: false for the fixed-width ablation (Table 1): β is held at 1.
        depth_search: "dense" (γ, Eq. 11), or "skip" for the ablation (Fig. 4): one more candidate instead of γ.
        penalty: what an A-step also minimises (beyond the paper): "macs", "parameters", "latency", or "" for nothing.
            Its MSE gets `penalty_weight` times the architecture's expected cost (`search.cost`), which starts at 1.
        penalty_weight: positive with a penalty. A good denoiser's MSE at σ = 25 is about 1e-3 (images in [0, 1]), so
            that a weight of 1e-5 asks little and 1e-3 much.
        latency_table: for the latency penalty, the file that `modnas-fast profile-ops` wrote on the target device. With
            another penalty or none it goes into the report alone.
    """

    output: str
    data: tuple[str, ...]
    channels_in: int = 1
    degradation: str = "awgn"
    levels: tuple[float, ...] = (25.0,)
    stages: int = 2
    channels: int = 48
    patch: int = 64
    batch: int = 12
    epochs: int = 140
    warmup_epochs: int = 40
    steps: int = 0
    lr: float = 1e-3
    lr_final: float = 1e-5
    lr_architecture: float = 0.0
    precision: str = "bf16"
    backend: str = "auto"
    scaled_start: bool = False
    seed: int = 0
    validation: str = ""
    checkpoint_every: float = 60.0
    stop_on_collapse: bool = False
    device: str = "auto"
    model_guide: bool = True
    width_search: bool = True
    depth_search: str = "dense"
    penalty: str = ""
    penalty_weight: float = 0.0
    latency_table: str = ""

    def __post_init__(self) -> None:
        require(self, bool(self.data), "data", "name at least one folder of clean images")
        for key in ("stages", "channels", "batch", "epochs"):
            require(self, getattr(self, key) >= 1, key, "it must be at least 1")
        require(self, self.steps >= 0, "steps", "it must be positive, or 0 for one pass over the half")
        require(self, 0 <= self.warmup_epochs <= self.epochs, "warmup_epochs", "it must be between 0 and epochs")
        require(self, self.channels_in in (1, 3), "channels_in", "1 is gray, 3 is RGB")
        require(self, self.patch >= 8 and self.patch % 8 == 0, "patch", "it must be a multiple of 8")
        require(self, self.degradation in ("awgn", "jpeg"), "degradation", "choose awgn or jpeg")
        Degradation(self.degradation, self.levels)
        require(self, self.precision in ("bf16", "fp32"), "precision", "choose bf16 or fp32")
        require(self, self.device in ("auto", "cpu", "cuda"), "device", "choose auto, cpu or cuda")
        require(self, 0 < self.lr_final <= self.lr, "lr_final", "it must be positive and at most lr")
        require(self, 0 <= self.lr_architecture < math.inf, "lr_architecture", "it must be positive, or 0 for lr")
        check_backend(self.backend)
        require(self, self.depth_search in DEPTH_SEARCHES, "depth_search", f"choose {' or '.join(DEPTH_SEARCHES)}")
        guided = self.model_guide or self.stages == 1
        require(self, guided, "stages", "without model guide there is one stage; set stages to 1")
        self._check_penalty()

    def _check_penalty(self) -> None:
        known = ("", "macs", "parameters", "latency")
        require(self, self.penalty in known, "penalty", "choose macs, parameters or latency, or leave it empty")
        require(self, 0 <= self.penalty_weight < math.inf, "penalty_weight", "it must be finite and at least 0")
        weighed = self.penalty == "" or self.penalty_weight > 0
        require(self, weighed, "penalty_weight", f"the penalty {self.penalty!r} needs a positive weight")
        used = self.penalty != "" or self.penalty_weight == 0
        require(self, used, "penalty_weight", "without a penalty it does nothing; choose one, or set it to 0")
        found = self.penalty != "latency" or self.latency_table != ""
        require(self, found, "latency_table", "name the file that modnas-fast profile-ops wrote")
