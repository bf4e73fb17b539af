"""The collapse monitor: what in a search's history looks like a collapse, from the records alone.

Differentiable searches collapse in known ways. Operations that train fastest win before the others are trained: in
DARTS the parameter-free skip connection (DARTS+, arXiv 1909.06035; P-DARTS, arXiv 1904.12760), long before the
supernet's loss tells (RobustDARTS, arXiv 1909.09656). This search space has no skip candidate. In its place are the
depth search, which can drop layers by γ, and the depthwise operations, with a fraction of the others' weights. And the
supernet itself can fall apart late, as the common NAS of the paper's Fig. 3 does after epoch 100. `Thresholds` says
what is looked for, and why there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from modnas_fast.genotype import PRIMITIVES
from modnas_fast.search.history import NORMAL_LAYERS, layer_kind

Record = Mapping[str, Any]

_TINY = 1e-6  # the records round to six digits
_CHEAP = tuple(op for op in PRIMITIVES["normal"] if op.startswith(("sep_conv", "dil_conv")))


@dataclass(frozen=True)
class Thresholds:
    """When the monitor speaks.

    Args:
        patience: epochs in a row, up to the last, that a state must hold: a single noisy epoch is no collapse.
        psnr_drop: dB of validation PSNR below its best. A healthy supernet's curve moves by tenths of a dB between
            epochs (Fig. 3, blue), the collapsing one's by several dB (orange).
        skipped: share of the normal layers that the derived network does without. The published networks skip 7 and 6
            of 21; beyond two thirds a block keeps less than one of its three layers on average.
        skip_lead: ln of the weight that a skipped layer's source has over the layer's own, on average over those
            layers: below it, skips are ties that the first steps happened to break. Adam at rate 1e-3 takes 100 steps
            in one direction for 0.1.
        entropy_drop, entropy_epochs: fall of the mean α entropy (1 to 0) over so many epochs. At the paper's 167
            A-steps an epoch and rate 1e-3, Adam moves an α by 0.17 an epoch at most: a mean fall of 0.4 in 5 epochs
            takes every layer racing at that limit in one direction, as trained operations do not. With many more steps
            an epoch, allow more.
        uniform, uniform_weight: share of the normal layers in which one and the same depthwise operation leads, and the
            mean ω that it leads with there: twice an even share of the 7, so that ties at the start do not count.
    """

    patience: int = 3
    psnr_drop: float = 1.0
    skipped: float = 2 / 3
    skip_lead: float = 0.1
    entropy_drop: float = 0.4
    entropy_epochs: int = 5
    uniform: float = 0.9
    uniform_weight: float = 2 / 7


def collapse_warnings(history: Sequence[Record], thresholds: Thresholds | None = None) -> dict[str, str]:
    """What is wrong with a search, by kind, the gravest first; nothing where it looks healthy.

    Args:
        history: `read_history`'s records.
        thresholds: None for the defaults.

    Returns:
        Of "values", "psnr", "skips", "entropy" and "uniform" those found, each with a line: what is seen, the figure,
        since which epoch, and what to do.
    """
    limits = thresholds or Thresholds()
    # In the weights phase α and γ stand where they started: neither decided nor collapsed.
    alternate = [record for record in history if record["phase"] == "alternate"]
    found = {
        "values": _not_finite(history),
        "psnr": _psnr_drop(history, limits),
        "skips": _skipped_layers(alternate, limits),
        "entropy": _entropy_drop(alternate, limits),
        "uniform": _cheap_everywhere(alternate, limits),
    }
    return {kind: warning for kind, warning in found.items() if warning}


def _not_finite(history: Sequence[Record]) -> str | None:
    bad = [record["epoch"] for record in history if not all(map(math.isfinite, _numbers(record)))]
    if not bad:
        return None
    epochs = f"epoch {bad[0]}" if len(bad) == 1 else f"{len(bad)} epochs since epoch {bad[0]}"
    return (
        f"NaN or infinite values in {epochs}: what follows from them means nothing. Go on from a checkpoint before "
        f"epoch {bad[0]} with a lower lr, or with precision fp32."
    )


def _numbers(record: Record) -> Iterator[float]:
    """Every figure that training brought about."""
    yield record["train_psnr"]
    if record["validation_psnr"] is not None:
        yield record["validation_psnr"]
    for weights in (*record["alpha"].values(), *record["gamma"].values()):
        yield from weights
    yield math.nan if record["beta"] is None else 0.0


def _psnr_drop(history: Sequence[Record], limits: Thresholds) -> str | None:
    validated = [record for record in history if math.isfinite(_psnr(record))]
    if not validated:
        return None
    best = max(validated, key=_psnr)
    floor = _psnr(best) - limits.psnr_drop
    low = _streak(validated, lambda record: _psnr(record) < floor)
    if len(low) < limits.patience:
        return None
    now, top, at = _psnr(low[-1]), _psnr(best), best["epoch"]
    return (
        f"The supernet's validation PSNR is {now:.2f} dB, {top - now:.2f} dB below its best ({top:.2f} dB in epoch "
        f"{at}), and has been more than {limits.psnr_drop:g} dB below since epoch {low[0]['epoch']}: mode collapse. "
        f"Take epoch {at}'s genotype, which the history holds, or search again with a lower lr or, if it was off, with "
        "model_guide."
    )


def _psnr(record: Record) -> float:
    """The validation PSNR; NaN where the epoch had none."""
    value = record["validation_psnr"]
    return math.nan if value is None else float(value)


def _skipped_layers(alternate: Sequence[Record], limits: Thresholds) -> str | None:
    def is_shallow(record: Record) -> bool:
        share = record["skipped_layers"]
        return share is not None and share > limits.skipped and _skip_lead(record) >= limits.skip_lead

    shallow = _streak(alternate, is_shallow)
    if len(shallow) < limits.patience:
        return None
    share, since = shallow[-1]["skipped_layers"], shallow[0]["epoch"]
    return (
        f"Skips dominate: the network derived now does without {round(share * NORMAL_LAYERS)} of its {NORMAL_LAYERS} "
        f"normal layers ({share:.0%}; since epoch {since} more than {limits.skipped:.0%}). γ goes to what is there "
        "before the layers are trained: search again with more warmup_epochs or a lower lr."
    )


def _skip_lead(record: Record) -> float:
    """Mean, over the skipped layers, of ln(weight of the source / weight of what the layer would be)."""
    # No softmax of γ is exactly 0 at L⁰: then the skip is a candidate, whose rival is the layer's leading operation.
    skippable = any(p[0] == 0 for p in record["gamma"].values())
    leads = []
    for name, p in record["gamma"].items():
        own = p[-1] * max(record["alpha"][name]) if skippable else p[-1]
        if max(p[:-1]) > own:
            leads.append(math.log(max(p[:-1]) / max(own, _TINY)))
    return sum(leads) / len(leads) if leads else 0.0


def _entropy_drop(alternate: Sequence[Record], limits: Thresholds) -> str | None:
    """The first fall that is too fast and was not made good since."""
    span = limits.entropy_epochs
    for index, after in enumerate(alternate):
        before = alternate[max(0, index - span)]
        high, low = before["alpha_entropy"], after["alpha_entropy"]
        if high - max(record["alpha_entropy"] for record in alternate[index:]) > limits.entropy_drop:
            return (
                f"α was decided too fast: its entropy fell from {high:.2f} to {low:.2f} between epochs "
                f"{before['epoch']} and {after['epoch']} (more than {limits.entropy_drop:g} within {span} epochs), "
                "before the operations could be compared. Search again with more warmup_epochs or a lower lr."
            )
    return None


def _cheap_everywhere(alternate: Sequence[Record], limits: Thresholds) -> str | None:
    uniform = _streak(alternate, lambda record: _leader(record, limits) is not None)
    if len(uniform) < limits.patience:
        return None
    leader = _leader(uniform[-1], limits)
    assert leader is not None
    op, count, weight = leader
    return (
        f"One cheap operation leads nearly everywhere: {op} in {count} of {NORMAL_LAYERS} normal layers, with a mean "
        f"weight of {weight:.2f} (since epoch {uniform[0]['epoch']}). Few weights train fast, and that is not the "
        "same as being best: search again with more warmup_epochs or a lower lr."
    )


def _leader(record: Record, limits: Thresholds) -> tuple[str, int, float] | None:
    """The depthwise operation that leads nearly everywhere: its name, in how many layers, and its mean ω in those."""
    leading: dict[str, list[float]] = {}
    for name, weights in record["alpha"].items():
        if layer_kind(name) == "normal":
            strongest = max(range(len(weights)), key=weights.__getitem__)
            leading.setdefault(PRIMITIVES["normal"][strongest], []).append(weights[strongest])
    op, strengths = max(leading.items(), key=lambda entry: len(entry[1]))
    mean = sum(strengths) / len(strengths)
    everywhere = len(strengths) >= limits.uniform * NORMAL_LAYERS and mean >= limits.uniform_weight
    return (op, len(strengths), mean) if op in _CHEAP and everywhere else None


def _streak(records: Sequence[Record], holds: Callable[[Record], bool]) -> list[Record]:
    """The last records, up to the very last, for which `holds` is true; in order."""
    return list(takewhile(holds, reversed(records)))[::-1]
