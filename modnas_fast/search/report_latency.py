"""The report's latency: what the derived network should take, and what such predictions were worth when measured."""

from __future__ import annotations

import json
from html import escape

from modnas_fast.genotype import Genotype
from modnas_fast.search.latency import LatencyTable, predict_latency
from modnas_fast.search.report_figures import Run


def latency_section(run: Run, level: int) -> str:
    """HTML with a heading and a table; empty for a run without a latency table."""
    table = run.latency
    if table is None:
        return ""
    where = table.settings
    about = (
        f"Measured on {where.machine} ({where.device}{table.cores}, torch {where.torch}) for one stage and a "
        f"{where.size}×{where.size} image, {where.date[:10]}. {_worth(table)}"
    )
    rows = "".join(
        f"<tr><td>{escape(network.network)}</td><td>{network.predicted_ms:.3f}</td>"
        f"<td>{network.median_ms:.3f} <small>{network.p20_ms:.3f}–{network.p80_ms:.3f}</small></td>"
        f"<td>{network.error:+.1%}</td></tr>\n"
        for network in table.validation
    )
    head = "<tr><th>Network</th><th>Predicted, ms</th><th>Measured, ms</th><th>Error</th></tr>\n"
    measured = f'<div class="wide"><table>\n{head}{rows}</table></div>\n' if rows else ""
    return (
        f"<h{level}>Predicted and measured latency</h{level}>\n<p>{_derived(run, table)}{escape(about)}</p>\n{measured}"
    )


def _derived(run: Run, table: LatencyTable) -> str:
    """The derived network's own prediction, a sentence; empty before there is a network."""
    genotype = run.history[-1]["genotype"] if run.history else None
    if genotype is None:
        return ""
    stages = int(run.config.get("stages", 1))
    predicted = predict_latency(Genotype.from_json(json.dumps(genotype)), table, stages)
    return f"The network derived now, T = {stages}: <strong>{predicted:.3g} ms</strong> predicted. "


def _worth(table: LatencyTable) -> str:
    if table.mean_error is None:
        return "No whole network was measured: modnas-fast profile-ops --validate 6 tells what predictions are worth."
    return f"Predictions of networks that the table has not seen err by {table.mean_error:.1%} on average."
