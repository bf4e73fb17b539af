"""The training loop: Adam or Muon on random patches, cosine schedule, weight averaging, exact resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.atomic import write_atomically
from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Genotype
from modnas_fast.images.degradations import Degradation
from modnas_fast.images.evaluation import EvaluationSet, Score, evaluate, evaluate_pairs, mean_scores, read_clean_images
from modnas_fast.images.pairs import PairedSet
from modnas_fast.images.patches import PairSampler
from modnas_fast.networks import ConditionedNet, DerivedNet, gray_to_rgb, load, save_weights, with_stages
from modnas_fast.networks.initial import scale_weights
from modnas_fast.networks.levels import estimated_level
from modnas_fast.ops import fast_convolutions
from modnas_fast.runs.config import config_to_json
from modnas_fast.runs.graphed import GraphedStep, build_adam, set_rate
from modnas_fast.runs.guard import what_broke
from modnas_fast.runs.log import tensorboard
from modnas_fast.runs.precision import autocast, precision_advice
from modnas_fast.runs.processes import Interrupted, Processes, processes, stop_signals
from modnas_fast.runs.schedule import RunningMean, cosine, decibel
from modnas_fast.training.checkpoint import TrainState, load_checkpoint, save_checkpoint
from modnas_fast.training.config import TrainConfig
from modnas_fast.training.losses import LOSSES
from modnas_fast.training.muon import build_muon

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"

_START_LEVEL = 10.0  # σ, 0–255 scale: about what photos and JPEGs differ by from what they show

Array = np.ndarray[Any, np.dtype[Any]]

# Called about twice a second and at the end: step, share of the budget done, training PSNR in dB, seconds left.
Report = Callable[[int, float, float, float], None]


def train(config: TrainConfig, report: Report | None = None, say: Callable[[str], None] = print) -> Path:
    """Run, or go on with, the training that `config` describes.

    One process, or several under `torchrun`: every process draws the whole batch's random numbers and trains on its
    share, so that N processes follow the same path as one.

    Args:
        config: see `TrainConfig`.
        report: progress callback.
        say: prints one line of news.

    Returns:
        The weight file: the averaged weights at the end of the run.

    Raises:
        ModnasError: bad data, a checkpoint of another run, or a loss that became NaN or 100 and more.
        Interrupted: after SIGINT or SIGTERM, once the checkpoint is written.
    """
    with processes(config.device) as here:
        run = _Run(config, here, say if here.first else lambda _: None)
        run.train(report if here.first else None)
        return run.folder / WEIGHTS


class _Run:
    """One process's part of a run."""

    def __init__(self, config: TrainConfig, here: Processes, say: Callable[[str], None]) -> None:
        if config.batch % here.world:
            raise ModnasError(f"batch is {config.batch}; it must be a multiple of the {here.world} processes")
        self.config, self.processes, self.say = config, here, say
        device = here.device
        self.folder = Path(config.output)
        self.validation = _validation(config) if config.validation and here.first else None
        self.validated = -1  # the step at which the weights were validated last
        torch.manual_seed(config.seed)
        self.net = _channels_last(_build_net(config), device).train()
        partners: Sequence[Array] = ()
        if config.degradation == "pairs":
            pairs = list(PairedSet(config.data, config.channels_in, config.pair_names))
            images, partners = [clean for _, clean, _ in pairs], [noisy for _, _, noisy in pairs]
        else:
            images = read_clean_images(config.data, config.channels_in, config.degradation)
        if config.degradation == "camera":
            say(f"adding the noise of cameras to {len(images)} images")
        self.sampler = PairSampler(
            images, config.patch, config.degradation, config.levels, device, config.seed, config.conditioned, partners
        )
        if config.optimizer == "muon":
            optimizers = build_muon(self.net, config.lr, captured=here.captures)
        else:
            optimizers = [build_adam(list(self.net.parameters()), config.lr, captured=here.captures)]
        ema = {name: value.detach().clone() for name, value in self.net.named_parameters()}
        self.state = TrainState(self.net, optimizers, ema, self.sampler.generator)
        checkpoint = self.folder / CHECKPOINT
        if checkpoint.exists():
            load_checkpoint(checkpoint, self.state, config)
            say(f"resuming {self.folder} at step {self.state.step}")
        self.update = GraphedStep(self._update) if here.captures else self._update
        if advice := precision_advice(config.precision, device, converts=False):
            say(advice)
        say(
            f"{sum(p.numel() for p in self.net.parameters()):,} parameters, {self.sampler.clean.image_count} images, "
            f"{device}, {config.precision}, {here.world} process{'es' if here.world > 1 else ''}"
        )

    def train(self, report: Report | None) -> None:
        """Steps until the budget is used up, with checkpoints, validation and logs on the way."""
        config, state = self.config, self.state
        log = tensorboard(self.folder, state.step) if self.processes.first else None
        if self.processes.first:
            write_atomically(self.folder / "config.json", config_to_json(config))
        started_at, mean_loss = state.step, RunningMean()
        clock = time.perf_counter()
        saved = reported = clock
        with stop_signals() as stopped:
            while (share := self.processes.agree(1.0 if stopped() else self._budget_share())) < 1.0:
                loss = self._step(share)
                state.step += 1
                now = time.perf_counter()
                state.elapsed += now - clock
                clock = now
                mean_loss.add(loss)
                if now - reported > 0.5 and report is not None:
                    self._check_finite(mean_loss)
                    done = self._budget_share()
                    report(state.step, done, decibel(mean_loss.value()), state.elapsed * (1 - done) / max(done, 1e-9))
                    reported = now
                if log is not None and state.step % 100 == 0:
                    log.add_scalar("train/psnr", decibel(mean_loss.value()), state.step)
                    log.add_scalar("train/lr", self._rate(share), state.step)
                if state.step % config.validate_every == 0:
                    self._check_finite(mean_loss)
                    self._validate(log)
                    clock = time.perf_counter()  # validation is not training time
                if now - saved > config.checkpoint_every:
                    self._save(mean_loss)
                    saved = clock = time.perf_counter()
            self._save(mean_loss)
            if stopped():
                raise Interrupted
        if self.validated != state.step:
            self._validate(log)
        if report is not None and state.step > started_at:  # a finished run has nothing new
            report(state.step, 1.0, decibel(mean_loss.value()), 0.0)
        if log is not None:
            log.close()

    def _step(self, share: float) -> Tensor:
        """One step on this process's share of the batch, and of the average; the MSE before, detached."""
        config, state = self.config, self.state
        for optimizer in state.optimizers:
            set_rate(optimizer, self._rate(share))
        side, count = config.patches(share)
        loss = self.update(*self.sampler.sample(count, self.processes.share, side))
        # Early on the average follows the weights closely, so that it never remembers the initial ones.
        decay = min(config.ema, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(state.ema.values()), list(self.net.parameters()), 1 - decay)
        return loss

    def _update(self, noisy: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """What of a step is the same every time, and so can be captured: everything from images to new weights."""
        config, optimizers = self.config, self.state.optimizers
        with autocast(config.precision, self.processes.device), fast_convolutions():
            restored = self.net(noisy, sigma) if config.conditioned else self.net(noisy)
        restored = restored.float()
        loss = LOSSES[config.loss](restored, clean)
        self.net.zero_grad(set_to_none=True)
        loss.backward()
        self.processes.average_gradients(list(self.net.parameters()))
        nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        for optimizer in optimizers:
            optimizer.step()
        return loss.detach() if config.loss == "mse" else F.mse_loss(restored.detach(), clean)

    def _budget_share(self) -> float:
        if self.config.steps:
            return self.state.step / self.config.steps
        return self.state.elapsed / (60 * self.config.minutes)

    def _rate(self, share: float) -> float:
        return cosine(self.config.lr, self.config.lr_final, share)

    def _check_finite(self, mean_loss: RunningMean) -> None:
        """Raise where the loss, or a weight by a gradient that overflowed since, is NaN or infinite, or it diverged."""
        broke = what_broke(mean_loss.value(), self.net.parameters())
        if broke:
            fix = "lower lr, or train in fp32"
            if (self.folder / CHECKPOINT).exists():
                fix += f", into a new output with init={self.folder / WEIGHTS}, the last good weights"
            raise ModnasError(f"the {broke} near step {self.state.step}; {fix}")

    def _save(self, mean_loss: RunningMean) -> None:
        self._check_finite(mean_loss)
        if self.processes.first:
            save_checkpoint(self.folder / CHECKPOINT, self.state, self.config)
            save_weights(self.folder / WEIGHTS, self.net, self.state.ema)

    def _validate(self, log: Any) -> None:
        """PSNR and SSIM of the averaged weights on the validation folder, at each level."""
        config = self.config
        if self.validation is None:
            return
        self.validated = self.state.step
        average = type(self.net)(self.net.genotype, len(self.net.stages), self.net.channels_in)
        average.load_state_dict(self.state.ema)
        levels = config.validation_levels or config.levels[:1] or (0.0,)
        for level in levels:
            denoiser = self._at(average, level)
            psnr, ssim = mean_scores(list(self._scores(denoiser, self.validation, level)))
            place, tag = (f" at {level:g}", f"_{level:g}") if len(levels) > 1 else ("", "")
            self.say(f"step {self.state.step}: {config.validation}{place} {psnr:.3f} dB, SSIM {ssim:.4f}")
            if log is not None:
                log.add_scalar(f"validation/psnr{tag}", psnr, self.state.step)
                log.add_scalar(f"validation/ssim{tag}", ssim, self.state.step)

    def _at(self, net: DerivedNet, level: float) -> Callable[[Tensor], Tensor]:
        """The network at a level; for the noise of cameras, at what is estimated of each image."""
        if isinstance(net, ConditionedNet) and self.config.degradation == "camera":
            told, trained_for = _channels_last(net, self.processes.device).eval(), self.net.degradation
            return lambda y: told(y, estimated_level(y[0].permute(1, 2, 0).cpu().numpy(), trained_for))
        plain = net.at(level) if isinstance(net, ConditionedNet) else net
        return _channels_last(plain, self.processes.device).eval()

    def _scores(
        self, net: Callable[[Tensor], Tensor], images: EvaluationSet | PairedSet, level: float
    ) -> Iterator[Score]:
        device = self.processes.device
        if isinstance(images, PairedSet):
            return evaluate_pairs(net, images, device)
        return evaluate(net, images, self.config.degradation, level, device)


def _validation(config: TrainConfig) -> EvaluationSet | PairedSet:
    """The images to validate on: a folder that is wrong is found before training, not hours later."""
    if config.degradation == "pairs":
        return PairedSet([config.validation], config.channels_in, config.pair_names)
    return EvaluationSet(config.validation, config.channels_in, config.degradation)


def _build_net(config: TrainConfig) -> DerivedNet:
    genotype = Genotype.load(config.genotype)
    kind = ConditionedNet if config.conditioned else DerivedNet
    net = kind(genotype, config.stages, config.channels_in)
    net.degradation = Degradation(config.degradation, config.levels, config.conditioned)
    if config.scaled_start:
        scale_weights(net)
    if config.init:
        start = load(config.init)
        widened = start.channels_in == 1 and config.channels_in == 3
        channels_in = 3 if widened else start.channels_in
        fits = start.genotype == genotype and len(start.stages) <= config.stages and channels_in == config.channels_in
        if not fits:
            raise ModnasError(
                f"init: {config.init} holds another network than genotype, stages and channels_in describe: it is "
                f"{start.genotype.name} with stages={len(start.stages)} channels_in={start.channels_in}"
            )
        if isinstance(start, ConditionedNet) and not config.conditioned:
            start = start.at(_start_level(config, start.degradation))
        weights = gray_to_rgb(start.state_dict()) if widened else start.state_dict()
        if isinstance(net, ConditionedNet) and not isinstance(start, ConditionedNet):
            told = ConditionedNet(genotype, len(start.stages), config.channels_in)
            told.start_from(weights)
            weights = told.state_dict()
        net.load_state_dict(with_stages(weights, config.stages))
    return net


def _start_level(config: TrainConfig, trained_for: Degradation | None) -> float:
    """The σ at which a network for every σ becomes the start of a plain one."""
    if config.degradation == "awgn":
        return config.levels[0]
    lowest, highest = trained_for.levels if trained_for and trained_for.between else (0.0, _START_LEVEL)
    return min(max(_START_LEVEL, lowest), highest)


def _channels_last(net: DerivedNet, device: torch.device) -> DerivedNet:
    moved: DerivedNet = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
