"""List the models that come with the package."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the models' cards as a JSON list")


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.networks import shipped_models
    from modnas_fast.networks.weights import read_card

    cards = {path: read_card(path) for path in shipped_models().values()}
    if arguments.json:
        print(json.dumps(list(cards.values()), indent=2))
        return 0
    for path, card in cards.items():
        scores = ", ".join(f"{name} {score['psnr']:.2f} dB" for name, score in card["scores"].items())
        size = f"{card['parameters']:,} parameters, {path.stat().st_size / 1e6:.1f} MB"
        print(f"{card['name']}: {card['description']}; {size}; {scores}")
    return 0
