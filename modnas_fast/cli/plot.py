"""Draw one stage of a genotype, like the paper's Fig. 2(c), as SVG or PNG (needs matplotlib: the extra `plot`)."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("genotype", metavar="GENOTYPE", help="published name, or a JSON file")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the drawing: .svg or .png")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.genotype import Genotype
    from modnas_fast.networks.plot import save_plot

    save_plot(Genotype.load(arguments.genotype), arguments.output, overwrite=arguments.overwrite)
    print(arguments.output)
    return 0
