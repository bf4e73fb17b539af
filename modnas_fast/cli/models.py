"""List the models that come with the package."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the models' cards as a JSON list")


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.networks import shipped_models

    cards = [json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path in shipped_models().values()]
    if arguments.json:
        print(json.dumps(cards, indent=2))
        return 0
    for card in cards:
        scores = ", ".join(f"{name} {score['psnr']:.2f} dB" for name, score in card["scores"].items())
        print(f"{card['name']}: {card['description']}; {card['parameters']:,} parameters; {scores}")
    return 0
