"""The search report's HTML: key figures, warnings, configuration, and the figures with what they show."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import Genotype
from modnas_fast.search.history import NORMAL_LAYERS
from modnas_fast.search.monitor import collapse_warnings
from modnas_fast.search.report_figures import Run, cost_chart, decision_chart, network_drawing, psnr_chart
from modnas_fast.search.report_latency import latency_section
from modnas_fast.search.report_maps import alpha_map, alpha_table, beta_chart, gamma_map
from modnas_fast.search.report_style import Page

GENERATOR = '<meta name="generator" content="modnas-fast report">'
NONE = "–"
_BY_GAMMA = (
    "Layer ℓ is Σ p·L over its block’s input L0, the layers before it, and its own mixture. Where another row than "
    "“own” is the darkest at the end, the derived network skips the layer."
)
_BY_SKIPS = (
    "Layer ℓ is the skip candidate’s weight times the layer before it, plus all operations together (“own”). The "
    "derived network skips the layer where the skip’s weight exceeds every single operation’s."
)


def render_report(runs: Sequence[Run]) -> str:
    """The page's HTML.

    Raises:
        ModnasError: no run, or matplotlib is missing.
    """
    if not runs:
        raise ModnasError("a report needs at least one run")
    runs = _with_distinct_names(runs)
    page = Page()
    if len(runs) > 1:
        _add_comparison(page, runs)
    for run in runs:
        _add_run(page, run, level=1 if len(runs) == 1 else 2)
    title = f"Search report: {', '.join(run.name for run in runs)}"
    return page.document(title, GENERATOR)


def _add_comparison(page: Page, runs: Sequence[Run]) -> None:
    page.add(f"<header>\n<h1>{len(runs)} searches compared</h1>\n</header>")
    for run in runs:
        if run.history:
            page.add(_warnings_box(run, f"{run.name}: "))
    labels = list(dict.fromkeys(label for run in runs for label, _, _ in _key_figures(run)))
    figures = {run.name: {label: (value, note) for label, value, note in _key_figures(run)} for run in runs}
    names = [run.name for run in runs]
    page.add(table(names, {label: [figures[name].get(label, (NONE, "")) for name in names] for label in labels}))
    page.add(differing_settings(names, [run.config for run in runs]))
    if any(run.history for run in runs):
        _add_curves(page, runs, level=2)


def differing_settings(names: Sequence[str], configurations: Sequence[Mapping[str, Any]]) -> str:
    """A table of what runs were told differently, under a heading; empty where that is nothing."""
    keys = dict.fromkeys(key for configuration in configurations for key in configuration if key != "output")
    settings = {str(key): [(_value(one.get(key, "")), "") for one in configurations] for key in keys}
    differing = {key: values for key, values in settings.items() if len(set(values)) > 1}
    return "<h2>Settings that differ</h2>\n" + table(names, differing) if differing else ""


def table(names: Sequence[str], rows: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """A column a run, and rows of (value, note); empty without rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = ""
    for label, cells in rows.items():
        columns = "".join(f"<td>{escape(value)} <small>{escape(note)}</small></td>" for value, note in cells)
        body += f"<tr><th>{escape(label)}</th>{columns}</tr>\n"
    return f'<div class="wide"><table>\n<tr><th></th>{head}</tr>\n{body}</table></div>'


def _add_run(page: Page, run: Run, level: int) -> None:
    kind = '<p class="kind">Search report</p>\n' if level == 1 else ""
    page.add(f'<header class="run">\n{kind}<h{level}>{escape(run.name)}</h{level}>\n</header>')
    if not run.history:
        page.add('<p class="box">No epoch is finished yet: the curves begin with the first.</p>')
    else:
        page.add(_warnings_box(run))
    page.add(tiles(_key_figures(run)))
    page.add(configuration(run.config))
    if run.history:
        _add_curves(page, [run], level + 1)
    page.add(latency_section(run, level + 1))
    if run.moving:
        _add_choices(page, run, level + 1)
    elif run.history:
        page.add(
            '<p class="box">So far W alone is trained, and α, β and γ stand where they started. What they choose is '
            "shown from the first epoch in which they move.</p>"
        )


def _warnings_box(run: Run, prefix: str = "") -> str:
    found = collapse_warnings(run.history)
    if not found:
        blind = "" if run.series("validation_psnr")[0] else " Without validation it does not watch the PSNR."
        return f'<p class="box good">{escape(prefix)}The collapse monitor sees nothing wrong.{blind}</p>'
    items = "".join(f"<li>{escape(warning)}</li>" for warning in found.values())
    return f'<div class="box bad" role="alert"><strong>{escape(prefix)}Collapse monitor</strong><ul>{items}</ul></div>'


