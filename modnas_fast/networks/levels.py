"""Which network is for which noise: the shipped ones for a level, and a given one at it."""

from __future__ import annotations

from typing import Any

import numpy as np

from modnas_fast.errors import ModnasError
from modnas_fast.images.degradations import Degradation, as_level
from modnas_fast.images.noise import estimate_coarse_sigma, estimate_sigma
from modnas_fast.networks.conditioned import ConditionedNet
from modnas_fast.networks.derived import DerivedNet
from modnas_fast.networks.weights import read_card, shipped_models

Array = np.ndarray[Any, np.dtype[Any]]


def models_for(kind: str, level: float | None, channels_in: int | None = None) -> list[str]:
    """The shipped models for a degradation, by name.

    Args:
        kind: as `Degradation`'s.
        level: one that they were trained for, or None for those that are told it.
        channels_in: 1, 3, or None for both.
    """

    def fits(trained_for: Degradation) -> bool:
        return trained_for.kind == kind and trained_for.between if level is None else trained_for.covers(kind, level)

    return [
        name
        for name, (trained_for, channels) in _shipped().items()
        if fits(trained_for) and channels_in in (None, channels)
    ]


def _shipped() -> dict[str, tuple[Degradation, int]]:
    """What each shipped model was trained for, and its image channels."""
    cards = {name: read_card(path) for name, path in shipped_models().items()}
    return {
        name: (Degradation.from_mapping(card["degradation"]), int(card["channels_in"])) for name, card in cards.items()
    }


def suggestion(sigma: float | None) -> str:
    """What to do about noise of σ (0–255 scale; None: of every σ) instead, for the end of an error."""
    shipped, names = _shipped(), models_for("awgn", sigma)
    if names:
        return "use " + " or ".join(f"{name} ({'RGB' if shipped[name][1] == 3 else 'gray'})" for name in names)
    levels = [level for trained, _ in shipped.values() if trained.kind == "awgn" for level in trained.levels]
    return f"give a σ from {min(levels):g} to {max(levels):g}, for which there are shipped models, gray and RGB"


def check_level(sigma: float | None, trained_for: Degradation | None, name: str, told: bool = False) -> None:
    """Raise `ModnasError` if σ (0–255 scale) is no level, or, with what to use instead, if a network is not for it.

    Args:
        sigma: None asks nothing.
        trained_for: None where it is unknown, which is any.
        name: what the error calls the network.
        told: it cannot run without a σ.
    """
    if sigma is None:
        return
    sigma = as_level(sigma)
    if trained_for is None or trained_for.takes(sigma):
        return
    anyway = "" if told else ", or leave sigma out to use this one all the same"
    raise ModnasError(f"model {name} was trained for {trained_for}, not for σ = {sigma:g}; {suggestion(sigma)}{anyway}")


def estimated_level(image: Array, trained_for: Degradation | None) -> float:
    """σ of an image's noise on the 0–255 scale, in steps of ½, as a network is told it.

    By `estimate_sigma`, or `estimate_coarse_sigma` for a network that was trained for the noise of cameras.

    Args:
        image: float [H, W, C] in [0, 1].
        trained_for: what the network was; σ stays within.
    """
    coarse = trained_for is not None and trained_for.kind == "camera"
    sigma = (estimate_coarse_sigma if coarse else estimate_sigma)(image)
    return within(round(2 * sigma) / 2, trained_for)


def within(sigma: float, trained_for: Degradation | None) -> float:
    """The nearest σ (0–255 scale) that a network for a range of them was trained for."""
    lowest, highest = trained_for.levels if trained_for and trained_for.between else (0.0, 255.0)
    return min(max(sigma, lowest), highest)


def plain_net(net: DerivedNet, sigma: float | None, name: str) -> DerivedNet:
    """`net`, or of one for every σ the plain network at `sigma` (0–255 scale); `name` is what errors call it.

    Raises:
        ModnasError: a σ that is none or that the network was not trained for, or none for one for every σ.
    """
    told = isinstance(net, ConditionedNet)
    if sigma is None:
        if not told:
            return net
        levels = f" ({net.degradation})" if net.degradation else ""
        raise ModnasError(f"model {name} is for every level of noise{levels} and has to be told: give sigma")
    check_level(sigma, net.degradation, name, told)
    return net.at(sigma) if isinstance(net, ConditionedNet) else net
