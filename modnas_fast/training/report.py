"""The training report: what one or several trainings did, as one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modnas_fast.errors import ModnasError
from modnas_fast.networks.weights import read_safetensors
from modnas_fast.runs.log import Series, read_log
from modnas_fast.search.report import read_run_config, write_page
from modnas_fast.search.report_figures import as_svg, curve, new_figure
from modnas_fast.search.report_page import (
    GENERATOR,
    NONE,
    configuration,
    differing_settings,
    duration,
    table,
    tiles,
)
from modnas_fast.search.report_style import Page
from modnas_fast.training.loop import CHECKPOINT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TRAINING, _VALIDATION, _RATE = "train/psnr", "validation/psnr", "train/lr"


@dataclass(frozen=True)
class Run:
    """One training: its name, configuration, log by tag, and the step and seconds of training that it has reached."""

    name: str
    config: Mapping[str, Any]
    log: Mapping[str, Series]
    step: int
    seconds: float

    @property
    def validations(self) -> dict[str, Series]:
        """PSNR of the averaged weights, by level: " at 25", or "" where there is only one."""
        return {
            f" at {tag.removeprefix(_VALIDATION).lstrip('_')}" if tag != _VALIDATION else "": series
            for tag, series in self.log.items()
            if tag.startswith(_VALIDATION)
        }


def is_training(folder: str | os.PathLike[str]) -> bool:
    """Whether a run folder is a training's, by its configuration."""
    config = Path(folder) / "config.json"
    return config.exists() and "genotype" in read_run_config(config)


def write_training_report(folders: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]) -> None:
    """Write the report of one training, or of several side by side; atomic.

    Args:
        folders: of `train`'s runs, finished or not.
        path: the page. An earlier report is replaced, any other file is not.

    Raises:
        ModnasError: a folder is no training's, a file is broken, `path` is not ours to replace, or matplotlib or
            TensorBoard is missing.
    """
    runs = [_load_run(Path(folder)) for folder in folders]
    names = [run.name for run in runs]
    page = Page()
    page.add(
        f'<header class="run">\n<p class="kind">Training report</p>\n<h1>{escape(", ".join(names))}</h1>\n</header>'
    )
    if len(runs) == 1:
        page.add(tiles(_key_figures(runs[0])))
        page.add(configuration(runs[0].config))
    else:
        figures = [{label: (value, note) for label, value, note in _key_figures(run)} for run in runs]
        labels = dict.fromkeys(label for run in figures for label in run)
        page.add(table(names, {label: [run.get(label, (NONE, "")) for run in figures] for label in labels}))
        page.add(differing_settings(names, [run.config for run in runs]))
    if any(run.log for run in runs):
        caption = (
            "Of the averaged weights on the validation folder at each level, by the paper’s protocol; faint, of the "
            "training patches, a running mean."
        )
        page.figure("PSNR over the steps", psnr_chart(runs), caption, 2)
    write_page(path, page.document(f"Training report: {', '.join(names)}", GENERATOR))


@as_svg
def psnr_chart(runs: Sequence[Run]) -> Figure:
    """PSNR over the steps: validation at each level, and of a single run, or where there is no other, of training."""
    figure = new_figure(3.3)
    axes = figure.add_axes((0.065, 0.14, 0.92, 0.82))
    values: list[float] = []
    index = 0
    for run in runs:
        prefix = f"{run.name}, " if len(runs) > 1 else ""
        if _TRAINING in run.log and (len(runs) == 1 or not run.validations):
            curve(axes, *run.log[_TRAINING], f"{prefix}training patches", index, faint=True)
            values += run.log[_TRAINING][1]
        for level, series in run.validations.items():
            curve(axes, *series, f"{prefix}validation{level}", index)
            values += series[1]
            index += 1
        index += not run.validations
    finite = sorted(filter(math.isfinite, values))
    if finite:
        low, high = finite[len(finite) // 50], finite[-1]  # the first steps would else take most of the axis
        margin = max(0.05 * (high - low), 0.05)
        axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(left=0)
    axes.set_xlabel("step")
    axes.set_ylabel("PSNR, dB")
    axes.grid(axis="y")
    axes.legend(loc="best")
    return figure


def _load_run(folder: Path) -> Run:
    if not is_training(folder):
        raise ModnasError(f"{folder}: not a training's run folder; trainings and searches have reports of their own")
    step, seconds = 0, 0.0
    if (folder / CHECKPOINT).exists():
        state = json.loads(read_safetensors(folder / CHECKPOINT)[1]["state"])
        step, seconds = state["step"], state["elapsed"]
    return Run(folder.resolve().name, read_run_config(folder / "config.json"), read_log(folder), step, seconds)


def _key_figures(run: Run) -> list[tuple[str, str, str]]:
    """(label, value, note) of what the run has reached."""
    config = run.config
    budget = f"of {config['steps']:,}" if config.get("steps") else f"of {config.get('minutes', 0):g} min"
    batch = f"{config['batch']} patch{'es' * (config['batch'] != 1)} of {config['patch']} × {config['patch']} a step"
    if growth := config.get("patch_growth"):
        batch += f", as many pixels of {', '.join(map(str, growth))} before"
    figures = [("Steps", f"{run.step:,} {budget}" if config.get("steps") else f"{run.step:,}", batch)]
    for level, (steps, values) in run.validations.items():
        best, at = max(zip(values, steps, strict=True))
        figures.append((f"Validation PSNR{level}", f"{values[-1]:.3f} dB", f"best {best:.3f} dB, step {at:,}"))
    if _TRAINING in run.log:
        rate = f"learning rate {run.log[_RATE][1][-1]:.2g}" if _RATE in run.log else ""
        figures.append(("Training PSNR", f"{run.log[_TRAINING][1][-1]:.2f} dB", rate))
    pace = f"{run.step * config['batch'] / run.seconds:.1f} patches a second" if run.seconds else ""
    figures.append(("Time", duration(run.seconds), pace))
    return figures
