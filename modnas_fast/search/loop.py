"""The search: W on one half of the data, then W and A in turn on the two halves (paper Algorithm 1, first order)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from modnas_fast.atomic import write_atomically
from modnas_fast.errors import ModnasError
from modnas_fast.images.degradations import Degradation
from modnas_fast.images.evaluation import EvaluationSet, evaluate, mean_scores, read_clean_images
from modnas_fast.images.patches import PairSampler
from modnas_fast.runs.config import config_to_json
from modnas_fast.runs.graphed import GraphedStep, build_adam, set_rate
from modnas_fast.runs.guard import what_broke
from modnas_fast.runs.log import tensorboard
from modnas_fast.runs.precision import precision_advice
from modnas_fast.runs.processes import Interrupted, Processes, processes, stop_signals
from modnas_fast.runs.schedule import cosine, decibel
from modnas_fast.search.checkpoint import Counters, SearchState, load_search, save_search
from modnas_fast.search.config import SearchConfig
from modnas_fast.search.cost import expected_cost
from modnas_fast.search.history import append_record, epoch_record, read_history, truncate_history
from modnas_fast.search.initial import scale_weights
from modnas_fast.search.latency import LATENCY_FILE, LatencyTable, penalty_table
from modnas_fast.search.monitor import collapse_warnings
from modnas_fast.search.steps import Penalty, Step
from modnas_fast.search.supernet import SuperNet
from modnas_fast.search.weights import SUPERNET_FILE, save_supernet

HISTORY = "history.jsonl"

_NO_GUIDE = -1e4  # a logit whose sigmoid is 0, exactly
_MOST_ROLLBACKS = 5

# Called about twice a second: epoch, share of the work done, training PSNR of the epoch so far in dB, seconds left.
Report = Callable[[int, float, float, float], None]


def search(config: SearchConfig, report: Report | None = None, say: Callable[[str], None] = print) -> Path:
    """Run, or go on with, the search that `config` describes.

    A step is a W-step (Adam on all weights and δ, on patches of the first half) and, after the warm-up epochs, an
    A-step (Adam on α, β, γ, on patches of the second half). Both rates follow one cosine over all epochs. A NaN or an
    infinity sends the search back to its last checkpoint, with half the rate.

    Args:
        config: see `SearchConfig`.
        report: progress callback.
        say: prints one line of news: validation, warnings of the collapse monitor, rollbacks.

    Returns:
        The folder of the run, with `supernet.safetensors` and `history.jsonl`.

    Raises:
        ModnasError: bad data, a checkpoint of another search, or NaNs that rates of 1/32 do not cure.
        Interrupted: after SIGINT or SIGTERM, once the checkpoint is written; the same call goes on, bit for bit.
    """
    with processes(config.device) as here:
        run = _Search(config, here, say if here.first else lambda _: None)
        run.run(report if here.first else None)
        return run.folder


class _Search:
    """One process's part of a search."""

    def __init__(self, config: SearchConfig, here: Processes, say: Callable[[str], None]) -> None:
        if config.batch % here.world:
            raise ModnasError(f"batch is {config.batch}; it must be a multiple of the {here.world} processes")
        self.config, self.processes, self.say = config, here, say
        self.folder, self.warned = Path(config.output), set[str]()
        halves = split_in_halves(read_clean_images(config.data, config.channels_in, config.degradation), config.seed)
        self.samplers = {
            key: PairSampler(half, config.patch, config.degradation, config.levels, here.device, config.seed + index)
            for index, (key, half) in enumerate(zip(("weights", "architecture"), halves, strict=True))
        }
        self.steps = config.steps or max(1, self.samplers["weights"].clean.image_count // config.batch)
        torch.manual_seed(config.seed)
        self.net = _build_supernet(config).to(here.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained = _trained_parameters(self.net, config)
        self.captured = here.captures
        optimizers = {
            key: build_adam(parameters, config.lr, captured=self.captured) for key, parameters in self.trained.items()
        }
        self._proportion = {"weights": 1.0, "architecture": (config.lr_architecture or config.lr) / config.lr}
        generators = {key: sampler.generator for key, sampler in self.samplers.items()}
        self.state = SearchState(self.net, optimizers, generators, Counters())
        found = load_search(self.folder, self.state, config)
        self.step = self._build_steps()
        if found:
            say(f"going on from {found} at step {self.state.counters.step}")
        self.started, self.work_at_start = time.perf_counter(), self._work(self.state.counters.step)
        size = sum(parameter.numel() for parameter in self.net.parameters())
        if advice := precision_advice(config.precision, here.device, converts=True):
            say(advice)
        say(
            f"{size:,} parameters; {' + '.join(str(s.clean.image_count) for s in self.samplers.values())} images; "
            f"{config.epochs} epochs of {self.steps} steps; {here.device}, {config.precision}"
        )

    def _build_steps(self) -> dict[str, Step | GraphedStep]:
        """A W-step and an A-step on the state as it is: graphs keep to its tensors."""
        penalties = {"weights": None, "architecture": _penalty(self.net, self.config, self.processes.device)}
        steps = {
            key: Step(
                self.net, self.trained[key], self.state.optimizers[key], self.config.precision, self.processes, penalty
            )
            for key, penalty in penalties.items()
        }
        return {key: GraphedStep(step) if self.captured else step for key, step in steps.items()}

    def run(self, report: Report | None) -> None:
        """Epochs until the last, each ending with a record, a checkpoint and the supernet's file."""
        config, counters = self.config, self.state.counters
        log = None
        if self.processes.first:
            write_atomically(self.folder / "config.json", config_to_json(config))
            if config.latency_table:
                table = LatencyTable.load(config.latency_table)
                table.require_width(config.channels)
                table.save(self.folder / LATENCY_FILE)
            truncate_history(self.folder / HISTORY, counters.step // self.steps + 1)
            log = tensorboard(self.folder, counters.step // self.steps)
        with stop_signals() as stopped, log or nullcontext():
            while self.state.counters.step < config.epochs * self.steps:
                if not self._run_epoch(stopped, report):
                    self._save()
                    raise Interrupted
                if self._finish_epoch(log) and config.stop_on_collapse:
                    self.say("stopped: stop_on_collapse is set")
                    return

    def _run_epoch(self, stopped: Callable[[], bool], report: Report | None) -> bool:
        """Steps to the end of the epoch under way, or until a signal: then False."""
        config = self.config
        loss_sum = torch.tensor(self.state.counters.epoch_loss, dtype=torch.float64, device=self.processes.device)
        clock = saved = reported = time.perf_counter()
        while True:
            counters = self.state.counters
            epoch = counters.step // self.steps
            loss_sum += self._step_both(epoch)
            counters.step += 1
            now = time.perf_counter()
            counters.epoch_seconds += now - clock
            clock = now
            finished = counters.step % self.steps == 0
            stopping = bool(self.processes.agree(float(stopped())))
            due = bool(self.processes.agree(float(now - saved > config.checkpoint_every)))
            if report is not None and now - reported > 0.5:
                done = counters.step - epoch * self.steps
                report(epoch + 1, *self._progress(decibel(float(loss_sum) / done)))
                reported = now
            if finished or stopping or due:
                counters.epoch_loss = float(loss_sum)
                if self._roll_back_if_broken():
                    loss_sum.fill_(self.state.counters.epoch_loss)
                    continue
                if finished or stopping:
                    return finished
                self._save()
                saved = clock = time.perf_counter()

    def _progress(self, psnr: float) -> tuple[float, float, float]:
        """Share of the work done, `psnr`, and seconds left at the rate of this process so far."""
        done, total = self._work(self.state.counters.step), self._work(self.config.epochs * self.steps)
        elapsed = time.perf_counter() - self.started
        return done / total, psnr, elapsed * (total - done) / max(done - self.work_at_start, 1)

    def _work(self, step: int) -> int:
        """W- and A-steps that `step` pairs take, the warm-up's without A."""
        return step + max(0, step - self.config.warmup_epochs * self.steps)

    def _step_both(self, epoch: int) -> torch.Tensor:
        """A W-step and, after the warm-up, an A-step; the W-step's loss on this process's share."""
        for key, optimizer in self.state.optimizers.items():
            set_rate(optimizer, self._rate() * self._proportion[key])
        loss = self.step["weights"](*self.samplers["weights"].sample(self.config.batch, self.processes.share)[:2])
        if epoch >= self.config.warmup_epochs:
            batch = self.samplers["architecture"].sample(self.config.batch, self.processes.share)
            self.step["architecture"](*batch[:2])
        return loss.double()

    def _rate(self) -> float:
        counters = self.state.counters
        share = counters.step / (self.config.epochs * self.steps)
        return counters.rate_scale * cosine(self.config.lr, self.config.lr_final, share)

    def _roll_back_if_broken(self) -> bool:
        """Where a NaN or an infinity is about, or W diverged: back to the last checkpoint, with half the rate."""
        broke = what_broke(self.state.counters.epoch_loss / self.steps, self.net.parameters())
        if not self.processes.agree(float(bool(broke))):
            return False
        step, rollbacks, scale = self.state.counters.step, self.state.counters.rollbacks, self.state.counters.rate_scale
        if rollbacks == _MOST_ROLLBACKS:
            raise ModnasError(f"the {broke} again at step {step}, after {rollbacks} rollbacks: lower lr or use fp32")
        found = load_search(self.folder, self.state, self.config)
        if found is None:
            raise ModnasError(f"the {broke} at step {step}, before the first checkpoint: lower lr or use fp32")
        self.step = self._build_steps()
        self.state.counters.rollbacks, self.state.counters.rate_scale = rollbacks + 1, scale / 2
        self.say(f"the {broke} by step {step}: back to step {self.state.counters.step} with half the rate")
        return True

    def _finish_epoch(self, log: Any) -> bool:
        """Record, log, save; whether the collapse monitor warns."""
        counters = self.state.counters
        epoch = counters.step // self.steps
        train_psnr, seconds = decibel(counters.epoch_loss / self.steps), counters.epoch_seconds
        counters.epoch_loss = counters.epoch_seconds = 0.0
        warned = False
        if self.processes.first:
            phase = "weights" if epoch <= self.config.warmup_epochs else "alternate"
            validation = self._validate()
            record = epoch_record(
                epoch,
                phase,
                self.net.architecture,
                self.config.stages,
                self.config.channels_in,
                train_psnr,
                validation,
                seconds,
                self._rate(),
            )
            append_record(self.folder / HISTORY, record)
            self._report_epoch(log, record)
            warned = self._warn()
        self._save()
        return bool(self.processes.agree(float(warned)))

    def _warn(self) -> bool:
        """Say what the collapse monitor sees and did not see an epoch before; whether it sees anything."""
        warnings = collapse_warnings(read_history(self.folder / HISTORY))
        for kind in warnings.keys() - self.warned:
            self.say(f"warning: {warnings[kind]}")
        self.warned = set(warnings)
        return bool(warnings)

    def _report_epoch(self, log: Any, record: dict[str, Any]) -> None:
        validation = "" if record["validation_psnr"] is None else f", validation {record['validation_psnr']:.3f} dB"
        self.say(
            f"epoch {record['epoch']}: training {record['train_psnr']:.2f} dB{validation}, {record['seconds']:.0f} s"
        )
        for key in ("train_psnr", "validation_psnr", "alpha_entropy", "skipped_layers", "parameters", "macs", "rate"):
            if record[key] is not None:
                log.add_scalar(f"search/{key}", record[key], record["epoch"])

    def _validate(self) -> float | None:
        """PSNR in dB of the supernet on the validation folder, at the first level."""
        if not self.config.validation:
            return None
        images = EvaluationSet(self.config.validation, self.config.channels_in, self.config.degradation)
        scores = evaluate(self.net, images, self.config.degradation, self.config.levels[0], self.processes.device)
        return mean_scores(list(scores))[0]

    def _save(self) -> None:
        if self.processes.first:
            save_search(self.folder, self.state, self.config)
            degradation = Degradation(self.config.degradation, self.config.levels)
            save_supernet(self.folder / SUPERNET_FILE, self.net, degradation)


def split_in_halves(images: list[Any], seed: int) -> tuple[list[Any], list[Any]]:
    """Two random halves of the images, the first the larger by one where their number is odd.

    Raises:
        ModnasError: fewer than two images.
    """
    if len(images) < 2:
        raise ModnasError(f"a search needs at least 2 training images, one for W and one for A; there is {len(images)}")
    order = np.random.default_rng(seed).permutation(len(images))
    middle = (len(images) + 1) // 2
    return [images[i] for i in order[:middle]], [images[i] for i in order[middle:]]


def _build_supernet(config: SearchConfig) -> SuperNet:
    net = SuperNet(config.stages, config.channels, config.channels_in, config.backend, config.depth_search)
    if config.scaled_start:
        scale_weights(net)
    if not config.model_guide:
        with torch.no_grad():
            for stage in net.stages:
                stage.get_parameter("delta").fill_(_NO_GUIDE)
    return net


def _trained_parameters(net: SuperNet, config: SearchConfig) -> dict[str, list[nn.Parameter]]:
    """W and A, less what the ablations hold fixed."""
    weights = {n: p for n, p in net.stages.named_parameters() if config.model_guide or not n.endswith("delta")}
    architecture = {
        n: p for n, p in net.architecture.named_parameters() if config.width_search or not n.endswith("beta")
    }
    return {"weights": list(weights.values()), "architecture": list(architecture.values())}


def _penalty(net: SuperNet, config: SearchConfig, device: torch.device) -> Penalty | None:
    """weight · expected cost of the architecture (1 at the start), or None where the configuration asks for none."""
    table = penalty_table(config)
    if table is None:
        return None
    placed = table.to(device)
    return lambda: config.penalty_weight * expected_cost(net.architecture, placed)
