"""Write a trained network as one file that runs without this package: ONNX, or a PyTorch exported program.

Either takes float32 [batch, channels, height, width] in [0, 1] with any batch, height and width of at least 1, and
gives the estimates, not clipped. A model for every σ has a second input, `sigma`: float32 [batch], 0–255 scale. The
metadata in the file say what the model is for. ONNX needs the extra `onnx`.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped model (see `modnas-fast models`) or a weight file")
    parser.add_argument("--format", default="onnx", metavar="onnx|torch", help="onnx (default), or torch for .pt2")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the file: .onnx or .pt2")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.engine.export import export_model

    export_model(arguments.model, arguments.format, arguments.output, arguments.overwrite)
    print(arguments.output)
    return 0