def _key_figures(run: Run) -> list[tuple[str, str, str]]:
    """(label, value, note) of the last epoch; none before the first."""
    if not run.history:
        return []
    last = run.history[-1]
    total = run.config.get("epochs")
    phase = "W alone is trained" if last["phase"] == "weights" else "W and A alternate"
    figures = [("Epoch", f"{last['epoch']} of {total}" if total else str(last["epoch"]), phase)]
    epochs, validated = run.series("validation_psnr")
    if finite := [(value, epoch) for epoch, value in zip(epochs, validated, strict=True) if math.isfinite(value)]:
        best, at = max(finite, key=lambda pair: pair[0])
        figures.append(("Validation PSNR", f"{validated[-1]:.2f} dB", f"best {best:.2f} dB, epoch {at}"))
    figures.append(("Training PSNR", f"{last['train_psnr']:.2f} dB", f"learning rate {last['rate']:.2g}"))
    if last["genotype"] is not None and run.moving:
        stages = run.config.get("stages")
        figures.append(("Parameters", f"{last['parameters']:,}", f"derived now{f', T = {stages}' if stages else ''}"))
        figures.append(("MACs", f"{last['macs_with_bias'] / 1e9:.3f} G", "at 48×48, the paper’s FLOPs"))
        kept = round((1 - last["skipped_layers"]) * NORMAL_LAYERS)
        figures.append(("Normal layers", f"{kept} of {NORMAL_LAYERS}", f"{last['skipped_layers']:.0%} skipped"))
    if run.moving:
        figures.append(("α entropy", f"{last['alpha_entropy']:.2f}", "1 undecided, 0 decided"))
    spent = sum(record["seconds"] for record in run.history)
    left = f", {duration((total - last['epoch']) * last['seconds'])} left" if total and total > last["epoch"] else ""
    figures.append(("Time", duration(spent), f"{duration(last['seconds'])} an epoch{left}"))
    return figures


def tiles(figures: Sequence[tuple[str, str, str]]) -> str:
    """(label, value, note) as large figures; empty without any."""
    entries = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for label, value, note in figures
    )
    return f'<dl class="tiles">{entries}</dl>' if entries else ""


def duration(seconds: float) -> str:
    """ "12.3 s", "4 min 05 s" or "2 h 07 min"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60 // 1:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"


def configuration(config: Mapping[str, Any]) -> str:
    """All keys and values; empty without any."""
    if not config:
        return ""
    entries = "".join(
        f"<div><dt>{escape(str(key))}</dt><dd>{escape(_value(value))}</dd></div>" for key, value in config.items()
    )
    return f'<details open><summary>Configuration</summary><dl class="configuration">{entries}</dl></details>'


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    return value or NONE if isinstance(value, str) else json.dumps(value)


def _add_curves(page: Page, runs: Sequence[Run], level: int) -> None:
    page.figure(
        "PSNR of the supernet",
        psnr_chart(runs),
        "Per epoch, as in the paper’s Fig. 3. In the shaded epochs W alone is trained. More than 8 dB below the best "
        "is cut off.",
        level,
    )
    if not any(run.moving for run in runs):
        return
    page.figure(
        "How decided the search is",
        decision_chart(runs),
        "Left: mean of −Σ ω ln ω / ln K over all layers, 1 while all operations count the same and 0 when one is left. "
        "Right: share of the 21 normal layers that the network derived at that epoch does without.",
        level,
    )
    page.figure(
        "Size of the derived network",
        cost_chart(runs),
        "Of the network that would be derived at each epoch, all stages. MACs count one for each bias, as the paper’s "
        "FLOPs do.",
        level,
    )


def _add_choices(page: Page, run: Run, level: int) -> None:
    last = run.history[-1]
    page.figure(
        "Operations over the epochs",
        alpha_map(run),
        "Each layer’s leading operation by colour, and how far it leads by strength: white is an even share, full "
        "colour a weight of 1. At the right, who leads now and with which weight. Layers in grey are not in the "
        "derived network.",
        level,
    )
    page.figure(
        f"Operations after epoch {last['epoch']}",
        alpha_table(last),
        "Weights ω = softmax(α), the largest of a layer in bold. Layers in grey are not in the derived network.",
        level,
    )
    by_skips = run.config.get("depth_search") == "skip"
    page.figure("Depth over the epochs", gamma_map(run), _BY_SKIPS if by_skips else _BY_GAMMA, level)
    if any(record["beta"] is not None for record in run.history):
        page.figure(
            "Width: distribution of β",
            beta_chart(run),
            "The gates of every layer’s leading operation, all channels (the paper’s Fig. 2a). They start at 1; "
            "deriving drops the channels whose gates are nearest 0. Counts at the right are shaded logarithmically.",
            level,
        )
    if last["genotype"] is not None:
        genotype = Genotype.from_json(json.dumps(last["genotype"]))
        drawing = network_drawing(replace(genotype, name=f"{run.name}, epoch {last['epoch']}"))
        page.figure("The network derived now", drawing, "One stage; all stages share it.", level, broad=True)


def _with_distinct_names(runs: Sequence[Run]) -> list[Run]:
    """Runs of the same name are numbered."""
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} ({names[: index + 1].count(run.name)})") if names.count(run.name) > 1 else run
        for index, run in enumerate(runs)
    ]
