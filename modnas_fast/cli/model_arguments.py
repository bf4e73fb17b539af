"""The arguments that every verb with a model takes."""

from __future__ import annotations

import argparse

from modnas_fast.errors import ModnasError


def add_model_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """`several`: the verb can use all GPUs at once."""
    devices = "auto (CUDA where there is one), cpu, cuda or cuda:N" + "; cuda:all for all GPUs" * several
    parser.add_argument(
        "--model",
        metavar="NAME|PATH",
        help="a shipped model (see `modnas-fast models`) or a weight file; default: the one for this noise",
    )
    parser.add_argument("--device", default="auto", help=devices)
    parser.add_argument("--tile", default="auto", metavar="auto|N", help="side of a tile in pixels; 0 for no tiling")
    parser.add_argument("--x8", action="store_true", help="average over 8 flips and rotations: slower, slightly better")


def tile_size(text: str) -> str | int:
    """`--tile`'s value.

    Raises:
        ModnasError: neither "auto" nor a whole number.
    """
    if text == "auto":
        return text
    if not text.isdecimal():
        raise ModnasError(f"--tile is {text!r}; give auto, or a side in pixels")
    return int(text)
