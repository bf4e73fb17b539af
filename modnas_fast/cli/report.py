"""Write the report of a search or a training, or of several side by side, as one HTML page (extra `plot`)."""

from __future__ import annotations

import argparse
from pathlib import Path

from modnas_fast.errors import ModnasError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders, finished or not: of searches, or of trainings"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the page (RUN/report.html; needed for several runs)")


def run(arguments: argparse.Namespace) -> int:
    from modnas_fast.search.report import write_report
    from modnas_fast.training.report import is_training, write_training_report

    if arguments.output is None and len(arguments.runs) > 1:
        raise ModnasError("several runs share no folder; say with -o where their report goes")
    output = arguments.output or Path(arguments.runs[0]) / "report.html"
    (write_training_report if is_training(arguments.runs[0]) else write_report)(arguments.runs, output)
    print(output)
    return 0
