"""Measure: the paper's tables on this machine, our own benchmarks, two results files compared, results as a page."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modnas_fast.errors import ModnasError

if TYPE_CHECKING:
    from modnas_fast.bench.verdicts import Line

_CHECKOUT = Path(__file__).parents[2]
_OF_CHECKOUT = {
    "ops": ("bench_kernels", "the Triton ops against PyTorch, eager and compiled (needs a GPU)"),
    "supernet": ("bench_supernet", "a search step, by backend and precision"),
    "engine": ("bench_engine", "the compiled engine against PyTorch and other runtimes"),
    "search": ("bench_search", "a search as it runs, and what the whole protocol would take"),
    "train": ("bench_train", "training steps, by precision"),
    "recipe": ("bench_recipe", "what each lever of the training recipe is worth, in dB"),
    "gate": ("gate", "the ratios that must hold, in about a minute; fails where one does not"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    summary = "the paper's Tables 1, 2, 5 and 6 beside what is measured here"
    paper = what.add_parser(
        "paper",
        help=summary,
        description=f"Measure {summary}. Times are of Urban100 at sigma 25, image by image; the same command goes on "
        "after an interruption. A results file has one device, one number of threads and one size of images.",
    )
    paper.add_argument(
        "--data", nargs="+", default=[], metavar="DIR", help="folders called Set12, BSD68, Urban100, LIVE1; or NAME=DIR"
    )
    paper.add_argument("--images", type=_positive, metavar="N", help="of Urban100, spread over it (all)")
    paper.add_argument("--crop", type=_positive, metavar="P", help="the middle P x P pixels of Urban100's (whole)")
    paper.add_argument("--networks", nargs="+", metavar="NAME", help="all of Table 2 but BM3D, and four of today")
    paper.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="NAME[@LEVEL]=FILE",
        help="trained networks to score, at sigma (25) or on LIVE1 at JPEG quality 20",
    )
    paper.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu, cuda or cuda:N")
    paper.add_argument("-o", "--output", type=Path, metavar="FILE", help="the rows (paper-MACHINE.json)")
    compare = what.add_parser("compare", help="two results files, row by row")
    compare.add_argument("before", metavar="A")
    compare.add_argument("after", metavar="B")
    report = what.add_parser("report", help="results as one HTML page, or as Markdown (extra `plot`)")
    report.add_argument("results", nargs="*", type=Path, metavar="FILE|DIR", help="results (the checkout's)")
    report.add_argument("-o", "--output", type=Path, default=Path("benchmarks.html"), metavar="FILE", help=".html, .md")
    report.add_argument("--readme", type=Path, metavar="FILE", help="also renew the tables between its markers")
    for name, (module, help_) in _OF_CHECKOUT.items():
        own = what.add_parser(name, help=f"{help_}; in a checkout", add_help=False, prefix_chars="\0")
        own.add_argument("arguments", nargs="*", metavar="ARGUMENT", help=f"of python -m benchmarks.{module}")


def run(arguments: argparse.Namespace) -> int:
    if arguments.what in _OF_CHECKOUT:
        return _run_of_checkout(arguments.what, arguments.arguments)
    return {"paper": _paper, "compare": _compare, "report": _report}[arguments.what](arguments)


def _run_of_checkout(name: str, arguments: Sequence[str]) -> int:
    module = _OF_CHECKOUT[name][0]
    if not (_CHECKOUT / "setup.py").exists() or not (_CHECKOUT / "benchmarks" / f"{module}.py").exists():
        raise ModnasError(
            f"bench {name} is benchmarks/{module}.py, which only a checkout of the repository has; run it there "
            "(bench paper, compare and report run anywhere)"
        )
    paths = os.pathsep.join(filter(None, (str(_CHECKOUT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "benchmarks", module, *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}).returncode


def _paper(arguments: argparse.Namespace) -> int:
    from modnas_fast.bench.contenders import NETWORKS, SCORED_ONLY, check_name, weight_files
    from modnas_fast.bench.paper import Request, measure_paper
    from modnas_fast.bench.rows import machine_name
    from modnas_fast.bench.tables import times_table
    from modnas_fast.bench.verdicts import LEGEND, verdict_lines
    from modnas_fast.cli.progress import ProgressLine
    from modnas_fast.networks.device import choose_device

    networks = list(map(check_name, arguments.networks or NETWORKS))
    if not arguments.networks:  # what is only scored is asked for by its weights
        networks += [
            name for name in SCORED_ONLY if any(text.startswith((f"{name}@", f"{name}=")) for text in arguments.weights)
        ]
    request = Request(
        data=dict(map(_data_set, arguments.data)),
        networks=networks,
        weights=weight_files(arguments.weights, networks),
        device=choose_device(arguments.device),
        images=arguments.images,
        crop=arguments.crop,
    )
    output = arguments.output or Path(f"paper-{machine_name()}.json")
    progress = ProgressLine()
    rows = measure_paper(request, output, progress.update)
    progress.clear()
    lines = verdict_lines(rows)
    for text in _table(lines):
        print(text)
    times = times_table(rows, lines)
    if times.rows:
        print(f"\n{times.title}\n{times.text()}\n{times.note}")
    print(f"\n{LEGEND}\n{output}")
    return 0


def _table(lines: Sequence[Line]) -> list[str]:
    """What was measured, a line each; what was not, by table and reason."""
    shown = [line for line in lines if line.measured is not None]
    texts = [f"{'':8} {'':24} {'':30} {'paper':>9} {'here':>9}"]
    for line in shown:
        figures = f"{line.paper:9.4g} {line.measured:9.4g}"
        texts.append(f"{line.table:8} {line.network:24} {line.quantity:30} {figures}  {line.verdict:12}  {line.note}")
    left: dict[tuple[str, str], int] = {}
    for line in lines:
        if line.measured is None:
            key = (line.table, line.note)
            left[key] = left.get(key, 0) + 1
    texts += [f"{table:8} {count} figures not measured: {reason}" for (table, reason), count in left.items()]
    return texts


def _data_set(text: str) -> tuple[str, Path]:
    """(set, folder) of "DIR/Set12" or "Set12=DIR"."""
    from modnas_fast.bench.paper import SETS

    name, equals, folder = text.partition("=")
    path = Path(folder if equals else text)
    known = {known.lower(): known for known in SETS}
    key = (name if equals else path.resolve().name).lower()
    if key not in known:
        raise ModnasError(f"--data {text}: not one of {', '.join(SETS)}; say which with NAME=DIR")
    if not path.is_dir():
        raise ModnasError(f"--data {text}: no such folder")
    return known[key], path


def _compare(arguments: argparse.Namespace) -> int:
    from modnas_fast.bench.compare import compare, left_out, table
    from modnas_fast.bench.rows import read_rows

    before, after = read_rows(arguments.before), read_rows(arguments.after)
    differences, alone = compare(before, after), left_out(before, after)
    if not differences:
        why = alone or "neither has any"
        raise ModnasError(f"{arguments.before} and {arguments.after} have no timed row in common ({why})")
    for line in table(differences):
        print(line)
    if alone:
        print(alone)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from modnas_fast.bench.report import load_results, renew_readme, write_report

    if not arguments.results and not (_CHECKOUT / "benchmarks" / "results").is_dir():
        raise ModnasError("this installation has no results of its own; name a results file or a folder of them")
    rows = load_results(arguments.results or [_CHECKOUT / "benchmarks" / "results"])
    write_report(rows, arguments.output)
    print(arguments.output)
    if arguments.readme:
        renew_readme(arguments.readme, rows)
        print(arguments.readme)
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
